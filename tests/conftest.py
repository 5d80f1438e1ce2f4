"""`@pytest.mark.needs("root", "strace")` skips where a capability is missing; the number of skips of a whole run is
held to `tests/expected_skips.py`, so that a machine never skips more than somebody has agreed to."""

from collections import Counter, defaultdict
from pathlib import Path

import pytest

from tests.expected_skips import expected
from tests.support.needs import missing

PREFIX = "needs "
HERE = Path(__file__).parent
LONGEST = [
    *(HERE / "acceptance" / f"test_{name}.py" for name in ("chaos", "fault_redis", "redis_refusals")),
    HERE / "unit" / "test_engine_model.py",
]
"""Minutes each: begun first, so that none of them ends alone."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--count-skips", action="store_true", help="fail unless exactly the expected tests were skipped")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """From first to last files that wait for processes beside files that compute, so that no core is idle."""
    layers: dict[Path, dict[Path, None]] = defaultdict(dict)
    for item in items:
        layers[item.path.parent][item.path] = None
    place = {
        path: (path not in LONGEST, number / len(files))
        for files in layers.values()
        for number, path in enumerate(files)
    }
    items.sort(key=lambda item: place[item.path])


def pytest_runtest_setup(item: pytest.Item) -> None:
    lacking = [need for mark in item.iter_markers("needs") for need in missing(mark.args)]
    if lacking:
        pytest.skip(PREFIX + ", ".join(sorted(set(lacking))))


def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if hasattr(config, "workerinput") or reporter is None or not config.getoption("count_skips"):
        return
    seen = Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in reporter.stats.get("skipped", ()))
    wrong = {why: (seen[why], due) for why, due in expected().items() if seen[why] != due}
    wrong |= {why: (count, 0) for why, count in seen.items() if why not in expected()}
    for why, (count, due) in sorted(wrong.items()):
        reporter.write_line(f"skipped for {why!r}: {count} tests, expected {due} (tests/expected_skips.py)", red=True)
    if wrong and session.exitstatus == 0:
        session.exitstatus = 1
