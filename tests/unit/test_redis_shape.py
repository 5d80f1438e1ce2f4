"""What the settings of Redis mode mean together."""

import pytest

from tests.support.sections import SECTIONS
from vmsh_scheduler.redis_settings import shape


@pytest.mark.parametrize(("lease", "doubted"), [(0, 20_000), (57_000, 20_000), (120_000, 41_000)])
def test_what_may_be_forgotten_is_doubted_until_its_worker_has_noticed(lease: int, doubted: int) -> None:
    """That looks at its claim at each third of the lease."""
    assert shape({**SECTIONS, "redis.exec_lease_ms": lease}, "i", 10).doubted == doubted
