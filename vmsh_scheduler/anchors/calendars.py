"""OpenTimestamps calendars: several are asked at a time, and what one of them does harms no other.

Calendars are trusted with nothing: they see a blinded value, and what they answer is checked against Bitcoin or said
to be unchecked. But an answer names the address of whoever will hold the proof: only those that are known are asked."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from queue import Empty, SimpleQueue
from time import monotonic
from urllib.parse import urlsplit

from vmsh_scheduler.anchors import fetch
from vmsh_scheduler.anchors.fetch import Ask
from vmsh_scheduler.anchors.ots_proof import ANSWER_LIMIT, Promise
from vmsh_scheduler.anchors.rpc import Endpoint, endpoint
from vmsh_scheduler.errors import SchedulerError

WELL_KNOWN = (
    "https://*.calendar.opentimestamps.org",
    "https://*.calendar.eternitywall.com",
    "https://*.calendar.catallaxy.com",
)
"""Whom the official client asks for proofs; the pools that take digests pass them on to these."""
_HEADERS = {"Accept": "application/vnd.opentimestamps.v1"}
_SPARE_S = 5.0
"""For looking up names, which no time limit of a socket ends."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Of one calendar to one question."""

    calendar: str
    """URL without anything secret."""
    body: bytes = b""
    """Empty without a fault: there is nothing to fetch yet."""
    fault: str = ""
    """Why there is no answer."""


@dataclass(frozen=True, slots=True)
class Calendars:
    """`configured` take digests; these, WELL_KNOWN and `trusted` are asked for proofs."""

    configured: Mapping[str, Endpoint]
    """By their URL, without a slash at the end."""
    trusted: tuple[str, ...] = ()
    """As https://host, or https://*.domain."""
    timeout_s: float = 20.0

    def submit(self, digest: bytes) -> list[Reply]:
        """Of each configured one, in that order."""
        ask = Ask("/digest", digest, {**_HEADERS, "Content-Type": "application/x-www-form-urlencoded"})
        return self._all([(at.where, at, ask) for at in self.configured.values()])  # a URL's path may hold a key

    def upgrades(self, promises: Sequence[Promise]) -> list[Reply]:
        """Of each, in that order; `may_ask` has allowed them."""
        return self._all(
            [
                (each.uri, self._of(each.uri), Ask(f"/timestamp/{each.commitment.hex()}", None, _HEADERS))
                for each in promises
            ]
        )

    def may_ask(self, uri: str) -> bool:
        """Is it one of ours, or one that we were told to trust?"""
        if uri.rstrip("/") in self.configured:
            return True
        try:
            parts = urlsplit(uri)
            _ = parts.port
        except ValueError:
            return False
        plain = parts.scheme in ("http", "https") and parts.path in ("", "/") and parts.hostname is not None
        bare = plain and not (parts.query or parts.fragment or "@" in parts.netloc)
        return bare and any(_fits(uri.rstrip("/"), pattern) for pattern in (*self.trusted, *WELL_KNOWN))

    def _of(self, uri: str) -> Endpoint:
        return self.configured.get(uri.rstrip("/")) or endpoint(uri, field_name="calendars")

    def _all(self, asks: Sequence[tuple[str, Endpoint, Ask]]) -> list[Reply]:
        """At the same time, each in a thread that ends with the process: one that hangs is not waited for."""
        done: SimpleQueue[tuple[int, Reply]] = SimpleQueue()
        for index, (name, at, ask) in enumerate(asks):
            work = partial(_ask_one, index, done, name=name, at=at, ask=ask, timeout_s=self.timeout_s)
            threading.Thread(target=work, daemon=True).start()
        until = monotonic() + self.timeout_s + _SPARE_S
        replies = {index: Reply(name, fault=f"{at.where} gave no answer") for index, (name, at, _) in enumerate(asks)}
        for _ in asks:
            try:
                index, reply = done.get(timeout=max(0.0, until - monotonic()))
            except Empty:
                break
            replies[index] = reply
        return list(replies.values())


def _ask_one(
    index: int, done: "SimpleQueue[tuple[int, Reply]]", *, name: str, at: Endpoint, ask: Ask, timeout_s: float
) -> None:
    try:
        done.put((index, _reply(name, at, ask, timeout_s)))
    except SchedulerError as error:
        done.put((index, Reply(name, fault=str(error))))


def _reply(name: str, at: Endpoint, ask: Ask, timeout_s: float) -> Reply:
    status, body = fetch.fetch(at, ask, timeout_s=timeout_s, limit=ANSWER_LIMIT)
    if status == 404 and ask.body is None:
        return Reply(name)
    fault = _fault(status, body)
    return Reply(name, fault=f"{at.where} {fault}") if fault else Reply(name, body)


def _fault(status: int, body: bytes) -> str:
    """Why this is no timestamp, as far as that shows outside; "" = it may be one."""
    if 300 <= status < 400:
        return f"redirects elsewhere (HTTP {status}); set `calendars` to where it leads"
    if status != 200:
        return f"answered HTTP {status}"
    if len(body) > ANSWER_LIMIT:
        return f"answered with more than {ANSWER_LIMIT} bytes"
    if not body:
        return "answered with nothing"
    return "answered with a web page" if body.lstrip()[:1] == b"<" else ""


def _fits(uri: str, pattern: str) -> bool:
    """`*` stands for names within one domain, never for a part of another one."""
    return fnmatchcase(uri, pattern.rstrip("/")) and uri.count("/") == pattern.rstrip("/").count("/")
