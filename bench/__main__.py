"""`python -m bench`: run the suites, print one table each, and write the figures as JSON if asked."""

import argparse
import importlib
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

from bench import stamps
from bench.lab import Lab
from bench.report import Row, table, write_json

SUITES = ("lateness", "burst", "idle", "startup", "reload", "state", "agents", "redis", "anchors")


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        lab = Lab(Path(directory), options.secs, options.rounds, options.small)
        about = _about(lab, options)
        print("\n".join(f"{key}: {value}" for key, value in about.items()), flush=True)
        rows: list[Row] = []
        for name in options.only or SUITES:
            found = importlib.import_module(f"bench.suites.{name}").run(lab)
            print(table(found), flush=True)
            rows += found
        about["load at the end"] = os.getloadavg()[0]
    if options.json:
        write_json(rows, about, options.json)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=SUITES, metavar="SUITE", help=f"of {', '.join(SUITES)}")
    parser.add_argument("--secs", type=float, default=10, help="length of a timed window (60 for acceptance)")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds; medians are shown")
    parser.add_argument("--small", action="store_true", help="a tenth of the jobs: to try the bench itself")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    return parser.parse_args()


def _about(lab: Lab, options: argparse.Namespace) -> dict[str, object]:
    _, kind = stamps.build(lab.directory, lab.directory / "stamps")
    return {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cores": len(os.sched_getaffinity(0)),
        "load at the start": os.getloadavg()[0],
        "job": kind,
        "command": " ".join(sys.argv[1:]),
        "window": f"{options.secs:g} s, {options.rounds} rounds",
    }


if __name__ == "__main__":
    main()
