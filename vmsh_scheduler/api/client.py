"""Asks the running daemon over its control socket. A few lines of sockets: http.client costs 22 ms of every command."""

import json
import os
import socket
import struct
from typing import Any
from urllib.parse import urlencode

from vmsh_scheduler.api.errors import from_wire
from vmsh_scheduler.errors import Denied, NoAnswer, SchedulerError

CONTROL_NAME = "control.sock"
"""Beside the state file."""
MOST_BYTES = 64 * 1024 * 1024
TIMEOUT_S = 30.0
CONNECT_S = 5.0


def call(
    socket_path: str,
    method: str,
    path: str,
    values: dict[str, Any] | None = None,
    *,
    timeout_s: float = TIMEOUT_S,
) -> dict[str, Any]:
    """`values`: the query of a GET, the JSON body of a POST. Raises what the daemon raised; none there: NoAnswer."""
    given = {name: value for name, value in (values or {}).items() if value is not None}
    target = f"{path}?{urlencode(given)}" if given and method == "GET" else path
    body = json.dumps(given).encode() if method == "POST" else b""
    length = f"Content-Length: {len(body)}\r\n" if method == "POST" else ""
    head = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\n{length}Connection: close\r\n\r\n"
    with _connected(socket_path) as sock:
        sock.settimeout(timeout_s)
        return _result(_exchange(sock, head.encode() + body))


def is_running(socket_path: str) -> bool:
    """True if a daemon answers on that socket."""
    try:
        _connected(socket_path).close()
    except NoAnswer:
        return False
    return True


def _connected(socket_path: str) -> socket.socket:
    directory, name = os.path.split(socket_path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        _connect(sock, directory or ".", name)
        _check_peer(sock, socket_path)
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError) as error:
        sock.close()
        raise NoAnswer(f"no daemon on {socket_path}", hint="start one with `vmsh-scheduler run`") from error
    except OSError as error:
        sock.close()
        raise NoAnswer(f"cannot reach {socket_path}: {error.strerror or 'no answer in time'}") from error
    except SchedulerError:
        sock.close()
        raise
    return sock


def _connect(sock: socket.socket, directory: str, name: str) -> None:
    """By way of the directory's descriptor: a socket path may have 107 bytes only."""
    directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock.settimeout(CONNECT_S)
        sock.connect(f"/proc/self/fd/{directory_fd}/{name}")
    finally:
        os.close(directory_fd)


def _check_peer(sock: socket.socket, socket_path: str) -> None:
    """Nobody but us and root may answer for our daemon; root may talk to anybody's."""
    uid = _peer_uid(sock)
    if os.geteuid() not in {0, uid} and uid != 0:
        raise Denied(f"{socket_path} belongs to uid {uid}", hint="run the command as that user")


def _peer_uid(sock: socket.socket) -> int:
    """SO_PEERCRED of unix(7): who listens there."""
    packed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", packed)[1])


def _exchange(sock: socket.socket, request: bytes) -> bytes:
    parts, size = [], 0
    try:
        sock.sendall(request)
        while part := sock.recv(65536):
            parts.append(part)
            size += len(part)
            if size > MOST_BYTES:
                raise NoAnswer("the daemon's answer is too large", hint="ask for less with --limit")
    except TimeoutError as error:
        raise NoAnswer("the daemon did not answer in time", hint="see its log") from error
    except OSError as error:
        raise NoAnswer(f"the daemon hung up: {error.strerror}", hint="see its log") from error
    return b"".join(parts)


def _result(answer: bytes) -> dict[str, Any]:
    """The server closes after one answer, so the body is all that follows the head."""
    head, _, body = answer.partition(b"\r\n\r\n")
    try:
        status = int(head.split(b" ", 2)[1])
        found = json.loads(body)
    except (IndexError, ValueError) as error:
        raise NoAnswer("the daemon hung up in the middle of its answer", hint="see its log") from error
    if status >= 400 or not isinstance(found, dict):
        raise from_wire(status, found)
    return found
