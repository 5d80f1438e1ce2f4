"""sd_notify(3): what the service manager is told. Without NOTIFY_SOCKET every call does nothing."""

import os
import socket
from collections.abc import Mapping

STATUS_LIMIT = 500


class Notifier:
    """Sends datagrams without ever waiting; a manager that does not listen is no reason to fail."""

    def __init__(self, address: str = "") -> None:
        self._address = "\0" + address[1:] if address.startswith("@") else address

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> "Notifier":
        address = environ.get("NOTIFY_SOCKET", "")
        return cls(address if address.startswith(("/", "@")) else "")

    @property
    def active(self) -> bool:
        return bool(self._address)

    def ready(self, status: str = "") -> bool:
        return self._send("READY=1", *_status(status))

    def reloading(self, monotonic_usec: int) -> bool:
        """`monotonic_usec`: CLOCK_MONOTONIC now, in µs; follow it with `ready` when the reload is done."""
        return self._send("RELOADING=1", f"MONOTONIC_USEC={monotonic_usec}")

    def stopping(self, status: str = "") -> bool:
        return self._send("STOPPING=1", *_status(status))

    def status(self, text: str) -> bool:
        """The line that `systemctl status` shows."""
        return self._send(*_status(text))

    def watchdog(self) -> bool:
        """Only the engine's loop may call this, after it advanced."""
        return self._send("WATCHDOG=1")

    def extend_timeout(self, ms: int) -> bool:
        """Starting or stopping takes at most `ms` more."""
        return self._send(f"EXTEND_TIMEOUT_USEC={ms * 1000}")

    def _send(self, *assignments: str) -> bool:
        if not self._address or not assignments:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
                data = "\n".join(assignments).encode("utf-8", "backslashreplace")
                sock.sendto(data, socket.MSG_DONTWAIT, self._address)
        except OSError:
            return False
        return True


def _status(text: str) -> tuple[str, ...]:
    """One line; a line break would start another assignment."""
    line = " ".join(text.split())[:STATUS_LIMIT]
    return (f"STATUS={line}",) if line else ()


def watchdog_ms(environ: Mapping[str, str]) -> int | None:
    """How often the manager wants to hear from this very process, in ms; None: it does not watch."""
    usec, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if pid and pid != str(os.getpid()):
        return None
    if not (usec.isascii() and usec.isdigit() and len(usec) <= 18) or int(usec) < 1000:
        return None
    return int(usec) // 1000
