"""W6: a callback over TLS goes only to whom the certificate names, and the certificate must be good."""

import asyncio
import ssl
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest import mock

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.sink import Sink, sink
from vmsh_scheduler.net.calls import CallFailed
from vmsh_scheduler.net.client import HttpClient
from vmsh_scheduler.net.connection import Connection

Record = Callable[[str, object], None]


def certificate(directory: Path, *, host: str = "localhost", days: int = 1) -> Path:
    """A self-signed one that ends `days` from now, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=10))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = directory / "server.pem"
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + secret)
    return path


@asynccontextmanager
async def server(pem: Path, version: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED) -> AsyncIterator[Sink]:
    """`version`: the newest it speaks; an old one is spoken although libraries would rather not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    if version is not ssl.TLSVersion.MAXIMUM_SUPPORTED:
        _speak(context, version)
    made = Sink()
    running = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=context)
    made.port = running.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        running.close()
        for writer in list(made.open):
            writer.transport.abort()
        await running.wait_closed()


def _speak(context: ssl.SSLContext, version: ssl.TLSVersion) -> None:
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version


async def post(consumer: Sink, trust: Path | None) -> int:
    """`trust`: the certificate is an authority of ours."""
    context = None if trust is None else ssl.create_default_context(cafile=str(trust))
    client = HttpClient(tls=context)
    try:
        url = f"https://localhost:{consumer.port}/"
        return (await client.post(url, b"{}", {}, timeout_s=5, trusted=True)).status
    finally:
        await client.close()


async def test_w6_a_good_certificate_is_taken(tmp_path: Path) -> None:
    pem = certificate(tmp_path)
    async with server(pem) as consumer:
        assert await post(consumer, pem) == 200


@pytest.mark.parametrize(
    ("host", "days", "known"),
    [("localhost", 1, False), ("other.example", 1, True), ("localhost", -1, True)],
    ids=["self-signed", "wrong host", "expired"],
)
async def test_w6_a_bad_certificate_is_refused(tmp_path: Path, host: str, days: int, known: bool) -> None:
    pem = certificate(tmp_path, host=host, days=days)
    async with server(pem) as consumer:
        with pytest.raises(CallFailed) as raised:
            await post(consumer, pem if known else None)
    assert raised.value.kind == "connect"
    assert "Certificate" in raised.value.message
    assert consumer.asked == []


OLD = (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1)


@pytest.mark.parametrize("version", OLD, ids=["TLS 1.0", "TLS 1.1"])
async def test_w6_an_old_protocol_is_refused(tmp_path: Path, version: ssl.TLSVersion, record_property: Record) -> None:
    pem = certificate(tmp_path)
    async with server(pem, version) as consumer:
        with pytest.raises(CallFailed) as raised:
            await post(consumer, pem)
    assert raised.value.kind == "connect"
    assert consumer.asked == []
    record_property("W6", "self-signed, wrong host, expired, TLS 1.0 and 1.1: 0 requests sent")


@pytest.mark.parametrize("version", OLD, ids=["TLS 1.0", "TLS 1.1"])
async def test_w6_bites_the_old_server_is_there_for_who_takes_it(tmp_path: Path, version: ssl.TLSVersion) -> None:
    pem = certificate(tmp_path)
    lenient = ssl.create_default_context(cafile=str(pem))
    _speak(lenient, version)
    async with server(pem, version) as consumer:
        _, writer = await asyncio.open_connection("127.0.0.1", consumer.port, ssl=lenient, server_hostname="localhost")
        assert writer.get_extra_info("ssl_object").version() == version.name.replace("_", ".")
        writer.close()


async def test_a_call_that_is_given_up_as_its_handshake_ends_spoils_no_other(tmp_path: Path) -> None:
    """Its descriptor is closed, and the next connection has the same number."""
    pem, made = certificate(tmp_path), Connection.connection_made
    client = HttpClient(tls=ssl.create_default_context(cafile=str(pem)))

    def given_up(connection: Connection, transport: asyncio.BaseTransport) -> None:
        made(connection, transport)
        call.cancel()

    async with server(pem) as slow, sink() as other:
        call = asyncio.create_task(client.post(f"https://localhost:{slow.port}/", b"{}", {}, timeout_s=5, trusted=True))
        with mock.patch.object(Connection, "connection_made", given_up), pytest.raises(asyncio.CancelledError):
            await call
        assert (await client.post(other.url, b"{}", {}, timeout_s=5, trusted=True)).status == 200
        await client.close()
