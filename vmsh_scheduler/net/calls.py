"""What an outgoing call gives: values only, so that whoever reads them need not load an HTTP library."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

FailureKind = Literal["timeout", "refused_address", "lookup", "connect", "protocol", "too_large"]


@dataclass(frozen=True, slots=True)
class Reply:
    """`head` is what was read of the body: never more than was asked for."""

    status: int
    head: bytes


class CallFailed(Exception):
    """There is no reply. The message names a host at most: paths and queries may hold tokens."""

    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


class Poster(Protocol):
    """The part of HttpClient that callbacks need."""

    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str], *, timeout_s: float, trusted: bool
    ) -> Reply: ...

    async def close(self) -> None: ...
