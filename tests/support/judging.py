"""A consumer of callbacks that checks key and fence with the code of docs/examples/consumer.py, and keeps a record."""

import importlib.util
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "consumer.py"


class Call(NamedTuple):
    """One request that was judged, in the order in which the example took them."""

    job: str
    slot: int
    fence: int
    status: int
    accepted: bool


@dataclass
class Judge:
    """`calls`: all so far."""

    port: int = 0
    calls: list[Call] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook"

    def counted(self) -> str:
        accepted = sum(call.accepted for call in self.calls)
        stale = sum(call.status == 409 for call in self.calls)
        return (
            f"{len(self.calls)} calls: {accepted} accepted, {len(self.calls) - accepted - stale} known, {stale} stale"
        )


class Server(ThreadingHTTPServer):
    """Hundreds may come at once."""

    request_queue_size = 512
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A caller that was killed is gone."""


@contextmanager
def judging() -> Iterator[Judge]:
    """Serving; what the example knows begins empty."""
    judge, example, one_at_a_time = Judge(), _example(), threading.Lock()
    decide = example.judge

    def judged(key: str, agent: str, fence: str) -> tuple[int, dict[str, object]]:
        with one_at_a_time:
            status, answer = decide(key, agent, fence)
            _, user, name, slot, _ = key.split(":")
            accepted = bool(answer.get("accepted"))
            judge.calls.append(Call(f"_agents/{user}/{name}", int(slot), int(fence), status, accepted))
        return status, answer

    example.judge = judged  # type: ignore[attr-defined]  # a module's function
    example.print = lambda *_, **__: None  # type: ignore[attr-defined]  # it says each cycle
    example.Consumer.log_message = lambda *_: None
    server = Server(("127.0.0.1", 0), example.Consumer)
    judge.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield judge
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("example_consumer", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
