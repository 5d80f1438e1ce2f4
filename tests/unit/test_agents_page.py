"""docs/agents.md against the code, both ways: routes, errors, headers, and what the defaults are."""

import ast
import re
from pathlib import Path

import pytest

from tests.unit.test_promises import names, page, rows, section
from vmsh_scheduler import settings_sections
from vmsh_scheduler.api.documents import with_documents
from vmsh_scheduler.api.forge_routes import forge_routes
from vmsh_scheduler.api.principal import AuthSettings
from vmsh_scheduler.domain.action import Callback
from vmsh_scheduler.domain.run import Cause, Run
from vmsh_scheduler.executors.callback import cycle_of

pytestmark = pytest.mark.no_cover  # it reads the program rather than running it

CODE = Path(__file__).parents[2] / "vmsh_scheduler"


def raised() -> set[str]:
    """The code of every Problem and Refused that is written out."""
    found = set()
    for path in CODE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Name)
                and node.func.id in ("Problem", "Refused")
            ):
                texts = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
                found.update(text for text in texts if isinstance(text, str))
    return found


def test_every_error_is_documented_and_every_documented_one_exists() -> None:
    text = section(page("agents.md"), "## Routes")
    routes = {code for row in rows(text) if row[0].startswith(("GET", "POST")) for code in names(row[3])}
    general = {code for row in rows(text) if row[0][:1].isdigit() for code in names(row[1])}
    documented = {
        code for code in routes | general if "_" in code or code in ("unauthorized", "forbidden", "misdirected")
    }
    assert len(raised()) > 20
    assert raised() - documented == set()
    assert documented - raised() == {"state_write_failed"}, "a SchedulerError, answered as 503"


def test_every_route_is_documented_and_every_documented_one_exists() -> None:
    text = section(page("agents.md"), "## Routes")
    documented = {row[0].replace("`", "").partition("?")[0] for row in rows(text) if row[0].startswith(("GET", "POST"))}
    routes = with_documents(forge_routes(None), AuthSettings(), "0")  # type: ignore[arg-type]  # only looked at
    assert documented == {f"{route.method} {route.template}" for route in routes}


def test_every_header_of_a_callback_is_documented_and_every_documented_one_exists() -> None:
    documented = {names(row[0])[0] for row in rows(section(page("agents.md"), "## The callback"))}
    run = Run("r", "_agents/u/a", 1_000, Cause.SCHEDULE, 1, 7, 1_000, 2_000)
    sent = cycle_of(Callback("", {}, user="u", agent="a"), run, "here")
    assert documented - {"X-VMSH-Signature"} == sent.headers.keys()
    shown = next(row[1] for row in rows(section(page("agents.md"), "## The callback")) if "Idempotency" in row[0])
    (shape,) = re.findall("`(forgeos[^`]+)`", shown)
    parts = {"<userId>": "u", "<agentId>": "a", "<slot>": "1000", "<task>": sent.task}
    assert re.sub("<[a-zA-Z]+>", lambda found: parts[found[0]], shape) == sent.key


def test_figures() -> None:
    text = page("agents.md")
    of = {name: made() for name, made in settings_sections.SECTIONS.items()}
    agents, quota = of["agents"].model_dump(), of["quota"].model_dump()
    assert f"`agents.concurrency` ({agents['concurrency']})" in text
    assert f"`agents.queue` ({agents['queue']})" in text
    assert f"{quota['read_max']} reads, {quota['write_max']} writes, {quota['tick_max']} ticks" in text
    assert f"127.0.0.1:{of['api'].model_dump()['port']}" in text


def test_every_defect_is_in_the_table() -> None:
    """D1 to D34, once each."""
    cells = [row[0] for row in rows(section(page("agents.md"), "## Differences"))]
    assert sorted(int(number) for cell in cells for number in re.findall(r"D(\d+)", cell)) == list(range(1, 35))


def test_every_defect_has_a_test_of_its_name() -> None:
    named = {
        int(number)
        for path in CODE.with_name("tests").rglob("test_*.py")
        for name in re.findall(r"def test_((?:[a-z]\d+_)+)", path.read_text(encoding="utf-8"))
        for number in re.findall(r"d(\d+)_", name)
    }
    assert set(range(1, 35)) - named == set()
