"""Three instances over a Redis that keeps everything, hit at random: the journal explains every slot (issue: redis)."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.havoc import havoc

SECONDS = 180
SEED = 20261121


@pytest.mark.timeout(SECONDS + 240)
def test_every_slot_is_explained_whatever_dies(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    record_property("chaos", havoc(tmp_path, SECONDS, SEED, commands=100, agents=100))
