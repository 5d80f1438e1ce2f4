-- KEYS: quota:<key>:<window>  ARGV: ms to live. Counts and dates in one step, so none is left without an end.
local count = redis.call('INCR', KEYS[1])
if count == 1 or redis.call('PTTL', KEYS[1]) < 0 then redis.call('PEXPIRE', KEYS[1], ARGV[1]) end
return count
