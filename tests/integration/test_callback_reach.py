"""Where callbacks may go, and over which connections."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from tests.support.callbacks import (
    Desk,
    Desks,
    Names,
    many_desks,
    stranger,
    until,
)
from tests.support.sink import Sink, reply, sink
from vmsh_scheduler.domain.retry import ErrorClass
from vmsh_scheduler.domain.run import Outcome, Status
from vmsh_scheduler.net.calls import CallFailed
from vmsh_scheduler.net.client import HEAD, HttpClient
from vmsh_scheduler.net.guard import AllowList
from vmsh_scheduler.net.resolver import Infos

Record = Callable[[str, object], None]
STRANGE_HOSTS = """127.0.0.1 localhost 127.1 0x7f.1 0x7f000001 2130706433 0177.0.0.1 0 0.0.0.0 [::] [::1] [::127.0.0.1]
    [::ffff:127.0.0.1] [::ffff:7f00:1] １２７.0.0.1 127。0。0。1 u@127.0.0.1 127.0.0.1%00"""


@pytest.fixture
async def desks() -> AsyncIterator[Desks]:
    async with many_desks() as make:
        yield make


@pytest.fixture
def desk(desks: Desks) -> Desk:
    return desks()


class TestConnections:
    async def test_one_connection_serves_many_calls(self, desk: Desk) -> None:
        async with sink() as consumer:
            for _ in range(5):
                assert (await desk.run(consumer.url)).status is Status.OK
        assert (consumer.connections, len(consumer.asked), desk.made) == (1, 5, 1)

    async def test_a_body_that_comes_in_pieces_leaves_the_connection_usable(self, desk: Desk) -> None:
        async with sink(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n") as consumer:

            async def late() -> None:
                for count in (1, 2):
                    await until(lambda count=count: len(consumer.asked) == count)  # type: ignore[misc]  # bound early
                    for writer in consumer.open:
                        writer.write(b"4\r\nbody\r\n0\r\n\r\n")

            rest = asyncio.create_task(late())
            await desk.run(consumer.url)
            await desk.run(consumer.url)
            await rest
        assert consumer.connections == 1

    async def test_w7_a_dead_host_takes_no_connection_from_others(self, desks: Desks) -> None:
        async def silent(writer: asyncio.StreamWriter) -> None:
            await asyncio.Event().wait()

        desk = desks(HttpClient(limit=8, limit_per_host=4))
        async with sink(silent) as dead, sink() as alive:
            waiting = [asyncio.create_task(desk.run(dead.url, within=60_000)) for _ in range(100)]
            await until(lambda: dead.connections == 4)
            assert (await desk.run(alive.url)).status is Status.OK
            assert dead.connections == 4
            desk.executor.hurry()
            ended = await asyncio.gather(*waiting)
        assert {outcome.code for outcome in ended} == {"cancelled"}

    async def test_cookies_are_forgotten(self, desk: Desk) -> None:
        async with sink(reply(200, b"", "Set-Cookie: a=b")) as consumer:
            await desk.run(consumer.url)
            await desk.run(consumer.url)
        assert "Cookie" not in consumer.asked[1].headers

    async def test_w9_proxies_of_the_environment_are_ignored(
        self, desk: Desk, monkeypatch: pytest.MonkeyPatch, record_property: Record
    ) -> None:
        async with sink() as proxy, sink() as consumer:
            monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
            monkeypatch.setenv("NO_PROXY", "")
            assert (await desk.run(consumer.url)).status is Status.OK
        assert (proxy.connections, consumer.connections) == (0, 1)
        record_property("W9", f"a proxy in the environment: {proxy.connections} connections")


class TestWhereItMayGo:
    async def refused(self, desk: Desk, url: str) -> Outcome:
        outcome = await desk.run(url, trusted=False)
        assert (outcome.status, outcome.error) == (Status.FAILED, ErrorClass.VALIDATION)
        assert outcome.message == "callback_address_refused"
        assert [kind for kind, _ in desk.observed] == ["error"]
        return outcome

    @pytest.mark.parametrize(
        "host",
        STRANGE_HOSTS.split(),
    )
    async def test_w1_a_stranger_reaches_nothing_of_this_machine(self, desks: Desks, host: str) -> None:
        async with sink() as consumer:
            await self.refused(desks(), f"http://{host}:{consumer.port}/")
        assert consumer.connections == 0

    @pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "10.0.0.1", "::1", "::ffff:127.0.0.1"])
    async def test_d10_a_name_for_a_forbidden_address_is_refused(self, desks: Desks, address: str) -> None:
        async with sink() as consumer:
            desk = desks(stranger(resolver=Names((address,))))
            await self.refused(desk, f"http://evil.example:{consumer.port}/")
        assert consumer.connections == 0

    async def test_w2_a_name_is_asked_for_once_and_its_vetted_address_is_called(
        self, desks: Desks, record_property: Record
    ) -> None:
        names = Names(("127.0.0.1",), ("169.254.169.254",))
        desk = desks(stranger(loopback_ok=True, resolver=names))
        async with sink() as consumer:
            outcome = await desk.run(f"http://rebind.example:{consumer.port}/", trusted=False)
        assert (outcome.status, names.asked, consumer.connections) == (Status.OK, ["rebind.example"], 1)
        assert consumer.asked[0].headers["Host"] == f"rebind.example:{consumer.port}"
        record_property("W2", f"a name that changes its address: asked {len(names.asked)} time, the vetted one called")

    async def test_w2_of_many_addresses_only_the_good_ones_are_tried(self, desks: Desks) -> None:
        allow = AllowList.parse(["127.0.0.2"])
        names = Names(("127.0.0.1", "10.0.0.1", "127.0.0.2"))
        async with sink() as consumer:  # listens on 127.0.0.1 only
            desk = desks(stranger(allow=allow, resolver=names))
            outcome = await desk.run(f"http://mixed.example:{consumer.port}/", trusted=False)
        assert (outcome.message, consumer.connections) == ("fetch failed", 0)

    async def test_w2_what_the_pool_holds_for_the_operator_is_not_for_strangers(self, desks: Desks) -> None:
        desk = desks()
        async with sink() as consumer:
            assert (await desk.run(consumer.url)).status is Status.OK
            assert (await desk.run(consumer.url, trusted=False)).message == "callback_address_refused"
        assert len(consumer.asked) == 1

    @pytest.mark.parametrize("entry", ["127.0.0.1:{}", "127.0.0.0/8", "127.0.0.1"])
    async def test_what_the_operator_lists_is_let_in(self, desks: Desks, entry: str) -> None:
        async with sink() as consumer:
            allow = AllowList.parse([entry.format(consumer.port)])
            outcome = await desks(stranger(allow=allow)).run(consumer.url, trusted=False)
        assert outcome.status is Status.OK

    async def test_a_listed_name_is_trusted_wherever_it_leads(self, desks: Desks) -> None:
        client = stranger(allow=AllowList.parse(["hook.internal"]), resolver=Names(("127.0.0.1",)))
        async with sink() as consumer:
            outcome = await desks(client).run(f"http://hook.internal:{consumer.port}/", trusted=False)
        assert outcome.status is Status.OK

    async def test_a_url_of_the_configuration_is_not_guarded(self, desks: Desks) -> None:
        async with sink() as consumer:
            desk = desks(stranger(resolver=Names(("127.0.0.1",))))
            assert (await desk.run(f"http://own.example:{consumer.port}/")).status is Status.OK

    async def test_a_name_nobody_knows_is_a_failed_call(self, desks: Desks) -> None:
        class Unknown(Names):
            async def resolve(self, host: str, port: int) -> Infos:
                raise OSError(-2, "Name or service not known")

        desk = desks(stranger(resolver=Unknown()))
        for trusted in (True, False):
            assert (await desk.run("http://nowhere.example/", trusted=trusted)).message == "fetch failed"

    @pytest.mark.parametrize("url", ["http://", "ftp://h/", "http://[::1", "not a url", "http://h:99999/"])
    async def test_a_bad_url_of_the_configuration_is_a_failed_call(self, desk: Desk, url: str) -> None:
        assert (await desk.run(url)).message == "fetch failed"
        assert [kind for kind, _ in desk.observed] == ["error"]


class TestGet:
    """For the market and for keys: the whole body or nothing."""

    @pytest.fixture
    async def client(self) -> AsyncIterator[HttpClient]:
        client = HttpClient()
        yield client
        await client.close()

    async def get(self, client: HttpClient, consumer: Sink, *, limit: int = 1000, timeout_s: float = 5) -> bytes:
        found = await client.get(consumer.url, {"Accept": "application/json"}, timeout_s=timeout_s, limit=limit)
        return b"%d " % found.status + found.head

    async def test_the_whole_body_comes_with_any_status(self, client: HttpClient) -> None:
        async with sink(reply(404, b"z" * 1000)) as consumer:
            assert await self.get(client, consumer) == b"404 " + b"z" * 1000
        assert consumer.asked[0].line == "GET /cycle HTTP/1.1"
        assert consumer.asked[0].headers["Accept"] == "application/json"

    async def test_a_body_over_the_limit_is_none(self, client: HttpClient) -> None:
        async with sink(reply(200, b"z" * 1001)) as consumer:
            with pytest.raises(CallFailed, match="longer than 1000") as raised:
                await self.get(client, consumer)
        assert raised.value.kind == "too_large"

    async def test_half_a_body_is_a_failure_here(self, client: HttpClient) -> None:
        async def half(writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")

        async with sink(half) as consumer:
            with pytest.raises(CallFailed) as raised:
                await self.get(client, consumer)
        assert raised.value.kind == "protocol"

    async def test_a_slow_body_is_a_timeout(self, client: HttpClient) -> None:
        async def slow(writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
            await asyncio.Event().wait()

        async with sink(slow) as consumer:
            with pytest.raises(CallFailed) as raised:
                await self.get(client, consumer, timeout_s=0.2)
        assert raised.value.kind == "timeout"

    async def test_a_failure_names_no_path_and_no_query(self, client: HttpClient) -> None:
        with pytest.raises(CallFailed) as raised:
            await client.get("http://127.0.0.1:1/s3cret?token=s3cret", {}, timeout_s=5, limit=10)
        assert raised.value.kind == "connect"
        assert "127.0.0.1:1" in raised.value.message
        assert "s3cret" not in str(raised.value)

    async def test_what_is_kept_of_a_posts_answer_is_bounded(self, client: HttpClient) -> None:
        async with sink(reply(500, b"z" * 100_000)) as consumer:
            found = await client.post(consumer.url, b"", {}, timeout_s=5, trusted=True)
        assert found.head == b"z" * HEAD
