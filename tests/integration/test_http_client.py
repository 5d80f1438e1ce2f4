"""HTTP/1.1 as a client has to bear it: interim answers, bodies of every framing, and connections that are spent."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from tests.support.callbacks import until
from tests.support.sink import Answer, Sink, reply, sink
from vmsh_scheduler.net.calls import CallFailed, Reply
from vmsh_scheduler.net.client import HttpClient
from vmsh_scheduler.net.connection import HEADERS_LIMIT, Connection

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwhol\r\n1;x=y\r\ne\r\n0\r\nTrailer: t\r\n\r\n"
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"


@pytest.fixture
async def client() -> AsyncIterator[HttpClient]:
    client = HttpClient()
    yield client
    await client.close()


async def post(client: HttpClient, consumer: Sink, *, path: str = "", **headers: str) -> Reply:
    return await client.post(consumer.url + path, b"{}", headers, timeout_s=5, trusted=True)


async def get(client: HttpClient, consumer: Sink) -> bytes:
    return (await client.get(consumer.url, {}, timeout_s=5, limit=1000)).head


def then_ends(*parts: bytes) -> Answer:
    async def answer(writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.01)

    return answer


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (CHUNKED, b"whole"),
        (then_ends(b"HTTP/1.1 200 OK\r\n\r\nto the ", b"end"), b"to the end"),
        (then_ends(b"HTTP/1.0 200 OK\r\n\r\nold"), b"old"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (INTERIM + reply(200, b"real"), b"real"),
        (then_ends(INTERIM, INTERIM, b"HTTP/1.1 200 OK\r\n\r\nreal"), b"real"),
        (then_ends(*(bytes([one]) for one in reply(200, b"drop by drop"))), b"drop by drop"),
    ],
    ids=["chunked", "ends with the connection", "HTTP/1.0", "no content", "interim", "interim in pieces", "bytes"],
)
async def test_a_body_is_read_as_it_is_framed(client: HttpClient, answer: bytes | Answer, body: bytes) -> None:
    async with sink(answer) as consumer:
        assert await get(client, consumer) == body


@pytest.mark.parametrize(
    "answer",
    [
        then_ends(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf"),
        then_ends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxy",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"a" * (2 * HEADERS_LIMIT),
        b"HTTP/1.1 100 Continue\r\n\r\n" * (HEADERS_LIMIT // 20),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: " + b"a" * (4 * HEADERS_LIMIT),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"a" * (4 * HEADERS_LIMIT),
        b"HTTP/1.1 099 Odd\r\n\r\n",
    ],
    ids=[
        *("half", "half of chunks", "negative", "two lengths", "length and chunks", "upgrade", "101", "flood"),
        *("100s", "trailers", "extensions", "no status"),
    ],
)
async def test_anything_else_is_no_answer(client: HttpClient, answer: bytes | Answer) -> None:
    async with sink(answer) as consumer:
        with pytest.raises(CallFailed) as raised:
            await get(client, consumer)
    assert raised.value.kind == "protocol"


@pytest.mark.parametrize(
    "answer",
    [
        reply(200, b"{}", "Connection: close"),
        reply(200, b"{}") + b"more than was asked for",
        reply(200, b"{}") + reply(500, b"of nobody"),
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    ],
    ids=["close", "junk behind", "two answers", "HTTP/1.0"],
)
async def test_a_spent_connection_is_not_used_again(client: HttpClient, answer: bytes) -> None:
    async with sink(answer) as consumer:
        assert [await post(client, consumer) for _ in range(2)] == [Reply(200, b"{}")] * 2
        assert (consumer.connections, len(consumer.asked)) == (2, 2)


@pytest.mark.parametrize("size", [1, 7])
async def test_a_body_in_the_smallest_chunks_is_a_body(client: HttpClient, size: int) -> None:
    chunk = b"%x\r\n%s\r\n" % (size, b"x" * size)
    parts = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk * 30_000 + b"0\r\n\r\n"
    async with sink(parts) as consumer:
        found = await client.get(consumer.url, {}, timeout_s=5, limit=1_000_000)
    assert found.head == b"x" * size * 30_000


async def test_an_error_whose_trailers_never_end_costs_no_more_than_its_headers(client: HttpClient) -> None:
    sent = 0

    async def endless(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: ")
        while not writer.transport.is_closing():
            writer.write(b"a" * 1024)
            await writer.drain()
            sent += 1024

    async with sink(endless) as consumer:
        assert (await post(client, consumer)).status == 500
    assert sent < 4_000_000, "what lies in the buffers of two sockets, at most"


async def test_an_answer_before_the_question_was_taken_spends_its_connection(client: HttpClient) -> None:
    over = asyncio.Event()

    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(reply())
        await over.wait()
        writer.transport.abort()

    server = await asyncio.start_server(early, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    for _ in range(2):
        large = await client.post(url, b"z" * 8_000_000, {}, timeout_s=5, trusted=True)
        assert large.status == 200
    over.set()
    server.close()
    await client.close()
    await asyncio.sleep(0)


async def test_no_more_connections_wait_than_may_be_used() -> None:
    client = HttpClient(limit=2)
    async with sink() as one, sink() as two, sink() as three:
        for consumer in (one, two, three):
            await post(client, consumer)
        await until(lambda: len(one.open) + len(two.open) + len(three.open) == 2)
        assert not one.open
        await client.close()


async def test_who_waits_in_line_hears_that_the_client_is_closed() -> None:
    async def never(writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    client = HttpClient(limit=1)
    async with sink(never) as consumer:
        calls = [asyncio.create_task(post(client, consumer)) for _ in range(3)]
        await until(lambda: len(consumer.asked) == 1)
        await client.close()
        ended = await asyncio.gather(*calls, return_exceptions=True)
    assert [end.kind for end in ended if isinstance(end, CallFailed)] == ["connect"] * 3


async def test_a_get_that_waits_when_the_client_is_closed_is_not_asked_anew() -> None:
    async def never(writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    client = HttpClient()
    async with sink() as consumer:
        await get(client, consumer)
        consumer.answer = never
        call = asyncio.create_task(get(client, consumer))
        await until(lambda: len(consumer.asked) == 2)
        await client.close()
        with pytest.raises(CallFailed):
            await call
        assert (consumer.connections, len(consumer.asked)) == (1, 2)


async def test_what_comes_while_nobody_asked_ends_the_connection(client: HttpClient) -> None:
    async with sink() as consumer:
        await post(client, consumer)
        for writer in list(consumer.open):
            writer.write(reply(200, b"the answer to the next question"))
        await until(lambda: not consumer.open)
        assert (await post(client, consumer)).head == b'{"ok":true}'
    assert consumer.connections == 2


async def test_a_connection_that_the_other_side_closed_is_noticed(client: HttpClient) -> None:
    async with sink() as consumer:
        await post(client, consumer)
        for writer in list(consumer.open):
            writer.close()
            await writer.wait_closed()
        await asyncio.sleep(0)
        await until(lambda: not consumer.open)
        assert (await post(client, consumer)).status == 200
    assert consumer.connections == 2


@asynccontextmanager
async def hung_up_on() -> AsyncIterator[tuple[HttpClient, str, list[bytes]]]:
    """A client of two connections, and a server that answers one question per connection and hangs up on the second."""
    heard: list[bytes] = []
    over: list[bool] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        over.append(False)
        number = len(over) - 1
        for answer in (reply(200, b"first"), b""):
            if line := await reader.readline():
                heard.append(line.split(b" ", 1)[0])
                await reader.readuntil(b"\r\n\r\n")
                writer.write(answer)
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        over[number] = True

    client = HttpClient(limit=2)
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield client, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", heard
    await client.close()
    server.close()
    await until(lambda: all(over))


async def test_a_get_that_met_a_closing_connection_asks_anew_and_a_post_does_not() -> None:
    """RFC 9110 section 9.2.2: a POST may have been heard."""
    async with hung_up_on() as (client, url, heard):
        for _ in range(3):
            assert (await client.get(url, {}, timeout_s=5, limit=100)).head == b"first"
        assert heard == [b"GET"] * 5
        with pytest.raises(CallFailed) as failed:
            await client.post(url, b"", {}, timeout_s=5, trusted=True)
        assert (failed.value.kind, heard[5:]) == ("connect", [b"POST"])


async def test_nor_is_a_get_lost_that_waited_in_line_for_such_a_connection() -> None:
    async with hung_up_on() as (client, url, heard):
        replies = await asyncio.gather(*(client.get(url, {}, timeout_s=5, limit=100) for _ in range(9)))
        assert [reply.head for reply in replies] == [b"first"] * 9
        assert len(heard) > 9


async def test_a_call_that_is_given_up_takes_its_connection_along(client: HttpClient) -> None:
    async def never(writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    async with sink(never) as consumer:
        call = asyncio.create_task(post(client, consumer))
        await until(lambda: len(consumer.asked) == 1)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        consumer.answer = reply()
        assert (await post(client, consumer)).status == 200
    assert consumer.connections == 2


async def test_those_in_line_go_on_in_turn_and_whoever_gives_up_leaves_it(client: HttpClient) -> None:
    one = HttpClient(limit=1, limit_per_host=1)
    gate = asyncio.Event()

    async def held(writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        writer.write(reply(200, b"{}", "Connection: close"))

    async with sink(held) as consumer:
        calls = [asyncio.create_task(post(one, consumer, path=f"/{n}")) for n in range(4)]
        await until(lambda: len(consumer.asked) == 1)
        calls[1].cancel()
        gate.set()
        ended = await asyncio.gather(*calls, return_exceptions=True)
    await one.close()
    assert [type(end) for end in ended] == [Reply, asyncio.CancelledError, Reply, Reply]
    assert [asked.line.split()[1] for asked in consumer.asked] == ["/cycle/0", "/cycle/2", "/cycle/3"]


@pytest.mark.parametrize("value", ["a\r\nX-Forged: 1", "a\nb", "a\rb", "ä"])
async def test_no_value_becomes_a_line_of_its_own(client: HttpClient, value: str) -> None:
    async with sink() as consumer:
        with pytest.raises(CallFailed) as raised:
            await post(client, consumer, X=value)
    assert (raised.value.kind, consumer.asked) == ("protocol", [])


async def test_what_is_asked_for_is_what_the_url_says(client: HttpClient) -> None:
    async with sink() as consumer:
        url = f"http://us%20er:p%40ss@127.0.0.1:{consumer.port}/a%3Ab/ü?q=1&r=%2F#part"
        await client.post(url, b"", {}, timeout_s=5, trusted=True)
        await client.get(f"http://127.0.0.1:{consumer.port}/a%3Ab", {}, timeout_s=5, limit=100)
    first, second = consumer.asked
    assert first.line == "POST /a:b/%C3%BC?q=1&r=/ HTTP/1.1"
    assert first.headers["Host"] == f"127.0.0.1:{consumer.port}"
    assert first.headers["Authorization"] == "Basic dXMgZXI6cEBzcw=="
    assert second.line == "GET /a%3Ab HTTP/1.1"


async def test_the_next_address_is_tried_when_the_first_is_dead(client: HttpClient) -> None:
    """`localhost` is ::1 first on most machines, where nobody listens."""
    async with sink() as consumer:
        url = f"http://localhost:{consumer.port}/"
        assert (await client.post(url, b"", {}, timeout_s=5, trusted=True)).status == 200


async def test_w5_a_connection_that_ended_needs_no_search_for_garbage(client: HttpClient) -> None:
    """What the parser joined of a long header would stay until then."""
    gc.collect()
    gc.disable()
    try:
        async with sink(b"HTTP/1.1 200 OK\r\nA: " + b"a" * (2 * HEADERS_LIMIT)) as consumer:
            for _ in range(3):
                with suppress(CallFailed):
                    await post(client, consumer)
        await until(lambda: not any(type(one) is Connection for one in gc.get_objects()))
    finally:
        gc.enable()
