"""Every soak test says what it saw with `record_property(row, figure)`; `--figures FILE` writes it all down."""

import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support.fixtures import cluster, consumer, durable, places, redis, upstream

__all__ = ["cluster", "consumer", "durable", "places", "redis", "upstream"]

HEAD = """# Soak: the last full run

Written by `make soak`; what the rows mean: [faults.md](faults.md).

{when}, commit `{commit}`, {machine}. {passed} passed, {failed} failed, {skipped} skipped.

| Row | Seen | Test | Result | Seconds |
|---|---|---|---|---|
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ours = Path(__file__).parent
    for item in [item for item in items if item.path.is_relative_to(ours)]:
        item.add_marker(pytest.mark.soak)
        if not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(3600))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--figures", type=Path, help="write what the soak tests saw into this file")


def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    target: Path | None = config.getoption("figures")
    if hasattr(config, "workerinput") or reporter is None or target is None:
        return
    stats = {result: reporter.stats.get(result, []) for result in ("passed", "failed", "skipped")}
    counts = {result: len(reports) for result, reports in stats.items()}
    rows = [row for result, reports in stats.items() for report in reports for row in lines(result, report)]
    target.write_text(HEAD.format(**counts, **surroundings()) + "".join(sorted(rows)), encoding="utf-8")


def lines(result: str, report: pytest.TestReport) -> list[str]:
    test = report.nodeid.removeprefix("tests/soak/")
    seen = report.user_properties or [("-", str(report.longrepr[2]) if result == "skipped" else "nothing")]
    return [f"| {row} | {figure} | `{test}` | {result} | {report.duration:.0f} |\n" for row, figure in seen]


def surroundings() -> dict[str, str]:
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], capture_output=True, text=True, check=False).stdout.strip()

    commit = git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    machine = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return {"when": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "commit": commit, "machine": machine}
