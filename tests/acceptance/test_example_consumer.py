"""The example consumer takes each cycle once, and none from a scheduler that was replaced (forge-os section 16)."""

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import Place, until
from tests.support.forge import Forge, Stub, forge
from vmsh_scheduler.executors.callback import signature

CONSUMER = Path(__file__).parents[2] / "docs" / "examples" / "consumer.py"
SECRET = "a secret of the example"


@dataclass
class Consumer:
    """The example, as a process; `out` is a file."""

    port: int
    out: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/scheduler/cycle"

    @property
    def cycles(self) -> list[str]:
        """The keys of those that it accepted."""
        return [line.split()[-1] for line in self.out.read_text().splitlines() if line.startswith("cycle ")]

    def post(self, headers: Mapping[str, str], body: bytes = b"{}") -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            signed = {"X-VMSH-Signature": signature(SECRET.encode(), int(time.time()), body)}
            connection.request("POST", "/", body, {**signed, **headers})
            reply = connection.getresponse()
            return reply.status, json.loads(reply.read())
        finally:
            connection.close()


@pytest.fixture
def consumer(tmp_path: Path) -> Iterator[Consumer]:
    out = tmp_path / "consumer.out"
    with out.open("wb") as sink:
        environ = {**os.environ, "CALLBACK_SECRET": SECRET}
        process = subprocess.Popen([sys.executable, CONSUMER, "0"], stdout=sink, stderr=sink, env=environ)
    try:
        said = until(lambda: out.read_text() if out.read_text().endswith("\n") else None, "the consumer")
        yield Consumer(int(said.split()[-1]), out)
    finally:
        process.kill()
        process.wait()


def accepted(api: Forge, id: str) -> str:
    """The key of its last cycle that succeeded, "" before."""
    dispatch = api.agent(id)["lastDispatch"]
    return str(dispatch["callbackIdempotencyKey"]) if dispatch and dispatch["ok"] else ""


def headers(key: str, fence: int, agent: str = "user-123:alpha") -> dict[str, str]:
    names = {"Idempotency-Key": key, "Leader-Fence-Token": str(fence), "Agent-Key": agent}
    return {f"X-ForgeOS-{name}": value for name, value in names.items() if value}


def test_the_daemons_cycles_are_taken_and_those_sent_again_are_not(
    place: Place, upstream: Stub, consumer: Consumer
) -> None:
    api = forge(place, upstream, SCHEDULER_CALLBACK_SECRET=SECRET)
    api.register(agentId="alpha", cycleIntervalMs=60_000, callbackUrl=consumer.url)
    key = until(lambda: accepted(api, "alpha"), "a cycle that is accepted")
    assert consumer.cycles == [key]
    fence = api.get("/health")["scheduler"]["leader"]["fenceToken"]

    status, answer = consumer.post(headers(key, fence))
    assert (status, answer["duplicate"]) == (200, True)
    status, answer = consumer.post(headers("another", fence - 1))
    assert (status, answer["error"]) == (409, "stale_fence_token")
    assert (answer["currentFence"], answer["receivedFence"]) == (fence, fence - 1)
    assert consumer.post(headers(key, fence - 1))[1]["duplicate"] is True
    assert consumer.cycles == [key]
    assert consumer.post(headers("another", fence))[1]["accepted"] is True
    assert consumer.post(headers("of another", 1, "user-123:beta"))[1]["accepted"] is True


def test_the_fence_of_a_restarted_daemon_is_taken(place: Place, upstream: Stub, consumer: Consumer) -> None:
    api = forge(place, upstream, SCHEDULER_CALLBACK_SECRET=SECRET)
    api.register(agentId="alpha", cycleIntervalMs=1_000, callbackUrl=consumer.url)
    until(lambda: consumer.cycles, "a cycle")
    api.daemon.kill()
    before = len(consumer.cycles)
    forge(place, upstream, SCHEDULER_CALLBACK_SECRET=SECRET)
    until(lambda: len(consumer.cycles) > before, "a cycle of the next daemon")
    assert len(set(consumer.cycles)) == len(consumer.cycles)


def test_who_does_not_know_the_secret_is_refused(place: Place, upstream: Stub, consumer: Consumer) -> None:
    api = forge(place, upstream, SCHEDULER_CALLBACK_SECRET="another secret, 16 bytes or more")
    api.register(agentId="alpha", cycleIntervalMs=60_000, callbackUrl=consumer.url)
    failed = until(lambda: api.agent("alpha")["lastDispatch"], "an outcome")
    assert failed["error"] == "callback_401"
    old = signature(SECRET.encode(), int(time.time()) - 400, b"{}")
    for forged in (old, "", "t=1,v1=", "t=x", signature(SECRET.encode(), int(time.time()), b"[]"), "t=1,v1=\xff"):
        assert consumer.post({**headers("k", 1), "X-VMSH-Signature": forged})[0] == 401
    assert consumer.cycles == []


@pytest.mark.parametrize("lacks", ["Idempotency-Key", "Agent-Key", "Leader-Fence-Token"])
def test_what_lacks_a_header_is_refused(consumer: Consumer, lacks: str) -> None:
    given = headers("k", 1)
    del given[f"X-ForgeOS-{lacks}"]
    assert consumer.post(given)[0] == 400
    assert consumer.cycles == []


def test_it_is_short_enough_to_be_read() -> None:
    assert len(CONSUMER.read_text().splitlines()) <= 60
