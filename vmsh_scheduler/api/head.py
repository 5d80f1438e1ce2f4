"""Reads a request's head: strictly, so that there is no room for smuggling."""

import re
from collections.abc import Collection
from dataclasses import dataclass

from vmsh_scheduler.api.messages import Reply, error_reply

HEAD_LIMIT = 8192
END = b"\r\n\r\n"

_REQUEST_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,32}) (?:/|https?://)[!-~]{0,4096} HTTP/1\.([01])")
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}):[ \t]*([\t -~\x80-\xff]*?)[ \t]*")
_LOOPBACK_HOST = re.compile(rb"(?i)(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?")


@dataclass(frozen=True, slots=True)
class HeadRules:
    """What a listener lets through. `body_limit` 0: requests have no body here."""

    methods: Collection[str] = ("GET", "HEAD")
    body_limit: int = 0
    loopback_hosts: bool = False
    """Only names of this machine in Host: a page of the internet cannot reach us through a rebound name."""


def inspect(head: bytes, rules: HeadRules) -> Reply | int:
    """The answer to a head that goes no further, or how many bytes of body follow a good one."""
    line, *lines = head.removesuffix(END).split(b"\r\n")
    request = _REQUEST_LINE.fullmatch(line)
    named = _named(lines)
    if request is None or named is None:
        return error_reply(400, "bad_request", "not an HTTP/1.1 request")
    bad = (
        _host_refusal(named.get(b"host", []), rules, old=request[2] == b"0")
        or _body_refusal(named, request[1], rules)
        or _method_refusal(request[1].decode(), rules)
    )
    return bad or int(named.get(b"content-length", [b"0"])[0])


def request_of(head: bytes) -> tuple[str, str, str]:
    """Method, target and Accept of a head that `inspect` let through."""
    line, *lines = head.removesuffix(END).decode("latin-1").split("\r\n")
    method, target, _ = line.split(" ")
    accepted = (
        value.strip() for name, _, value in (field.partition(":") for field in lines) if name.lower() == "accept"
    )
    return method, target, next(accepted, "")


def _named(lines: list[bytes]) -> dict[bytes, list[bytes]] | None:
    """Header values by lower-case name; None if one line is no header (folded ones are not)."""
    named: dict[bytes, list[bytes]] = {}
    for line in lines:
        found = _FIELD.fullmatch(line)
        if found is None:
            return None
        named.setdefault(found[1].lower(), []).append(found[2])
    return named


def _host_refusal(hosts: list[bytes], rules: HeadRules, *, old: bool) -> Reply | None:
    """HTTP/1.0 may do without a Host."""
    if len(hosts) > 1 or (not hosts and not old):
        return error_reply(400, "bad_request", "exactly one Host header is needed")
    if rules.loopback_hosts and hosts and not _LOOPBACK_HOST.fullmatch(hosts[0]):
        return error_reply(421, "misdirected", "this listener answers to localhost only")
    return None


def _body_refusal(named: dict[bytes, list[bytes]], method: bytes, rules: HeadRules) -> Reply | None:
    lengths = named.get(b"content-length", [])
    if len(lengths) > 1 or not all(text.isdigit() and len(text) <= 18 for text in lengths):
        return error_reply(400, "bad_request", "Content-Length makes no sense")
    if b"transfer-encoding" in named:
        if lengths:
            return error_reply(400, "bad_request", "Content-Length and Transfer-Encoding contradict each other")
        return error_reply(411 if rules.body_limit else 413, "length_required", "send Content-Length, not chunks")
    if lengths and int(lengths[0]) > rules.body_limit:
        return error_reply(413, "too_large", f"bodies are limited to {rules.body_limit} bytes here")
    if method == b"POST" and rules.body_limit and not lengths:
        return error_reply(411, "length_required", "send Content-Length")
    return None


def _method_refusal(method: str, rules: HeadRules) -> Reply | None:
    if method in rules.methods:
        return None
    allow = ", ".join(sorted(rules.methods))
    return error_reply(405, "method_not_allowed", f"use {allow}", {"Allow": allow})
