"""Keys, key sets and JWTs, honest and forged; an issuer on a real socket."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from functools import cache
from types import TracebackType
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

NOW_MS = 1_800_000_000_000
NOW_S = NOW_MS // 1000
SECRET = "a-secret-of-more-than-thirty-two-bytes"


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def claims(**changes: Any) -> dict[str, Any]:
    """Good for an hour; a claim set to None is left out."""
    found = {"sub": "ana", "exp": NOW_S + 3600, "scope": "agent:read"} | changes
    return {name: value for name, value in found.items() if value is not None}


def unsigned(header: Mapping[str, Any] | str, payload: Mapping[str, Any] | str) -> str:
    """Both as JSON text where they are no text yet."""
    texts = (part if isinstance(part, str) else json.dumps(part) for part in (header, payload))
    return ".".join(b64(text.encode()) for text in texts)


def hs256(
    payload: Mapping[str, Any] | str, secret: bytes = SECRET.encode(), header: Mapping[str, Any] | str | None = None
) -> str:
    text = unsigned({"alg": "HS256", "typ": "JWT"} if header is None else header, payload)
    return f"{text}.{b64(hmac.new(secret, text.encode(), hashlib.sha256).digest())}"


@cache
def rsa_key(number: int, bits: int) -> rsa.RSAPrivateKey:
    """The same one for the same `number`, as making one takes long."""
    assert number >= 0
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


@cache
def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def rs256(payload: Mapping[str, Any] | str, kid: str = "one", *, key: int = 0, **header: Any) -> str:
    text = unsigned({"alg": "RS256", "kid": kid} | header, payload)
    return f"{text}.{b64(rsa_key(key, 2048).sign(text.encode(), padding.PKCS1v15(), hashes.SHA256()))}"


def es256(payload: Mapping[str, Any], kid: str = "curve") -> str:
    text = unsigned({"alg": "ES256", "kid": kid}, payload)
    r, s = decode_dss_signature(ec_key().sign(text.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{text}.{b64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def rsa_jwk(kid: str = "one", *, key: int = 0, bits: int = 2048, **more: Any) -> dict[str, Any]:
    numbers = rsa_key(key, bits).public_key().public_numbers()
    return {"kty": "RSA", "kid": kid, "n": _number(numbers.n, bits // 8), "e": "AQAB"} | more


def private_part() -> str:
    """`d` of the key of `rsa_jwk()`."""
    return _number(rsa_key(0, 2048).private_numbers().d, 256)


def ec_jwk(kid: str = "curve") -> dict[str, Any]:
    numbers = ec_key().public_key().public_numbers()
    return {"kty": "EC", "crv": "P-256", "kid": kid, "x": _number(numbers.x, 32), "y": _number(numbers.y, 32)}


def public_pem(key: int = 0) -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return rsa_key(key, 2048).public_key().public_bytes(serialization.Encoding.PEM, form)


def _number(value: int, size: int) -> str:
    return b64(value.to_bytes(size, "big"))


class Issuer:
    """Publishes `keys`; `broken`, `slow` and the other switches say how it misbehaves."""

    def __init__(self) -> None:
        self.keys: list[Any] = [rsa_jwk()]
        self.named = ""
        """Other than its own address: what discovery says its issuer is."""
        self.jwks_uri = ""
        self.body: bytes | None = None
        self.broken = False
        self.moved = False
        self.hold: asyncio.Event | None = None
        self.reached = asyncio.Event()
        self.asked: list[str] = []
        self._server: TestServer | None = None

    async def __aenter__(self) -> "Issuer":
        app = web.Application()
        app.router.add_get("/.well-known/openid-configuration", self._discovery)
        app.router.add_get("/{name}", self._jwks)
        self._server = TestServer(app, host="127.0.0.1")
        await self._server.start_server()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def stop(self) -> None:
        """From now on connections are refused."""
        if self._server is not None:
            await self._server.close()

    @property
    def url(self) -> str:
        assert self._server is not None
        return str(self._server.make_url("")).rstrip("/")

    async def _discovery(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        return web.json_response(
            {"issuer": self.named or self.url, "jwks_uri": self.jwks_uri or f"{self.url}/jwks"},
        )

    async def _jwks(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        self.reached.set()
        if self.hold is not None:
            await self.hold.wait()
        if self.moved and request.path == "/jwks":
            raise web.HTTPFound("/elsewhere")
        if self.broken:
            return web.Response(status=503)
        return web.Response(body=self.body or json.dumps({"keys": self.keys}).encode())


async def fetch(url: str, most: int) -> tuple[int, bytes]:
    """As the program is to fetch: no redirects, and never more than `most` bytes in memory."""
    async with aiohttp.ClientSession() as session, session.get(url, allow_redirects=False) as reply:
        body = b""
        async for part in reply.content.iter_chunked(16 * 1024):
            body += part
            if len(body) > most:
                raise OverflowError("too long")
        return reply.status, body
