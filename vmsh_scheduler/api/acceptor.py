"""Accepts connections and reads heads, timed and bounded and strictly.

Plain sockets, no asyncio transports: a flood of clients that never say anything whole costs hardly more than they."""

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Callable
from contextlib import suppress

from vmsh_scheduler.api.gate import Gate
from vmsh_scheduler.api.head import END, HEAD_LIMIT, inspect
from vmsh_scheduler.api.messages import Reply, error_reply, head_of

ACCEPTED_AT_ONCE = 32
"""Far below the places there are: else a burst of newcomers would put out a client whose request has arrived and was
not looked at yet."""
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
EXHAUSTED_PAUSE_S = 0.2
LINGER_S = 1.0
"""How long a refused client may still talk, so that it can read why."""
LINGER_BYTES = 64 * 1024

Begin = Callable[["Caller", socket.socket, bytes, bytes, int], None]
"""(who, its socket, the head, what came behind it, how long the body is)."""


class Acceptor:
    """Lets callers in through a gate; those with a good head are handed to `begin`, socket and all."""

    def __init__(self, sock: socket.socket, gate: Gate, begin: Begin) -> None:
        self.loop = asyncio.get_running_loop()
        self.gate = gate
        self.begin = begin
        self._sock = sock
        self._pause: asyncio.TimerHandle | None = None
        self._listen()

    def close(self) -> None:
        """No newcomers, and an end to those that are owed no answer."""
        if self._pause is not None:
            self._pause.cancel()
        self.loop.remove_reader(self._sock)
        self._sock.close()
        self.gate.close()

    def _listen(self) -> None:
        self._pause = None
        self.loop.add_reader(self._sock, self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                sock, _ = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in EXHAUSTED:
                    self._rest()
                    return
                continue  # that one client is gone already
            self._let_in(sock)

    def _rest(self) -> None:
        """No descriptor left: the loop would spin on the one it cannot accept."""
        self.loop.remove_reader(self._sock)
        self._pause = self.loop.call_later(EXHAUSTED_PAUSE_S, self._listen)

    def _let_in(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        if self.gate.limits.owner_only and not is_owner(sock):
            sock.close()
            return
        caller = Caller(self, sock)
        if self.gate.enter(caller, self.loop.time()):
            caller.listen()
        else:
            caller.drop()


class Caller:
    """A connection that has said nothing whole yet, or was refused and may still read why."""

    __slots__ = ("_acceptor", "_head", "_may_talk", "_sock", "_timer")

    def __init__(self, acceptor: Acceptor, sock: socket.socket) -> None:
        self._acceptor = acceptor
        self._sock = sock
        self._head = b""
        self._may_talk = -1
        self._timer: asyncio.TimerHandle | None = None

    def listen(self) -> None:
        self._acceptor.loop.add_reader(self._sock, self._readable)
        self._timer = self._acceptor.loop.call_later(self._acceptor.gate.limits.head_s, self._too_slow)

    def drop(self) -> None:
        """End it at once: nothing of it is kept, by the kernel neither."""
        self._let_go()
        with suppress(OSError):
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()

    def _readable(self) -> None:
        try:
            data = self._sock.recv(HEAD_LIMIT)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._hung_up()
        elif self._may_talk >= 0:
            self._discard(len(data))
        else:
            self._take_head(data)

    def _take_head(self, data: bytes) -> None:
        self._head += data
        end = self._head.find(END, 0, HEAD_LIMIT) + len(END)
        if end >= len(END):
            self._judge(end)
        elif len(self._head) >= HEAD_LIMIT:
            self._refuse(error_reply(431, "headers_too_large", f"headers are limited to {HEAD_LIMIT} bytes"))

    def _judge(self, end: int) -> None:
        found = inspect(self._head[:end], self._acceptor.gate.limits.rules)
        if isinstance(found, Reply):
            self._refuse(found)
            return
        self._let_go()
        self._acceptor.begin(self, self._sock, self._head[:end], self._head[end:], found)

    def _too_slow(self) -> None:
        seconds = self._acceptor.gate.limits.head_s
        self._refuse(error_reply(408, "timeout", f"send the whole head within {seconds:g} s"))

    def _refuse(self, reply: Reply) -> None:
        """The write side is closed first, so that the client reads the answer and no reset."""
        self._head, self._may_talk = b"", LINGER_BYTES
        try:
            self._sock.send(head_of(reply) + reply.body)  # a fresh socket takes the few bytes of it whole
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self._hung_up()
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._acceptor.loop.call_later(LINGER_S, self._hung_up)

    def _discard(self, size: int) -> None:
        self._may_talk -= size
        if self._may_talk < 0:
            self._hung_up()

    def _hung_up(self) -> None:
        self._acceptor.gate.leave(self)
        self.drop()

    def _let_go(self) -> None:
        self._acceptor.loop.remove_reader(self._sock)
        if self._timer is not None:
            self._timer.cancel()


def is_owner(sock: socket.socket) -> bool:
    """SO_PEERCRED of unix(7): who connected, as the kernel knows it."""
    packed = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", packed)
    return uid in {0, os.geteuid()}
