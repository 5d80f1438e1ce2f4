"""The floor: one thread, a heap, os.posix_spawn; no pipes, no state, no log. argv: workload.json [cap]

`cap` is the most live children; without it they are only bounded by the machine."""

import heapq
import json
import os
import signal
import sys
import time
from typing import Any

Job = dict[str, Any]
Entry = tuple[int, int]
"""When (ns), which job."""


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        jobs = json.load(file)["jobs"]
    cap = int(sys.argv[2]) if len(sys.argv) > 2 else 1 << 30
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    now = time.time_ns()
    heap = [(first_after(now, job), i) for i, job in enumerate(jobs)]
    heapq.heapify(heap)
    print("ready", flush=True)
    loop(heap, jobs, cap)


def first_after(now: int, job: Job) -> int:
    every, phase = job["every_ms"] * 1_000_000, job["phase_ms"] * 1_000_000
    return int(((now - phase) // every + 1) * every + phase)


def loop(heap: list[Entry], jobs: list[Job], cap: int) -> None:
    live = 0
    while True:
        due, index = heap[0]
        wait = due - time.time_ns()
        if wait > 0:
            live -= reap(live)
            time.sleep(max(0, due - time.time_ns()) / 1e9)
            continue
        while live >= cap:
            os.wait()
            live -= 1
        job = jobs[index]
        os.posix_spawn(job["argv"][0], job["argv"], os.environ)
        live += 1
        heapq.heapreplace(heap, (due + job["every_ms"] * 1_000_000, index))


def reap(live: int) -> int:
    done = 0
    while done < live and os.waitpid(-1, os.WNOHANG)[0]:
        done += 1
    return done


if __name__ == "__main__":
    main()
