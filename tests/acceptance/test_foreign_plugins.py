"""What other packages plug into our libraries sees nothing of a configuration."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.daemon import Place
from tests.support.stubs import cadences

SPY = """\
import pathlib
pathlib.Path({seen!r}).write_text("loaded")
class Plugin:
    def new_schema_validator(self, *args, **kwargs):
        return None, None, None
plugin = Plugin()
"""


@pytest.fixture
def seen(place: Place, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Written when a plugin of pydantic, which lies on the path like any installed package's, is loaded."""
    monkeypatch.delenv("PYDANTIC_DISABLE_PLUGINS", raising=False)  # set here by our own modules, and inherited
    seen = place.root / "seen"
    about = place.write("site/spy-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: spy\nVersion: 1.0\n")
    about.with_name("entry_points.txt").write_text("[pydantic]\nspy = spy:plugin\n")
    place.write("site/spy.py", SPY.format(seen=str(seen)))
    place.environ["PYTHONPATH"] = str(place.root / "site")
    place.configure(cadences(fast="every: 1h"))
    return seen


def test_bites_this_one_is_loaded_where_nobody_forbids_it(place: Place, seen: Path) -> None:
    words = "import pydantic\nclass Model(pydantic.BaseModel):\n    field: int\n"
    subprocess.run([sys.executable, "-c", words], env=place.env(), check=True, timeout=60)
    assert seen.exists()


@pytest.mark.parametrize("command", ["validate-config", "status", "tick", "schema namespaces"])
def test_plugins_of_pydantic_are_not_loaded(place: Place, seen: Path, command: str) -> None:
    assert place.cli(*command.split()).code == 0
    assert not seen.exists()


def test_nor_by_the_daemon(place: Place, seen: Path) -> None:
    place.daemon().ready()
    assert not seen.exists()
