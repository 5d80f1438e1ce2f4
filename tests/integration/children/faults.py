"""Children that hang, flood, fork and escape, each carried out once: what has to come of it is asserted here, how long
it may take is for the caller to say."""

import asyncio
import threading
import time

from tests.integration.children.stage import Stage, alive, eventually_async, job_of, shell
from vmsh_scheduler.domain.retry import ErrorClass
from vmsh_scheduler.domain.run import Outcome, Status

FOREVER = "sleep 60"
"""Far longer than anything here may take."""
LIMIT_S = 0.5
GRACE_S = 0.5


def timed_out(outcome: Outcome) -> bool:
    return (outcome.status, outcome.code, outcome.error) == (Status.FAILED, "timeout", ErrorClass.NETWORK)


async def hangs(stage: Stage, crash_exact: bool) -> float:
    """P1. Seconds, as from all of them."""
    outcome = await _limited(stage, f"echo busy; exec {FOREVER}", crash_exact)
    assert "killed" not in outcome.flags
    assert outcome.output == "busy\n"
    assert f"not done within {LIMIT_S} s" in outcome.message
    return stage.took


async def ignores_term_and_has_children(stage: Stage, crash_exact: bool) -> float:
    """P2."""
    outcome = await _limited(stage, f'trap "" TERM; {FOREVER} & {FOREVER}; {FOREVER}', crash_exact)
    assert "killed" in outcome.flags
    await _nobody_left(stage)
    return stage.took


async def stops_itself(stage: Stage, crash_exact: bool) -> float:
    """P3."""
    await _limited(stage, "kill -STOP $$", crash_exact)
    await _nobody_left(stage)
    return stage.took


async def leaves_a_grandchild_on_stdout(stage: Stage, crash_exact: bool) -> float:
    """P4."""
    outcome = await stage.run(shell(f"{FOREVER} & echo hi"), crash_exact=crash_exact)
    assert (outcome.status, outcome.output, outcome.flags) == (Status.OK, "hi\n", ())
    await _nobody_left(stage)
    return stage.took


async def lets_one_escape(stage: Stage, crash_exact: bool) -> float:
    """P5. The escapee says when it has left the group, so that the sweep cannot reach it."""
    fifo = f"fifo-{stage.count}"
    text = f'mkfifo {fifo}; setsid sh -c "echo > {fifo}; exec {FOREVER}" & read x < {fifo}; exit 0'
    outcome = await stage.run(shell(text, cwd=str(stage.directory)), crash_exact=crash_exact)
    assert (outcome.status, outcome.flags) == (Status.OK, ("left_background",))
    await _nobody_left(stage)
    return stage.took


async def reads_stdin(stage: Stage, crash_exact: bool) -> float:
    """P10. To its end, beyond its end, and through /dev/stdin."""
    outcome = await stage.run(shell("cat >/dev/null; cat; head -c 1 </dev/stdin; echo end"), crash_exact=crash_exact)
    assert outcome.status is Status.OK
    assert outcome.output.endswith("end\n")
    return stage.took


async def many_at_once(stage: Stage, crash_exact: bool, count: int, *, seconds: float) -> float:
    """P14. From the first start to the last end; no thread is made on the way."""
    threads = threading.active_count()
    begun = time.monotonic()
    job = job_of(shell(f"sleep {seconds}"), crash_exact=crash_exact)
    runs = [asyncio.ensure_future(stage.executor.run(job, stage.start(job))) for _ in range(count)]
    while not all(run.done() for run in runs):
        assert threading.active_count() == threads
        await asyncio.wait(runs, timeout=0.1)
    assert {run.result().status for run in runs} == {Status.OK}
    return time.monotonic() - begun


async def _limited(stage: Stage, text: str, crash_exact: bool) -> Outcome:
    command = shell(text, grace=int(GRACE_S * 1000))
    outcome = await stage.run(command, limit=int(LIMIT_S * 1000), crash_exact=crash_exact)
    assert timed_out(outcome)
    assert stage.took >= LIMIT_S
    return outcome


async def _nobody_left(stage: Stage) -> None:
    await eventually_async(lambda: not alive(stage.mark))
