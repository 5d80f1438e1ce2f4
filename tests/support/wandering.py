"""A clock that NTP corrects all the time: slewed, jittery, and never far from the truth."""

import random
from collections.abc import Sequence
from itertools import pairwise

from tests.support.builders import cadence
from tests.support.world import World
from vmsh_scheduler.domain.trigger import SECOND, Millis

SLEW_PPM = 500
JITTER: Millis = 50


async def wander(slots: int, seed: int, world: World | None = None) -> World:
    """One cadence of 10 s under such a clock, for so many slots."""
    world = world or World(cadence(10))
    chance, rate, jitter, owed = random.Random(seed), 0.0, 0, 0.0
    await world.start()
    await world.tick()
    while len(world.executor.runs) < slots:
        due = await world.engine.board.agenda.next_due()
        assert due is not None
        slept = max(1, min(due - world.clock.wall, 10 * SECOND))
        world.clock.move(slept)
        rate = max(-1.0, min(1.0, rate + chance.uniform(-0.2, 0.2)))
        owed += slept * rate * SLEW_PPM / 1e6
        now = chance.randint(-JITTER, JITTER)
        world.clock.step(int(owed) + now - jitter)
        owed, jitter = owed - int(owed), now
        await world.engine.tick()
        await world.settle()
    return world


def strays(slots: Sequence[Millis], every: Millis = 10 * SECOND) -> int:
    """Slots that are off the grid, twice, out of order or left out."""
    return sum(slot % every != 0 for slot in slots) + sum(b - a != every for a, b in pairwise(slots))
