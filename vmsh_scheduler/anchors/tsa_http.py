"""A time-stamp request over HTTP (RFC 3161 section 3.4), and what is not an answer to one."""

from vmsh_scheduler.anchors.failures import Invalid
from vmsh_scheduler.anchors.fetch import Ask, fetch
from vmsh_scheduler.anchors.rail_entry import Authority
from vmsh_scheduler.errors import Busy, Denied, Unavailable

REPLY_LIMIT = 64 << 10
"""Bytes; real replies have 2 to 8 KiB."""
_HEADERS = {"Content-Type": "application/timestamp-query", "Accept": "application/timestamp-reply"}
_LATER = frozenset({408, 425, 429})


def post(authority: Authority, body: bytes) -> bytes:
    """The reply. Raises Unavailable, Busy (later), Denied (who we are), Invalid (what we asked), ConfigError."""
    where = authority.endpoint.http("url")
    status, reply = fetch(where, Ask("", body, _HEADERS), timeout_s=authority.timeout_s, limit=REPLY_LIMIT)
    _judge(where.where, status, reply)
    return reply


def _judge(where: str, status: int, reply: bytes) -> None:
    if status in (401, 403, 407):
        raise Denied(f"{where} refused us (HTTP {status})", hint="check user and password")
    if 300 <= status < 400:
        raise Unavailable(f"{where} redirects elsewhere (HTTP {status})", hint="set url to the authority itself")
    if status >= 500 or status in _LATER:
        raise Busy(f"{where} cannot answer now (HTTP {status})")
    if status != 200:
        raise Invalid(f"{where} does not take time-stamp requests there (HTTP {status})", hint="check url")
    if not reply:
        raise Unavailable(f"{where} gave an empty reply")
    if len(reply) > REPLY_LIMIT:
        raise Invalid(f"{where}: the reply is larger than {REPLY_LIMIT} bytes")
    if reply.lstrip()[:1] == b"<":
        raise Unavailable(f"{where} answered with a web page, not with a time stamp", hint="is a portal between?")
