"""Branch coverage from the data pytest left: >= 90 % overall, >= 98 % of the domain."""

import subprocess
import sys

GATES = (("the whole package", [], 90), ("vmsh_scheduler/domain", ["--include=*/vmsh_scheduler/domain/*"], 98))


def main() -> int:
    """0 if every gate is held. pytest-cov has combined the data of all processes already."""
    failed = 0
    for name, options, gate in GATES:
        report = [sys.executable, "-m", "coverage", "report", "--format=total", "--precision=1", *options]
        done = subprocess.run(report, capture_output=True, text=True, check=False)
        total = float(done.stdout.strip() or 0)
        sys.stdout.write(f"branch coverage of {name}: {total} % (gate {gate} %) {done.stderr.strip()}\n")
        failed |= total < gate
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
