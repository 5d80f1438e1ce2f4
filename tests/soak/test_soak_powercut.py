"""S3 and S4 at the catalogue's figures: the power goes while the real store, and bad ones, write on ext4."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.powercut import cut
from tests.support.writers import read, read_naive, read_rows

IMAGES = 60
FEW = 10
OPTIONS = {"default": "", "commit=1": "commit=1", "noauto_da_alloc": "noauto_da_alloc"}

pytestmark = pytest.mark.needs("loop images")
Record = Callable[[str, object], None]


@pytest.mark.parametrize("name", OPTIONS)
def test_s3_no_power_cut_costs_an_acknowledged_change(tmp_path: Path, record_property: Record, name: str) -> None:
    seen = cut(tmp_path, "store", IMAGES, OPTIONS[name], read)
    record_property("S3", f"{name}: {seen}")
    assert seen.harm == 0, (seen.unreadable, seen.lost)
    assert seen.changes > IMAGES


@pytest.mark.parametrize("kind", ["in place", "rename", "unsynced"])
def test_s3_bites_writers_without_a_sync_are_caught(tmp_path: Path, record_property: Record, kind: str) -> None:
    """`unsynced` is the real store on a disk whose syncs do nothing."""
    seen = cut(tmp_path, kind, FEW, "noauto_da_alloc", read if kind == "unsynced" else read_naive)
    record_property("S3", f"bad variant, {kind}: {seen}")
    assert seen.harm > 0


def test_s4_no_power_cut_costs_a_row_of_the_journal(tmp_path: Path, record_property: Record) -> None:
    """Log and SQLite are cut together; after a start every acknowledged change has its one row, and chains hold."""
    seen = cut(tmp_path, "store", IMAGES, "", read_rows)
    record_property("S4", str(seen))
    assert seen.harm == 0, (seen.unreadable, seen.lost)
    assert seen.changes > IMAGES


def test_s4_bites_a_journal_without_syncs_is_caught(tmp_path: Path, record_property: Record) -> None:
    seen = cut(tmp_path, "unsynced journal", FEW, "", read_rows)
    record_property("S4", f"bad variant, synchronous=OFF: {seen}")
    assert seen.harm > 0
