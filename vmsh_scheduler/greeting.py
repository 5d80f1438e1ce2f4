"""The two lines on stdout that say the API listens (forge-os section 15). The log, on stderr, says it its own way."""

import os
import select
import sys
from contextlib import suppress

from vmsh_scheduler.domain.text import one_line


def greet(host: str, port: int, facts: dict[str, object]) -> None:
    """Nobody has to read them: written whole and at once, or not at all."""
    shown = f"[{host}]" if ":" in host else host
    pairs = " ".join(f"{name}={one_line(str(value))}" for name, value in facts.items())
    if sys.stdout is None:  # closed at start: its number may be another file's by now
        return
    with suppress(OSError, ValueError):
        fd = sys.stdout.fileno()
        if select.select([], [fd], [], 0)[1]:
            os.write(fd, f"http://{shown}:{port}\n{pairs}\n".encode("utf-8", "replace"))
