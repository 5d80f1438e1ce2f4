"""Attacks on the listeners of a running daemon, at any strength: the fast tests and the soak differ in numbers only."""

import itertools
import json
import random
import socket
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass

from tests.support.corpus import bodies, heads
from tests.support.daemon import Daemon
from tests.support.faults import Site, descriptors, rss_kb
from tests.support.http import Probe, Reply, exchange, half_open, post, tally

BANNERS = (b"aiohttp", b"python")
CHANGES = ("/trigger", "/pause", "/resume", "/reset", "/resolve")
HOSTILE = '\r\nX-Canary: 1\r\n{"level":"forged"}\x1b[31mcanary\x00\x07'


@dataclass(frozen=True, slots=True)
class Slowloris:
    """What came of a crowd of half-open connections: the good client, the crowd's own count, the daemon's memory."""

    probe: Probe
    seen: dict[str, int]
    peak_kb: int
    growth_kb: int


def slowloris(daemon: Daemon, count: int, seconds: float, again_s: float) -> Slowloris:
    """`again_s`: how long the crowd waits before it opens anew what was ended."""
    port = daemon.port
    exchange(port, b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    before = peak = rss_kb(daemon.pid)
    crowd = half_open(port, count, seconds, again_s)
    with Probe(port) as probe:
        while crowd.poll() is None:
            peak = max(peak, rss_kb(daemon.pid))
            time.sleep(0.05)
    return Slowloris(probe, tally(crowd), peak, peak - before)


def fuzz_bodies(site: Site, rounds: int, seed: int) -> Counter[int]:
    """How often each status came. Fails at the first answer that is no answer, or an error of ours."""
    control = str(site.place.state.with_name("control.sock"))
    choice = random.Random(seed)
    seen: Counter[int] = Counter()
    for number, body in enumerate(itertools.islice(bodies(seed), rounds)):
        path = "/reload" if number % 500 == 499 else choice.choice(CHANGES)
        reply = exchange(control, post(path, body))
        assert 200 <= reply.status < 500, (number, path, body[:500], reply.raw)
        if reply.status >= 400:
            message = json.loads(reply.body)["error"]["message"]
            assert message.splitlines() == [message], (number, body[:500], message)
            assert min(message) >= " ", (number, body[:500], message)
        seen[reply.status] += 1
    return seen


def fuzz_heads(address: int | str, rounds: int, seed: int) -> Counter[int]:
    """The same for the head; also nothing may say what the program is made of."""
    seen: Counter[int] = Counter()
    for number, head in enumerate(itertools.islice(heads(seed), rounds)):
        reply = exchange(address, head)
        assert 200 <= reply.status < 500, (number, head, reply.raw)
        check_manners(reply)
        seen[reply.status] += 1
    return seen


def check_manners(reply: Reply) -> None:
    assert reply.headers["server"] == "vmsh-scheduler", reply.raw
    assert reply.headers["connection"] == "close", reply.raw
    assert not [banner for banner in BANNERS if banner in reply.head.lower()], reply.raw


@dataclass(frozen=True, slots=True)
class SlowReaders:
    """What came of clients that ask for /metrics and read a byte a second: the daemon's memory while they are there,
    when the last was cut off, and the good client beside them."""

    growth_kb: int
    seconds: float
    probe: Probe


def slow_readers(daemon: Daemon, count: int) -> SlowReaders:
    """Fails if one of them is still there after half a minute. The daemon has to have megabytes to say."""
    port, idle = daemon.port, descriptors(daemon.pid)
    before = peak = rss_kb(daemon.pid)
    readers = [_reader(port) for _ in range(count)]
    begun, looked = time.monotonic(), 0.0
    with Probe(port, 0.5) as probe:
        while descriptors(daemon.pid) > idle + 1:  # the good client's own
            assert time.monotonic() - begun < 30, "slow readers are still there"
            peak = max(peak, rss_kb(daemon.pid))
            if time.monotonic() - looked > 1:
                looked = time.monotonic()
                for reader in readers:
                    with suppress(OSError):
                        reader.recv(1)
            time.sleep(0.02)
        seconds = time.monotonic() - begun
    for reader in readers:
        reader.close()
    return SlowReaders(peak - before, seconds, probe)


def _reader(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", port))
    sock.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
    sock.setblocking(False)
    return sock
