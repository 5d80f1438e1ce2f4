"""One address behind which a server is replaced by another, as a load balancer or a virtual IP does it."""

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SOME = 65_536


class Forwarder:
    """Connections go to `target`, a port of this machine, as it is when they begin."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.late_s = 0.0
        """What is said from there arrives so much later."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._begin(self._accept)

    def lead_to(self, target: int) -> None:
        """What goes on is cut."""
        self.target = target
        for sock in self._open:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._open.clear()

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.lead_to(0)
        for thread in self._threads:
            thread.join(timeout=5)

    def _begin(self, work: Callable[..., None], *args: socket.socket) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                here, _ = self._listener.accept()
                try:
                    there = socket.create_connection(("127.0.0.1", self.target), timeout=5)
                except OSError:
                    here.close()
                    continue
                there.settimeout(None)
                self._open += [here, there]
                self._begin(self._pump, here, there)
                self._begin(self._pump, there, here)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            there = source.getpeername()[1] == self.target
            while data := source.recv(SOME):
                if there and self.late_s:
                    time.sleep(self.late_s)
                sink.sendall(data)
        for sock in (source, sink):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        source.close()


@contextmanager
def forwarding(target: int) -> Iterator[Forwarder]:
    made = Forwarder(target)
    try:
        yield made
    finally:
        made.close()


@contextmanager
def secured(target: int, pem: Path) -> Iterator[int]:
    """The port of something that speaks TLS for a server that does not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner, outer = await asyncio.open_connection("127.0.0.1", target)
        await asyncio.gather(_copy(reader, outer), _copy(inner, writer))

    start = asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    listener = asyncio.run_coroutine_threadsafe(start, loop).result(5)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(_end(listener), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(SOME):
            writer.write(data)
            await writer.drain()
    writer.close()


async def _end(listener: asyncio.Server) -> None:
    listener.close()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
