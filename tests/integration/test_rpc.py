"""JSON-RPC to a node that behaves, and to everything else that may listen there."""

import socket
import threading
import time
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from tests.support.rpc_door import BODY, Document, Door, door
from vmsh_scheduler.anchors import rpc
from vmsh_scheduler.anchors.chain import Unreachable
from vmsh_scheduler.anchors.fetch import Ask, fetch
from vmsh_scheduler.anchors.rpc import NotRpc, Rpc, RpcError, endpoint
from vmsh_scheduler.errors import ConfigError, Denied


def echo(method: str, params: list[Any]) -> Document:
    if method == "fail":
        return {"error": {"code": -32000, "message": params[0], "data": "0x"}}
    return {"result": [method, *params]}


@pytest.fixture
def node() -> Iterator[Door]:
    with door(echo) as opened:
        yield opened


@contextmanager
def talking(talk: Callable[[socket.socket], object]) -> Iterator[str]:
    """`talk` is left alone with whoever connects first, and has asked something."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                client, _ = server.accept()
                with client:
                    client.recv(65_536)
                    talk(client)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)
        assert not thread.is_alive()


@contextmanager
def listening(say: bytes) -> Iterator[str]:
    """Says this to whoever connects, once, and then nothing."""
    with talking(lambda client: (client.sendall(say), client.recv(1))) as url:
        yield url


def test_a_call(node: Door) -> None:
    assert Rpc(endpoint(node.url)).call("eth_x", 1, "a", {"b": [None]}) == ["eth_x", 1, "a", {"b": [None]}]


def test_its_own_error(node: Door) -> None:
    with pytest.raises(RpcError) as caught:
        Rpc(endpoint(node.url)).call("fail", "no\x1b[31m\n way" + "x" * 1000)
    assert caught.value.number == -32000
    assert caught.value.said.startswith("no [31m wayxxx")
    assert len(caught.value.said) <= 300


@pytest.mark.parametrize("how", [*BODY, "500"])
def test_what_is_no_answer(node: Door, how: str) -> None:
    node.fail("*", how)
    with pytest.raises(NotRpc) as caught:
        Rpc(endpoint(node.url)).call("eth_x")
    assert node.url in str(caught.value)
    assert "nonsense" not in str(caught.value)


def test_an_error_with_status_500(node: Door) -> None:
    """As bitcoind says it."""
    node.fail("*", "json500")
    with pytest.raises(RpcError, match="node is busy"):
        Rpc(endpoint(node.url)).call("eth_x")


def test_a_redirect_is_not_followed(node: Door) -> None:
    node.fail("*", "redirect")
    with pytest.raises(NotRpc, match="redirects"):
        Rpc(endpoint(node.url)).call("eth_x")
    assert len(node.seen.calls) == 1


@pytest.mark.parametrize("how", ["401", "403"])
def test_refused_credentials(node: Door, how: str) -> None:
    node.fail("*", how)
    with pytest.raises(Denied):
        Rpc(endpoint(node.url)).call("eth_x")


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(Unreachable, match="refused"):
        Rpc(endpoint(f"http://127.0.0.1:{port}")).call("eth_x")


def test_a_name_that_is_none() -> None:
    with pytest.raises(Unreachable):
        Rpc(endpoint(f"http://{'x' * 70}.invalid")).call("eth_x")


SLOW = {"silence": b"", "headers": b"HTTP/1.1 200 OK\r\nX: "}


@pytest.mark.parametrize("how", ["drip", *SLOW])
def test_it_ends_in_time(node: Door, how: str) -> None:
    """A byte now and then is no answer either."""
    node.fail("*", "drip")
    began = time.monotonic()
    with listening(SLOW.get(how, b"")) as url, pytest.raises(Unreachable):
        Rpc(endpoint(node.url if how == "drip" else url), timeout_s=0.3).call("eth_x")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    "said", [b"SSH-2.0-OpenSSH_9\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}", b"\x16\x03\x01"]
)
def test_other_protocols(said: bytes) -> None:
    with listening(said) as url, pytest.raises(Unreachable):
        Rpc(endpoint(url), timeout_s=0.5).call("eth_x")


def test_an_answer_without_end(node: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpc, "ANSWER_LIMIT", 1000)
    with pytest.raises(NotRpc, match="more than 1000 bytes"):
        Rpc(endpoint(node.url)).call("eth_x", "x" * 2000)


@contextmanager
def pouring(head: bytes, most: int) -> Iterator[tuple[str, list[int]]]:
    """Answers with `head` and then as much as is taken; how many bytes that were."""
    taken = [0]

    def pour(client: socket.socket) -> None:
        client.sendall(head)
        while taken[0] < most:
            taken[0] += client.send(b"x" * 65_536)

    with talking(pour) as url:
        yield url, taken


ENDLESS = {
    "a chunk below 0": b"Transfer-Encoding: chunked\r\n\r\n-1\r\n",
    "a huge chunk": b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\n",
    "a huge length": b"Content-Length: 99999999999999999999\r\n\r\n",
    "a length below 0": b"Content-Length: -1\r\n\r\n",
    "no length": b"\r\n",
}
POURED = 128 << 20
"""Far more than two sockets hold."""


@pytest.mark.parametrize("how", ENDLESS)
def test_of_no_answer_more_is_taken_than_the_limit(how: str) -> None:
    with pouring(b"HTTP/1.1 200 OK\r\n" + ENDLESS[how], POURED) as (url, taken):
        status, body = fetch(endpoint(url), Ask("/x"), timeout_s=10, limit=1000)
    assert (status, len(body)) == (200, 1001)
    assert taken[0] < POURED // 4
    pour = pouring(b"HTTP/1.1 200 OK\r\n" + ENDLESS[how], POURED)
    with pour as (url, taken), pytest.raises(NotRpc, match="more than 16777216 bytes"):
        Rpc(endpoint(url)).call("eth_x")
    assert taken[0] < POURED // 2


def test_a_chunk_of_a_size_that_no_machine_has() -> None:
    said = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-%s\r\nxx" % (b"f" * 40)
    with listening(said) as url, pytest.raises(NotRpc, match="IncompleteRead"):
        Rpc(endpoint(url), timeout_s=5).call("eth_x")


@pytest.mark.parametrize("chunks", [1, 3, 500])
def test_an_answer_in_chunks(chunks: int) -> None:
    body = b'{"id": 1, "result": "' + b"y" * 100_000 + b'"}'
    size = -(-len(body) // chunks)
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    said = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    with listening(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + said) as url:
        assert Rpc(endpoint(url)).call("eth_x") == "y" * 100_000


@pytest.mark.parametrize("end", [b"", b"5\r\nxx", b"zz\r\n"], ids=["no last chunk", "cut", "no size"])
def test_chunks_that_are_cut_short(end: bytes) -> None:
    said = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n" + end
    with listening(said) as url, pytest.raises(Unreachable):
        Rpc(endpoint(url), timeout_s=0.5).call("eth_x")


def test_nested_without_end() -> None:
    body = b'{"result":' + b"[" * 100_000
    said = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    with listening(said) as url, pytest.raises(NotRpc):
        Rpc(endpoint(url), timeout_s=2).call("eth_x")


def test_user_and_password(node: Door) -> None:
    where = node.url.removeprefix("http://")
    Rpc(endpoint(f"http://us%40er:p%3Aw@{where}/v3/0123456789abcdef")).call("eth_x")
    Rpc(endpoint(node.url, user="us@er", password="p:w")).call("eth_x")
    told = [headers["Authorization"] for headers in node.seen.headers]
    assert told == ["Basic dXNAZXI6cDp3"] * 2


@pytest.mark.parametrize("password", ["hunter2", "hunter", "hunte", "h\u00ff\u00ff\u00bf?>\u00fb"])
def test_user_and_password_as_one_word_are_in_no_text(node: Door, password: str) -> None:
    """With its padding or without, in either alphabet."""
    found = endpoint(node.url, user="user", password=password)
    words = [code(f"user:{password}".encode()).decode() for code in (b64encode, urlsafe_b64encode)]
    words += [word.rstrip("=") for word in words]
    for word in words:
        with pytest.raises(RpcError) as caught:
            Rpc(found).call("fail", f"told {word}.")
        assert "told ***" in str(caught.value)
        assert word[:8] not in str(caught.value)


def test_what_the_url_keeps_secret_is_in_no_text(node: Door) -> None:
    where = node.url.removeprefix("http://")
    found = endpoint(f"http://user:hunter2@{where}/v3/0123456789abcdef?key=fedcba9876543210")
    node.fail("bad", "html")
    texts = [repr(found), str(Rpc(found))]
    echoed = "project 0123456789abcdef, fedcba9876543210, hunter2, Basic dXNlcjpodW50ZXIy"
    for method, said in (("fail", echoed), ("bad", "")):
        with pytest.raises(Unreachable) as caught:
            Rpc(found).call(method, said)
        texts += [str(caught.value), repr(caught.value)]
    for secret in ("0123456789abcdef", "fedcba9876543210", "hunter2", "dXNlcjpodW50ZXIy"):
        assert not any(secret in text for text in texts), texts


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:8545",
        "ftp://x/",
        "http://",
        "http://x:99999/",
        "http://[::1",
        "http://a b/",
        "http://x/\r\nX: y",
        "http://é/",
    ],
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ConfigError, match="rpcUrl"):
        endpoint(url)


def test_where(node: Door) -> None:
    assert endpoint("https://a.example/x").where == "https://a.example:443"
    assert endpoint("http://[::1]:8545").where == "http://[::1]:8545"
