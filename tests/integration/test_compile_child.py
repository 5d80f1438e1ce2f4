"""Large files compiled in a process of their own: same result, same refusals, nothing left behind."""

import asyncio
import io
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.config import SEED_003, files, wanted
from vmsh_scheduler.domain.action import Command
from vmsh_scheduler.errors import ConfigError
from vmsh_scheduler.settings_file import load_settings
from vmsh_scheduler.sources import compile_child
from vmsh_scheduler.sources.catalog import Request, SettingsRequest, compile_files
from vmsh_scheduler.sources.child import Child, NotRead, opened
from vmsh_scheduler.sources.compiler import compile_in_child


def agents(count: int) -> str:
    head = "agents:\n"
    one = "  - agentId: a{n}\n    walletAddress: kaspa:qq{n}\n    callback: {{command: [wake, '{n}']}}\n"
    return head + "".join(one.format(n=n) for n in range(count))


def children() -> set[int]:
    """Processes this one started and has not reaped."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            pid, rest = stat.read_text().split(" ", 1)
            if int(rest.rpartition(")")[2].split()[1]) == os.getpid():
                found.add(int(pid))
    return found


async def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not come true in time"
        await asyncio.sleep(0.01)


async def test_the_result_equals_that_of_this_process() -> None:
    """Revisions too, though the processes hash texts differently."""
    reading = files(SEED_003 + "  x:\n    cadence: {stong: {target: 'local:a', every: 2*fast}, "
                    "fast: {target: 'local:a', every: 1m}}\n", agents(120))  # fmt: skip
    here, there = compile_files(reading, wanted(), {}), await compile_in_child(reading, wanted(), {})
    assert there == here
    assert len(there.jobs) == 125
    assert len(there.warnings) == 2


async def test_jobs_that_did_not_change_stay_the_same_objects() -> None:
    """So a reload of ten thousand of them keeps no second copy and has little to compare."""
    before = (await compile_in_child(files(agents=agents(3)), wanted(), {})).jobs
    changed = agents(3).replace("'1'", "'other'")
    after = (await compile_in_child(files(agents=changed), wanted(), {}, known=before)).jobs
    same = [after[job_id] is before[job_id] for job_id in after]
    assert same == [True, False, True]
    assert after == compile_files(files(agents=changed), wanted(), {}).jobs


async def test_problems_come_back_as_they_are() -> None:
    reading = files(SEED_003.replace("34*fast", "34*fats"), agents(3) + "  - {}\n")
    with pytest.raises(ConfigError) as here:
        compile_files(reading, wanted(), {})
    with pytest.raises(ConfigError) as there:
        await compile_in_child(reading, wanted(), {})
    assert there.value.problems == here.value.problems
    assert there.value.message == here.value.message


def frames(asked: Request) -> list[tuple[str, Any]]:
    """What the child would write."""
    sink = io.BytesIO()
    compile_child.answer(io.BytesIO(pickle.dumps(asked)), sink)
    sink.seek(0)
    found = []
    while head := sink.read(4):
        found.append(pickle.loads(sink.read(int.from_bytes(head))))  # noqa: S301  written two lines above
    return found


def test_no_frame_is_large() -> None:
    """What the loop takes over at once stays small however many jobs there are."""
    *jobs, (kind, _) = frames(Request(files(agents=agents(210)).raw, {}, "c0ffee", wanted(), {}))
    assert kind == "end"
    assert {kind for kind, _ in jobs} == {"jobs"}
    sizes = [len(body) for _, body in jobs]
    assert (sum(sizes), max(sizes)) == (210, compile_child.FRAME_JOBS)


def test_a_refusal_is_one_frame() -> None:
    ((kind, (message, problems)),) = frames(Request({"agents": b"agents: 5\n"}, {}, "", wanted(), {}))
    assert kind == "problems"
    assert message == problems[0]
    assert message.startswith("agents.yaml:1:9: agents: ")


def test_a_fault_is_one_frame_that_says_where_and_no_value() -> None:
    broken = replace(wanted(), root=None)  # type: ignore[arg-type]  # that is the fault
    text = b"namespaces: {ns: {cadence: {fast: {target: 'local:a', every: 1m, env: {K: hunter2}}}}}\n"
    ((kind, body),) = frames(Request({"namespaces": text}, {}, "", broken, {}))
    assert kind == "failed"
    assert body.startswith("TypeError at")
    assert "namespaces.py" in body
    assert "hunter2" not in body


async def test_the_environment_of_the_request_counts_not_that_of_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PERIOD", "1h")
    reading = files(SEED_003.replace('"89s"', "${PERIOD}"))
    found = await compile_in_child(reading, wanted(), {"PERIOD": "7s"})
    assert found == compile_files(reading, wanted(), {"PERIOD": "7s"})


async def test_the_settings_of_an_empty_directory_will_do(tmp_path: Path) -> None:
    found = load_settings({}, {}, tmp_path)
    reading = files("namespaces: {ns: {cadence: {fast: {target: 'local:a', every: 1m}}}}\n")
    there = await compile_in_child(reading, found, {})
    assert there == compile_files(reading, found, {})
    action = there.jobs["ns/fast"].action
    assert isinstance(action, Command)
    assert (action.argv[0], action.argv[-1]) == (sys.executable, "local")
    assert action.env["VMSH_KEYS"] == str(tmp_path / "state" / "keys")


async def test_a_yaml_module_in_the_working_directory_is_not_imported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "yaml.py").write_text("raise SystemExit(9)\n")
    monkeypatch.chdir(tmp_path)
    assert len((await compile_in_child(files(SEED_003), wanted(), {})).jobs) == 3


def test_one_child_loads_the_settings_and_compiles(tmp_path: Path) -> None:
    """As at start: it waits for one request after the other, and ends with its parent's end of the pipe."""
    child = Child()
    try:
        child.ask(SettingsRequest({"root": str(tmp_path)}, {"VMSH_TICK_MS": "500"}, tmp_path))
        assert opened(child.frame()) == (
            "settings",
            load_settings({"root": str(tmp_path)}, {"VMSH_TICK_MS": "500"}, tmp_path),
        )
        child.ask(SettingsRequest({}, {"VMSH_TICK_MS": "soon"}, tmp_path))
        with pytest.raises(ConfigError, match="VMSH_TICK_MS: must be a whole number"):
            opened(child.frame())
        child.ask(Request(files(agents=agents(1)).raw, {}, "c0ffee", wanted(), {}))
        assert [opened(child.frame())[0] for _ in range(2)] == ["jobs", "end"]
    finally:
        child.end()


def test_a_forked_child_answers_too_and_ends_with_its_parent(tmp_path: Path) -> None:
    """In a process of its own: this one has threads. The grandchild holds no end of its own pipes."""
    program = (
        "import sys; from pathlib import Path\n"
        "from vmsh_scheduler.sources.catalog import SettingsRequest\n"
        "from vmsh_scheduler.sources.child import Child, forked, opened\n"
        "child = Child(forked); child.ask(SettingsRequest({}, {}, Path('/')))\n"
        "print(child.pid, opened(child.frame())[1].root)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    pid, root = done.stdout.split()
    assert root == "/"
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_daemon_s_half_loads_neither_pydantic_nor_yaml() -> None:
    """What a child is for: its libraries go with it."""
    program = "import sys, vmsh_scheduler.daemon, vmsh_scheduler.api.server; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert {"yaml", "pydantic", "typer", "rich", "prometheus_client"}.isdisjoint(loaded)
    assert "vmsh_scheduler.engine.engine" in loaded


async def test_cancelling_kills_and_reaps_it() -> None:
    before = children()
    task = asyncio.create_task(compile_in_child(files(agents=agents(20_000)), wanted(), {}))
    await until(lambda: bool(children() - before))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: children() <= before)


async def test_cancelling_while_it_is_being_started_leaves_nothing() -> None:
    before = children()
    task = asyncio.create_task(compile_in_child(files(agents=agents(2_000)), wanted(), {}))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: children() <= before)


async def test_no_process_to_be_had_is_a_refused_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused, so that a reload keeps the last good one; but a start ends with 69, for a restart may help."""
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(NotRead, match="no process could be started") as refused:
        await compile_in_child(files(SEED_003), wanted(), {})
    assert refused.value.exit == 69


async def test_a_deadline_ends_it() -> None:
    before = children()
    with pytest.raises(ConfigError, match=r"longer than 0\.05 s"):
        await compile_in_child(files(agents=agents(20_000)), wanted(), {}, deadline_s=0.05)
    assert children() <= before


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import os; os.kill(os.getpid(), 9)", "without an answer"),
        ("import sys; sys.stdin.buffer.read(); sys.stdout.write('ab')", "without an answer"),
        ("import sys; sys.stdin.buffer.read(); sys.stdout.buffer.write(b'\\xff' * 99)", "without an answer"),
        ("import sys; sys.stdin.buffer.read(); sys.stdout.buffer.write(b'\\0\\0\\1\\0abc')", "without an answer"),
    ],
)
async def test_a_child_that_dies_is_a_refused_configuration(
    program: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stub = tmp_path / "python"
    stub.write_text(f'#!/bin/sh\nexec {sys.executable} -c "$STUB"\n')
    stub.chmod(0o755)
    monkeypatch.setenv("STUB", program)
    monkeypatch.setattr(sys, "executable", str(stub))
    with pytest.raises(ConfigError, match=said):
        await compile_in_child(files(SEED_003), wanted(), {})


async def test_a_fault_of_the_compiler_is_a_refused_configuration() -> None:
    broken = replace(wanted(), root=None)  # type: ignore[arg-type]  # that is the fault
    with pytest.raises(ConfigError, match="reading the configuration failed: TypeError at"):
        await compile_in_child(files(SEED_003), broken, {})


async def test_the_loop_goes_on_meanwhile() -> None:
    """A reload of 2,000 jobs holds the loop for no more than a fraction of what it takes."""
    task = asyncio.create_task(compile_in_child(files(agents=agents(2_000)), wanted(), {}))
    held, begun, last = 0.0, time.perf_counter(), time.perf_counter()
    while not task.done():
        await asyncio.sleep(0.001)
        held, last = max(held, time.perf_counter() - last), time.perf_counter()
    assert len((await task).jobs) == 2_000
    assert held < (last - begun) / 2
