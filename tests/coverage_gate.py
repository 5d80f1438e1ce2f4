"""Branch coverage from the data pytest left: >= 90 % overall, >= 98 % of the domain."""

import subprocess
import sys

GATES = (("the whole package", [], 90), ("vmsh_scheduler/domain", ["--include=*/vmsh_scheduler/domain/*"], 98))


def main() -> int:
    subprocess.run([sys.executable, "-m", "coverage", "combine", "-q"], check=False)
    failed = 0
    for name, options, gate in GATES:
        report = [sys.executable, "-m", "coverage", "report", "--skip-covered", f"--fail-under={gate}", *options]
        done = subprocess.run(report, capture_output=True, text=True, check=False)
        total = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr
        sys.stdout.write(f"branch coverage of {name}: {total.split()[-1]} (gate {gate}%)\n")
        if done.returncode:
            sys.stdout.write(done.stdout + done.stderr)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
