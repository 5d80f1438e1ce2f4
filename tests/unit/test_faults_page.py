"""docs/faults.md: what it says is tested is tested, and the other way round."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
HELD, _, NOT_HELD = PAGE.partition("## Not held")
ROW = re.compile(r"^\| ([A-Z]\d+) \|(.*)\|$", re.MULTILINE)
TEST = re.compile(r"def test_((?:[a-z]\d+_(?:and_)?)+)")
FAMILIES = {"S": 17, "L": 7, "T": 8, "C": 12, "P": 14, "R": 6, "G": 8, "H": 9, "A": 9, "W": 9, "D": 10}


def files_by_row() -> dict[str, set[str]]:
    """Row -> files with a test named after it."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "tests").rglob("test_*.py"):
        for name in TEST.findall(path.read_text(encoding="utf-8")):
            for row in re.findall(r"[a-z]\d+", name):
                found.setdefault(row.upper(), set()).add(str(path.relative_to(ROOT / "tests")))
    return found


def test_every_row_stands_in_one_of_the_two_lists() -> None:
    rows = [row for row, _ in ROW.findall(HELD)] + [row for row, _ in ROW.findall(NOT_HELD)]
    assert sorted(rows) == sorted(f"{letter}{n}" for letter, count in FAMILIES.items() for n in range(1, count + 1))


def test_every_held_row_has_a_test_of_its_name_in_each_file_it_names() -> None:
    tests = files_by_row()
    named = {row: set(re.findall(r"`([a-z]+/test_\w+\.py)`", rest)) for row, rest in ROW.findall(HELD)}
    assert {
        row: files - tests.get(row, set()) for row, files in named.items() if not files <= tests.get(row, set())
    } == {}
    assert [row for row, files in named.items() if not files] == []
