"""The API's one door: order of checks, error shapes, CORS, limits. Knows HTTP through aiohttp, and no scheduler."""

import asyncio
import json
import logging
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

from aiohttp import web

from vmsh_scheduler.api.auth import Authenticator
from vmsh_scheduler.api.principal import AuthSettings, Principal
from vmsh_scheduler.api.quota import Quotas
from vmsh_scheduler.api.scopes import required
from vmsh_scheduler.domain.json_text import encoded
from vmsh_scheduler.errors import SchedulerError

BODY_LIMIT = 1 << 20
BODY_S = 10.0
SERVER = "vmsh-scheduler"
"""Without it the library would name itself and Python, with their versions."""
REQUEST_ID = "X-Request-Id"
JSON_TYPE = "application/json"
"""Exactly so, without a charset (forge-os section 2)."""

_LOG = logging.getLogger("vmsh_scheduler.api")
_LOCAL_NAME = r"(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?"
_LOCAL_HOST = re.compile(_LOCAL_NAME, re.IGNORECASE | re.ASCII)
_PORT = re.compile(r":\d{1,5}\Z", re.ASCII)
_LOCAL_ORIGIN = re.compile(f"https?://{_LOCAL_NAME}", re.IGNORECASE | re.ASCII)

Answer = Mapping[str, object]


class Problem(Exception):
    """An answer other than 200: `{"error": {"message": code, ...}}`."""

    def __init__(self, status: int, code: str, headers: Mapping[str, str] | None = None, **extra: object) -> None:
        super().__init__(code)
        self.status = status
        self.code = code
        self.headers = headers or {}
        self.extra = extra


@dataclass(frozen=True, slots=True)
class Call:
    """One request as a handler sees it."""

    principal: Principal | None
    headers: Mapping[str, str]
    """Lower-cased names."""
    query: Mapping[str, str]
    body: bytes = b""
    parts: tuple[str, ...] = ()
    """What stands in the holes of the route's template."""
    peer: str = ""

    def document(self) -> Mapping[str, object]:
        """The body as an object: empty or another value is an empty one (forge-os section 2)."""
        if not self.body.strip():
            return {}
        try:
            found = json.loads(self.body.decode("utf-8"), parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise Problem(400, "invalid_json") from error
        return found if isinstance(found, dict) else {}


@dataclass(frozen=True, slots=True)
class Text:
    """An answer that is no JSON."""

    body: bytes
    content_type: str
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Call], Awaitable[Answer | Text]]


@dataclass(frozen=True, slots=True)
class Route:
    """`template`: exact, or with `{name}` for one whole segment. It is also the label in metrics."""

    method: str
    template: str
    handler: Handler
    summary: str = ""
    verb: str = ""
    """What the audit log calls it; "" = it changes nothing."""

    @property
    def label(self) -> str:
        return f"{self.method} {self.template}"

    def match(self, method: str, segments: tuple[bytes, ...]) -> tuple[bytes, ...] | None:
        """What fills the holes, as it was sent."""
        wanted = self.template.split("/")
        if method != self.method or len(wanted) != len(segments):
            return None
        holes: list[bytes] = []
        for want, have in zip(wanted, segments, strict=True):
            if want.startswith("{"):
                holes.append(have)
            elif want.encode() != have:
                return None
        return tuple(holes)


@dataclass(frozen=True, slots=True)
class Audited:
    """One call that was meant to change something, whatever became of it."""

    who: str
    verb: str
    key: str
    """The agent's, as far as it is known; "" for none."""
    action: str
    """Of a control that was done."""
    peer: str
    status: int
    """0: there was nobody left to answer, or no time."""
    request_id: str


Audit = Callable[[Audited], None]


@dataclass(frozen=True, slots=True)
class Access:
    """Who may ask, and how often."""

    settings: AuthSettings
    authenticator: Authenticator
    quotas: Quotas
    origins: frozenset[str]
    local: bool = False
    """Bound to loopback: Host has to name it (decision 31)."""
    hosts: frozenset[str] = frozenset()
    """Other names that Host may have then: those of a proxy on this machine. Lower-case, without a port."""


@dataclass
class Tally:
    """For metrics: answers by route template and status, and what access control did."""

    answers: dict[tuple[str, int], int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def answered(self, route: str, status: int) -> None:
        self.answers[route, status] = self.answers.get((route, status), 0) + 1

    def add(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1


@dataclass(slots=True)
class _Trace:
    """What is known of a request so far."""

    id: str
    route: Route | None = None
    principal: Principal | None = None
    parts: tuple[str, ...] = ()
    said: Mapping[str, object] = field(default_factory=dict)
    """What was answered that names the agent."""

    @property
    def key(self) -> str:
        found = self.said.get("key")
        return found if isinstance(found, str) else "/".join(self.parts)[:120]

    def audited(self, peer: str, status: int) -> Audited:
        who = self.principal.sub if self.principal else "anonymous"
        action = self.said.get("action")
        verb = self.route.verb if self.route else ""
        return Audited(who, verb, self.key, action if isinstance(action, str) else "", peer, status, self.id)


class Surface:
    """Handles every request of the listener: OPTIONS, then access, then the route, then 404 (forge-os section 2)."""

    def __init__(
        self,
        routes: tuple[Route, ...],
        access: Access,
        tally: Tally,
        *,
        audit: Audit | None = None,
        body_s: float = BODY_S,
    ) -> None:
        self.routes = routes
        self.tally = tally
        self._access = access
        self._audit = audit
        self._body_s = body_s

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        self.tally.add("http_requests_total")
        trace = _Trace(_request_id(request))
        status = 0
        try:
            response = await self._answered(request, trace)
            status = response.status
        finally:
            self._record(request, trace, status)
        self._dress(request, response, trace.id)
        return response

    def _record(self, request: web.BaseRequest, trace: _Trace, status: int) -> None:
        label = "OPTIONS" if request.method == "OPTIONS" else trace.route.label if trace.route else "other"
        if status:
            self.tally.answered(label, status)
        if trace.route is not None and trace.route.verb and self._audit is not None:
            self._audit(trace.audited(request.remote or "", status))

    async def _answered(self, request: web.BaseRequest, trace: _Trace) -> web.Response:
        try:
            return await self._answer(request, trace)
        except Problem as problem:
            trace.said = problem.extra
            return _refusal(problem)
        except SchedulerError as error:
            return _refusal(Problem(503, error.code))
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception as error:  # a defect of ours costs one answer, never the daemon (D1)
            _LOG.error("api failed", exc_info=error)
            return _refusal(Problem(500, "internal_error"))

    async def _answer(self, request: web.BaseRequest, trace: _Trace) -> web.Response:
        self._refuse_misdirected(request)
        if request.method == "OPTIONS":
            return web.Response(status=204)
        path = request.rel_url.raw_path if request.path.startswith("/") else ""
        segments = tuple(part.encode("utf-8", "surrogateescape") for part in path.split("/"))
        trace.route, holes = self._find(request.method, segments)
        self._refuse_foreign(request)
        headers = {name.lower(): value for name, value in request.headers.items()}
        await self._admit(request.method, path, headers, trace)
        if trace.route is None:
            raise Problem(404, "not_found")
        trace.parts = tuple(_decoded(hole) for hole in holes)
        body = await _body(request, self._body_s)
        call = Call(trace.principal, headers, request.query, body, trace.parts, request.remote or "")
        answer = await trace.route.handler(call)
        trace.said = answer if isinstance(answer, Mapping) else {}
        return _encoded(answer)

    def _find(self, method: str, segments: tuple[bytes, ...]) -> tuple[Route | None, tuple[bytes, ...]]:
        for route in self.routes:
            holes = route.match(method, segments)
            if holes is not None:
                return route, holes
        return None, ()

    def _refuse_misdirected(self, request: web.BaseRequest) -> None:
        """A name that was rebound to loopback lets no page of the internet in (decision 31)."""
        host = request.headers.get("Host", "localhost")
        named = _LOCAL_HOST.fullmatch(host) or _PORT.sub("", host).lower() in self._access.hosts
        if self._access.local and not named:
            raise Problem(421, "misdirected", {"Connection": "close"})

    def _refuse_foreign(self, request: web.BaseRequest) -> None:
        """Without authentication a browser's POST must come from here, and be one it would ask OPTIONS for first."""
        origin = request.headers.get("Origin")
        if request.method != "POST" or self._access.settings.enabled or origin is None:
            return
        if not _LOCAL_ORIGIN.fullmatch(origin):
            raise Problem(403, "origin_not_allowed")
        if request.headers.get("Content-Type", "").partition(";")[0].strip().lower() != JSON_TYPE:
            raise Problem(403, "json_required")

    async def _admit(self, method: str, path: str, headers: Mapping[str, str], trace: _Trace) -> None:
        need = required(method, path, self._access.settings)
        principal = trace.principal = await self._access.authenticator.authenticate(headers)
        if need.auth and principal is None:
            self.tally.add("auth_failures_total")
            raise Problem(401, "unauthorized", {"WWW-Authenticate": "Bearer"})
        if principal is None or not need.auth:
            return
        self.tally.add("auth_success_total")
        if not principal.allows(need.scope):
            self.tally.add("auth_scope_denied_total")
            raise Problem(403, "forbidden", required_scope=need.scope)
        if need.bucket:
            await self._spend(principal, need.bucket)

    async def _spend(self, principal: Principal, bucket: str) -> None:
        self.tally.add("quota_checks_total")
        refusal = await self._access.quotas.spend(principal.sub, bucket)
        if refusal is not None:
            self.tally.add("quota_exceeded_total")
            later = {"Retry-After": str(refusal.retry_after_s)}
            raise Problem(429, "quota_exceeded", later, bucket=bucket, limit=refusal.limit)

    def _dress(self, request: web.BaseRequest, response: web.Response, request_id: str) -> None:
        response.headers[REQUEST_ID] = request_id
        response.headers["Server"] = SERVER
        origin = self._origin(request.headers.get("Origin", ""))
        if origin:
            response.headers["Access-Control-Allow-Origin"] = origin
        if response.content_type == JSON_TYPE or response.status == 204:
            response.headers["Access-Control-Allow-Methods"] = "GET,POST,OPTIONS"
            response.headers["Access-Control-Allow-Headers"] = "Content-Type,X-User-Id,Authorization,X-Scheduler-Token"
        response.headers["Vary"] = "Origin"
        if response.status != 204:
            response.headers["Cache-Control"] = "no-store"

    def _origin(self, origin: str) -> str:
        """Never the text `null` (D33). Without authentication a foreign page may not use the reader's loopback."""
        if not self._access.settings.enabled:
            return origin if _LOCAL_ORIGIN.fullmatch(origin) else ""
        if "*" in self._access.origins:
            return origin if origin not in ("", "null") else "*"
        return origin if origin in self._access.origins else ""


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is no JSON")


def _decoded(part: bytes) -> str:
    """Raises Problem: a percent sign without two digits, or bytes that are no text (D2)."""
    if any(len(tail) < 2 or not _is_hex(tail[:2]) for tail in part.split(b"%")[1:]):
        raise Problem(400, "invalid_path")
    try:
        return unquote_to_bytes(part).decode("utf-8")
    except UnicodeDecodeError as error:
        raise Problem(400, "invalid_path") from error


def _is_hex(digits: bytes) -> bool:
    return all(digit in b"0123456789abcdefABCDEF" for digit in digits)


def _fits(request_id: str) -> bool:
    return 0 < len(request_id) <= 64 and request_id.isascii() and request_id.replace("-", "").isalnum()


def malformed(tally: Tally, status: int) -> web.Response:
    """The answer to what is no request at all; it says nothing of what was sent."""
    tally.add("http_requests_total")
    tally.answered("other", status)
    response = _refusal(Problem(status, "bad_request" if status < 500 else "internal_error", {"Connection": "close"}))
    response.headers["Server"] = SERVER
    return response


def _request_id(request: web.BaseRequest) -> str:
    asked = request.headers.get(REQUEST_ID, "")
    return asked if _fits(asked) else secrets.token_hex(8)


async def _body(request: web.BaseRequest, within_s: float) -> bytes:
    """Whole, or Problem: 413 before anything past the limit is read, 408 when it does not come."""
    if request.method != "POST":
        return b""
    if (request.content_length or 0) > BODY_LIMIT:
        raise Problem(413, "payload_too_large", {"Connection": "close"})
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    found = bytearray()
    try:
        async with asyncio.timeout(within_s):
            async for chunk in request.content.iter_any():
                found += chunk
                if len(found) > BODY_LIMIT:
                    raise Problem(413, "payload_too_large", {"Connection": "close"})
    except TimeoutError as error:
        raise Problem(408, "request_timeout", {"Connection": "close"}) from error
    except web.RequestPayloadError as error:
        raise Problem(400, "invalid_body", {"Connection": "close"}) from error
    return bytes(found)


def _encoded(answer: Answer | Text) -> web.Response:
    if isinstance(answer, Text):
        return web.Response(body=answer.body, headers={"Content-Type": answer.content_type, **answer.headers})
    return _json(200, answer)


def _refusal(problem: Problem) -> web.Response:
    response = _json(problem.status, {"error": {"message": problem.code, **problem.extra}})
    response.headers.update(problem.headers)
    if "Connection" in problem.headers:
        response.force_close()
    return response


def _json(status: int, document: Mapping[str, object]) -> web.Response:
    return web.Response(status=status, body=encoded(document), headers={"Content-Type": JSON_TYPE})
