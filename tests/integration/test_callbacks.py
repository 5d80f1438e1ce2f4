"""Cycles of agents against real consumers: what is sent, and what is made of the answer."""

import asyncio
import hashlib
import hmac
import json
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.support.builders import NOON, agent, run_of
from tests.support.callbacks import (
    AGENT,
    MARKET,
    PAYLOAD,
    Desk,
    Desks,
    StoppedClock,
    job_of,
    many_desks,
    stranger,
    until,
)
from tests.support.sink import reply, sink
from vmsh_scheduler import __version__
from vmsh_scheduler.domain.action import Command
from vmsh_scheduler.domain.retry import ErrorClass
from vmsh_scheduler.domain.run import Run, Status, Trace
from vmsh_scheduler.executors.callback import CallbackExecutor, in_header
from vmsh_scheduler.net.calls import Reply
from vmsh_scheduler.net.client import HttpClient

Record = Callable[[str, object], None]


@pytest.fixture
async def desks() -> AsyncIterator[Desks]:
    async with many_desks() as make:
        yield make


@pytest.fixture
def desk(desks: Desks) -> Desk:
    return desks()


class Deaf:
    """A client whose calls never end."""

    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str], *, timeout_s: float, trusted: bool
    ) -> Reply:
        await asyncio.Event().wait()
        raise AssertionError("nobody sets it")

    async def close(self) -> None: ...


class TestWhatIsSent:
    async def test_headers_and_body_of_section_7(self, desk: Desk) -> None:
        async with sink() as consumer:
            outcome = await desk.run(consumer.url)
        (asked,) = consumer.asked
        task = asked.headers["X-ForgeOS-Queue-Task-Id"]
        ours = {
            "X-ForgeOS-Scheduler-Instance": "leader-1",
            "X-ForgeOS-Leader-Fence-Token": "1",
            "X-ForgeOS-Idempotency-Key": f"forgeos.scheduler:u:a:{NOON}:{task}",
            "X-ForgeOS-Queue-Task-Id": task,
            "X-ForgeOS-Agent-Key": "u:a",
            "X-ForgeOS-Attempt": "1",
        }
        assert uuid.UUID(task).version == 5
        assert asked.line == "POST /cycle HTTP/1.1"
        assert asked.headers == {
            "Host": f"127.0.0.1:{consumer.port}",
            "User-Agent": f"vmsh-scheduler/{__version__}",
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
            "Content-Length": str(len(asked.body)),
            **ours,
        }
        expected = {
            "event": "forgeos.scheduler.cycle",
            "ts": NOON,
            "scheduler": {
                "instanceId": "leader-1",
                "leaderFenceToken": 1,
                "queueTaskId": task,
                "callbackIdempotencyKey": ours["X-ForgeOS-Idempotency-Key"],
                "callbackHeaders": ours,
            },
            "agent": AGENT,
            "market": MARKET,
        }
        assert asked.body == json.dumps(expected, separators=(",", ":")).encode()
        assert desk.wallets == ["kaspa:qq0"]
        assert outcome.status is Status.OK
        assert outcome.result == {
            "callbackUrl": consumer.url,
            "callbackIdempotencyKey": ours["X-ForgeOS-Idempotency-Key"],
            "callbackDeduped": False,
            "snapshotDaa": 99,
            "snapshotPriceUsd": 0.12,
        }

    async def test_a_real_server_understands_it(self, desk: Desk) -> None:
        seen: list[object] = []

        async def cycle(request: web.Request) -> web.Response:
            seen.append((request.query["token"], (await request.json())["agent"]["name"]))
            return web.json_response({"ok": True})

        app = web.Application()
        app.router.add_post("/cycle", cycle)
        async with TestServer(app) as server:
            outcome = await desk.run(
                str(server.make_url("/cycle?token=t%2Bo")), payload={**PAYLOAD, "agent": {**AGENT, "name": "Ağent €"}}
            )
        assert (outcome.status, seen) == (Status.OK, [("t+o", "Ağent €")])

    async def test_the_signature_covers_time_and_body(self, desks: Desks) -> None:
        async with sink() as consumer:
            await desks(secret=b"s3cret").run(consumer.url)
        (asked,) = consumer.asked
        mac = hmac.new(b"s3cret", b"%d." % (NOON // 1000) + asked.body, hashlib.sha256).hexdigest()
        assert asked.headers["X-VMSH-Signature"] == f"t={NOON // 1000},v1={mac}"

    async def test_d7_w8_every_attempt_at_a_cycle_has_the_same_key(self, desks: Desks) -> None:
        """Also after a restart: the second executor knows nothing of the first."""
        async with sink() as consumer:
            for attempt in (1, 2, 3):
                await desks().run(consumer.url, attempt=attempt)
            job = job_of(consumer.url)
            await desks().executor.run(job, run_of(job, NOON + 1))
        keys = [asked.headers["X-ForgeOS-Idempotency-Key"] for asked in consumer.asked]
        tasks = [asked.headers["X-ForgeOS-Queue-Task-Id"] for asked in consumer.asked]
        assert (len(set(keys[:3])), len(set(keys))) == (1, 2)
        assert (len(set(tasks[:3])), len(set(tasks))) == (1, 2)
        assert [asked.headers["X-ForgeOS-Attempt"] for asked in consumer.asked] == ["1", "2", "3", "1"]

    async def test_a_fence_of_nobody_is_0(self, desk: Desk) -> None:
        async with sink() as consumer:
            job = job_of(consumer.url)
            await desk.executor.run(job, replace(run_of(job, NOON), fence=0))
        assert consumer.asked[0].headers["X-ForgeOS-Leader-Fence-Token"] == "0"

    @pytest.mark.parametrize(
        "name", ["müller", "エージェント", "a\nb: c", "a\x7f", "x\ud800", "50%", "a b", "%41", "%"]
    )
    async def test_d26_every_id_can_be_delivered(self, desk: Desk, name: str) -> None:
        async with sink() as consumer:
            outcome = await desk.run(
                consumer.url, user=name, agent=name, payload={**PAYLOAD, "agent": {**AGENT, "id": name}}
            )
        (asked,) = consumer.asked
        assert outcome.status is Status.OK
        key = asked.headers["X-ForgeOS-Agent-Key"]
        assert key == f"{in_header(name)}:{in_header(name)}"
        assert key.isascii()
        body = json.loads(asked.body)
        assert body["agent"]["id"] == name
        assert body["scheduler"]["callbackIdempotencyKey"] == asked.headers["X-ForgeOS-Idempotency-Key"]

    def test_d26_two_ids_never_become_one(self) -> None:
        assert in_header("a:b c%") == "a:b c%"
        assert in_header("é") == "%C3%A9"
        assert in_header("%C3%A9") == "%25C3%25A9"
        assert in_header("é%") == "%C3%A9%25"

    async def test_no_url_is_a_cycle_without_a_post(self, desk: Desk) -> None:
        outcome = await desk.run("")
        assert outcome.status is Status.OK
        assert outcome.result["callbackUrl"] is None
        assert outcome.result["snapshotDaa"] == 99
        assert (desk.observed, desk.made) == ([], 0)

    @pytest.mark.parametrize("market", [RuntimeError("upstream_500:secret"), {"priceUsd": float("nan")}])
    async def test_d30_without_a_market_nothing_is_sent(self, desks: Desks, market: object) -> None:
        desk = desks(market=market)
        async with sink() as consumer:
            outcome = await desk.run(consumer.url, trusted=False)
            known = await desk.run(consumer.url)
        assert consumer.asked == []
        assert (outcome.status, outcome.error, outcome.code) == (
            Status.FAILED,
            ErrorClass.NETWORK,
            "market_unavailable",
        )
        assert outcome.message == known.message
        assert outcome.message.startswith("market_unavailable:")
        assert desk.observed == []


class TestTheAnswer:
    @pytest.mark.parametrize("status", [200, 201, 204, 299])
    async def test_2xx_is_success(self, desk: Desk, status: int) -> None:
        async with sink(reply(status, b"")) as consumer:
            assert (await desk.run(consumer.url)).status is Status.OK
        assert [kind for kind, _ in desk.observed] == ["success"]

    @pytest.mark.parametrize(
        ("status", "error"),
        [
            (400, ErrorClass.VALIDATION),
            (401, ErrorClass.AUTH),
            (403, ErrorClass.AUTH),
            (404, ErrorClass.VALIDATION),
            (409, ErrorClass.VALIDATION),
            (500, ErrorClass.NETWORK),
            (503, ErrorClass.NETWORK),
        ],
    )
    async def test_d27_anything_else_is_an_error_and_observed_once(
        self, desk: Desk, status: int, error: ErrorClass
    ) -> None:
        async with sink(reply(status, b"why\x1b[2J" + b"x" * 300)) as consumer:
            outcome = await desk.run(consumer.url)
        assert (outcome.status, outcome.error, outcome.code) == (Status.FAILED, error, "callback_status")
        assert outcome.message == f"callback_{status}:why\\x1b[2J" + "x" * 173
        assert desk.observed == [("error", 7)]

    async def test_d10_a_stranger_is_not_told_what_the_other_side_said(self, desks: Desks) -> None:
        async with sink(reply(500, b"internal secret")) as consumer:
            outcome = await desks(stranger(loopback_ok=True)).run(consumer.url, trusted=False)
        assert outcome.message == "callback_500"
        assert "secret" not in repr(outcome)

    @pytest.mark.parametrize("trusted", [True, False])
    @pytest.mark.parametrize("where", ["http://169.254.169.254/latest", "file:///etc/passwd", "/cycle", "//other/x"])
    async def test_w3_redirects_are_not_followed(
        self, desks: Desks, where: str, trusted: bool, record_property: Record
    ) -> None:
        desk = desks(stranger(loopback_ok=True))
        async with sink(reply(302, b"", f"Location: {where}")) as consumer:
            outcome = await desk.run(consumer.url, trusted=trusted)
        assert (outcome.status, outcome.message) == (Status.FAILED, "callback_302:redirect not followed")
        assert len(consumer.asked) == 1
        record_property("W3", "4 kinds of targets, for strangers and the operator: 0 followed")

    @pytest.mark.parametrize(
        "answer",
        [
            b"garbage\r\n\r\n",
            b"\x16\x03\x01\x00\x00\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nX: " + b"x" * 2**20,
        ],
    )
    async def test_w5_an_answer_that_is_not_http_is_a_failed_call(self, desk: Desk, answer: bytes) -> None:
        async def bad(writer: asyncio.StreamWriter) -> None:
            writer.write(answer)
            await writer.drain()

        async with sink(bad) as consumer:
            outcome = await desk.run(consumer.url)
        assert (outcome.status, outcome.error, outcome.message) == (Status.FAILED, ErrorClass.NETWORK, "fetch failed")

    async def test_a_connection_that_ends_without_an_answer_is_a_failed_call(self, desk: Desk) -> None:
        async def gone(writer: asyncio.StreamWriter) -> None:
            return

        async with sink(gone) as consumer:
            assert (await desk.run(consumer.url)).message == "fetch failed"
        assert (await desk.run(consumer.url)).message == "fetch failed"  # nobody listens any more

    async def test_w5_a_flood_is_read_as_far_as_it_is_shown(self, desk: Desk) -> None:
        sent = 0

        async def flood(writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            writer.write(b"HTTP/1.1 500 X\r\nContent-Encoding: gzip\r\nContent-Length: 1000000000\r\n\r\n")
            while True:
                writer.write(b"z" * 65536)
                sent += 65536
                await writer.drain()

        async with sink(flood) as consumer:
            outcome = await desk.run(consumer.url)
            await until(lambda: not consumer.open)  # we hung up
        assert outcome.message == "callback_500:" + "z" * 180
        assert sent < 64 * 2**20  # what sockets' buffers hold

    async def test_a_good_status_counts_whatever_its_body_does(self, desk: Desk) -> None:
        async def half(writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
            await asyncio.Event().wait()

        async with sink(half) as consumer:
            assert (await desk.run(consumer.url)).status is Status.OK


class TestTime:
    @staticmethod
    async def drip(writer: asyncio.StreamWriter) -> None:
        for byte in b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 1000:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.02)

    async def test_w4_a_drip_ends_with_the_time_for_the_whole_call(self, desk: Desk, record_property: Record) -> None:
        began = asyncio.get_running_loop().time()
        async with sink(self.drip) as consumer:
            outcome = await desk.run(consumer.url, within=300)
        assert (outcome.status, outcome.code) == (Status.FAILED, "timeout")
        assert outcome.message == "This operation was aborted"
        took = asyncio.get_running_loop().time() - began
        record_property("W4", f"a byte every 20 ms, 0.3 s for the call: ended after {took:.2f} s")
        assert took < 3
        assert [kind for kind, _ in desk.observed] == ["error"]

    async def test_a_refusal_is_told_though_its_body_never_ends(self, desk: Desk) -> None:
        async def slow(writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 503 X\r\nContent-Length: 100\r\n\r\nbusy")
            await asyncio.Event().wait()

        async with sink(slow) as consumer:
            assert (await desk.run(consumer.url, within=300)).message == "callback_503:busy"

    async def test_the_market_takes_of_the_same_time(self) -> None:
        async def never(wallet: str) -> Mapping[str, object]:
            await asyncio.Event().wait()
            return {}

        executor = CallbackExecutor(HttpClient, never, StoppedClock(), "i")
        job = job_of("http://127.0.0.1:1/", timeout=50)
        outcome = await executor.run(job, run_of(job, NOON))
        assert outcome.message == "market_unavailable:This operation was aborted"

    async def test_hurry_ends_what_is_in_flight(self, desk: Desk) -> None:
        async with sink(self.drip) as consumer:
            running = asyncio.create_task(desk.run(consumer.url, within=60_000))
            await until(lambda: len(consumer.asked) == 1)
            desk.executor.hurry()
            desk.executor.hurry()  # a second signal
            outcome = await asyncio.wait_for(running, 5)
            consumer.answer = reply()
            again = await desk.run(consumer.url)
        assert (outcome.status, outcome.code) == (Status.FAILED, "cancelled")
        assert [kind for kind, _ in desk.observed] == ["error", "success"]
        assert again.status is Status.OK

    async def test_hurry_in_the_turn_in_which_the_market_comes_ends_the_call_too(self) -> None:
        asked, market = asyncio.Event(), asyncio.get_running_loop().create_future()

        async def late(wallet: str) -> Mapping[str, object]:
            asked.set()
            return await market  # type: ignore[no-any-return]  # a future of the loop's is one of anything

        executor = CallbackExecutor(Deaf, late, StoppedClock(), "i")
        job = job_of("http://127.0.0.1:1/")
        running = asyncio.create_task(executor.run(job, run_of(job, NOON)))
        await asked.wait()
        market.set_result(MARKET)
        executor.hurry()
        assert (await asyncio.wait_for(running, 5)).code == "cancelled"

    async def test_hurry_while_a_market_that_was_too_late_unwinds_is_no_error(self) -> None:
        unwinding, over = asyncio.Event(), asyncio.Event()

        async def stubborn(wallet: str) -> Mapping[str, object]:
            try:
                await asyncio.Event().wait()
            finally:
                unwinding.set()
                await over.wait()
            return {}

        executor = CallbackExecutor(HttpClient, stubborn, StoppedClock(), "i")
        job = job_of("http://127.0.0.1:1/", timeout=20)
        running = asyncio.create_task(executor.run(job, run_of(job, NOON)))
        await unwinding.wait()
        executor.hurry()
        over.set()
        assert (await running).message == "market_unavailable:This operation was aborted"

    async def test_cancelling_ends_it_too(self, desk: Desk) -> None:
        async with sink(self.drip) as consumer:
            running = asyncio.create_task(desk.run(consumer.url))
            await until(lambda: len(consumer.asked) == 1)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            await until(lambda: not consumer.open)

    async def test_a_dead_daemons_call_is_unknown(self, desk: Desk) -> None:
        job = job_of("http://127.0.0.1:1/")
        run: Run = run_of(job, NOON)
        assert (await desk.executor.recover(job, run)).trace is Trace.UNKNOWN
        assert (await desk.executor.adopt(job, run)).status is Status.UNKNOWN
        assert await desk.executor.probe(job, run) is None
        desk.executor.forget(run)

    async def test_another_action_is_a_mistake_of_the_program(self, desk: Desk) -> None:
        job = replace(agent(), action=Command(("true",)))
        with pytest.raises(TypeError, match="Command"):
            await desk.executor.run(job, run_of(job, NOON))
