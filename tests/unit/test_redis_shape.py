"""What the settings of Redis mode mean together."""

import pytest

from tests.support.sections import SECTIONS
from vmsh_scheduler.redis_settings import shape


@pytest.mark.parametrize(("lease", "doubted"), [(0, 31_000), (18_000, 20_000), (120_000, 121_000)])
def test_what_may_be_forgotten_is_doubted_until_its_worker_has_noticed(lease: int, doubted: int) -> None:
    """One that cannot reach the store does so at the end of its lease."""
    assert shape({**SECTIONS, "redis.exec_lease_ms": lease}, "i", 10).doubted == doubted
