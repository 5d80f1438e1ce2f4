"""The metrics port, taken before anything starts: a busy port must cost no anchor."""

import errno
import os
import socket
from dataclasses import dataclass

from vmsh_scheduler.errors import Unavailable

BACKLOG = 4096
"""As much as the kernel takes by default: a queue that overflows costs a good client its second of retransmission."""
MOST = 65_535


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen. `setting`: what a person changes when that place is taken."""

    host: str = "127.0.0.1"
    port: int = 9090
    setting: str = "METRICS_PORT"

    @property
    def shown(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def bind_tcp(address: Address) -> socket.socket:
    """A listening socket whose connections wait until somebody serves it. Raises Unavailable."""
    if not 0 <= address.port <= MOST:  # getaddrinfo would take it modulo 65536
        raise _cannot_listen(address, OverflowError("no such port"))
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, protocol)
    except (OSError, OverflowError) as error:
        raise _cannot_listen(address, error) from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(place)
        sock.listen(BACKLOG)
    except (OSError, OverflowError) as error:
        sock.close()
        raise _cannot_listen(address, error) from error
    return sock


def _cannot_listen(address: Address, error: OSError | OverflowError) -> Unavailable:
    taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
    number = error.errno if isinstance(error, OSError) else None
    reason = "it is in use" if taken else (os.strerror(number) if number and number > 0 else "no such address")
    hint = f"stop what listens there or set {address.setting} to a free port"
    return Unavailable(f"cannot listen on {address.shown}: {reason}", hint=hint)
