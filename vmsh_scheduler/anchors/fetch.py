"""One request over HTTP by the standard library, bounded in time and size; redirects are an answer like any other."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from vmsh_scheduler.anchors.rpc import Endpoint, body_of, connected


@dataclass(frozen=True, slots=True)
class Ask:
    """`body` = None is a GET; `path` comes after that of the endpoint; "" = the endpoint's own, as it is written."""

    path: str = ""
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def fetch(endpoint: Endpoint, ask: Ask, *, timeout_s: float, limit: int) -> tuple[int, bytes]:
    """Status and body, which is one byte longer than `limit` when there was more. Raises Unreachable."""
    method = "GET" if ask.body is None else "POST"
    path = endpoint.path.rstrip("/") + ask.path if ask.path else endpoint.path
    login = {"Authorization": endpoint.authorization} if endpoint.authorization else {}
    with connected(endpoint, timeout_s) as connection:
        connection.request(method, path, ask.body, {"User-Agent": "vmsh-scheduler", **login, **ask.headers})
        answer = connection.getresponse()
        return answer.status, body_of(answer, limit)
