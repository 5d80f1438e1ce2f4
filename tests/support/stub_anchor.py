"""An anchor command for tests: `stub_anchor.py NAME [ARG...]`, run in a directory where it notes what it was given.

`behave/NAME.json` says what it does: `exit`, `stderr`, `result`, `hold` (it waits until that file is gone), `deaf` (to
TERM). Each call is written to `calls/<run id>.json`, with `ended` once it ends."""

import json
import os
import signal
import sys
import time
from pathlib import Path


def main() -> int:
    name = sys.argv[1]
    behaviour = _read(Path("behave") / f"{name}.json")
    if behaviour.get("deaf"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    call = {"argv": sys.argv[1:], "env": dict(os.environ), "stdin": sys.stdin.read(), "pid": os.getpid()}
    path = Path("calls") / f"{os.environ.get('VMSH_RUN_ID', 'none')}.json"
    path.parent.mkdir(exist_ok=True)
    _note(path, call)
    hold = behaviour.get("hold")
    while hold and Path(str(hold)).exists():
        time.sleep(0.02)
    sys.stderr.write(str(behaviour.get("stderr", "")))
    sys.stdout.write(json.dumps(behaviour.get("result", {"tx": "0xfeed", "block": 7})) + "\n")
    _note(path, {**call, "ended": True})
    return int(str(behaviour.get("exit", 0)))


def _read(path: Path) -> dict[str, object]:
    try:
        found: dict[str, object] = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    return found


def _note(path: Path, call: dict[str, object]) -> None:
    fresh = path.with_suffix(".fresh")
    fresh.write_text(json.dumps(call))
    fresh.replace(path)


if __name__ == "__main__":
    sys.exit(main())
