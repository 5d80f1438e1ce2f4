# Between posix_spawn and a command that needs more than posix_spawn can do. POSIX sh.
# $1 file for the command's stdin; given: fd 0 is the run record, whose flock this shell alone holds
# $2 directory  $3 umask  $4 CPU seconds  $5 address space KiB  $6 file size in 512 B  $7 open files
# $8 processes ("" = leave as it is)  $9... the command
_vmsh_in=$1
_vmsh_set() {
    [ -z "$4" ] || ulimit -t "$4" || exit 126
    [ -z "$5" ] || ulimit -v "$5" || exit 126
    [ -z "$7" ] || ulimit -n "$7" || exit 126
    [ -z "$8" ] || ulimit -p "$8" 2>/dev/null || ulimit -u "$8" || exit 126
    [ -z "$6" ] || ulimit -f "$6" || exit 126
    [ -z "$3" ] || umask "$3" || exit 126
    [ -z "$2" ] || cd "$2" || exit 126
    shift 8
    exec "$@"
}
[ -n "$_vmsh_in" ] || _vmsh_set "$@"
trap : TERM HUP INT
# Without this line in the record the run never began: so nothing may begin without it.
echo "S $$" >&0 || exit 125
exec 3>&2 2>/dev/null  # "Terminated" is this shell's word, not the command's
( _vmsh_set "$@" ) <"$_vmsh_in" 2>&3 3>&-
_vmsh_rc=$?
echo "$_vmsh_rc" >&0
exit "$_vmsh_rc"
