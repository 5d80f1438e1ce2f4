"""Watching real files: what has settled is handed out, once; what is half there never is."""

import os
from pathlib import Path

import pytest

from tests.support.config_races import ConfigMap, numbered, poll_half_written, read_while_swapped
from vmsh_scheduler.domain.trigger import SECOND
from vmsh_scheduler.errors import ConfigError
from vmsh_scheduler.sources.config_files import Watched, look
from vmsh_scheduler.sources.watch import EMPTY_DEADLINE, REST_DEADLINE, SETTLE, ConfigWatch, Reading, Trouble, Unstable


class Site:
    """A config directory, a watch on it, and a clock that a test moves."""

    def __init__(self, directory: Path) -> None:
        self.namespaces = directory / "namespaces.yaml"
        self.agents = directory / "agents.yaml"
        self.namespaces.write_text("namespaces: {}\n")
        self.now = 1_000
        self.watch = ConfigWatch(
            [Watched("namespaces", self.namespaces, shown="n.yaml"), Watched("agents", self.agents, optional=True)]
        )

    def poll(self, later: int = 0) -> Reading | Trouble | Unstable | None:
        self.now += later
        return self.watch.poll(self.now)

    def settled(self) -> Reading | Trouble | None:
        """What comes of a change after two looks."""
        first = self.poll(1_000)
        if not isinstance(first, Unstable):
            return first
        assert first.again_at == self.now + SETTLE
        found = self.poll(SETTLE)
        assert not isinstance(found, Unstable)
        return found


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path)
    made.watch.read_now()
    return made


def reading(found: object) -> Reading:
    assert isinstance(found, Reading)
    return found


def trouble(found: object) -> str:
    assert isinstance(found, Trouble)
    (problem,) = found.problems
    return problem


def test_a_reading_that_was_written_over_gives_up_superseded_and_what_is_there_comes_next(site: Site) -> None:
    """Were it the same bytes once more, or those before."""
    site.namespaces.write_text("namespaces: {a: {}}\n")
    first = reading(site.settled())
    assert not site.watch.gives_up_superseded()
    site.namespaces.write_text("namespaces: {a: {}}\n")
    assert site.watch.gives_up_superseded()
    assert reading(site.settled()) == first
    site.namespaces.write_text("namespaces: {}\n")
    assert site.watch.gives_up_superseded()
    assert reading(site.settled()).raw["namespaces"] == b"namespaces: {}\n"
    assert not site.watch.gives_up_superseded()


def test_a_reading_holds_what_is_there(tmp_path: Path) -> None:
    site = Site(tmp_path)
    found = site.watch.read_now()
    assert (found.raw, found.names) == ({"namespaces": b"namespaces: {}\n"}, {"namespaces": "n.yaml"})
    site.agents.write_text("agents: []\n")
    both = site.watch.read_now()
    assert both.raw["agents"] == b"agents: []\n"
    assert both.names["agents"] == str(site.agents)
    assert both.sha256 != found.sha256
    assert site.poll(1_000) is None


def test_without_a_first_reading_polling_finds_it(tmp_path: Path) -> None:
    assert reading(Site(tmp_path).settled()).raw == {"namespaces": b"namespaces: {}\n"}


def test_nothing_new_is_none(site: Site) -> None:
    assert [site.poll(1_000) for _ in range(3)] == [None] * 3


def test_nothing_new_opens_no_file(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.poll()
    stats, real = [], os.stat
    monkeypatch.setattr(os, "stat", lambda path: stats.append(path) or real(path))
    monkeypatch.setattr(os, "open", lambda *_, **__: pytest.fail("opened"))
    assert site.poll(1_000) is None
    assert stats == [str(site.namespaces), str(site.agents)]


def test_touched_but_equal_is_nothing_new(site: Site) -> None:
    os.utime(site.namespaces)
    assert site.poll(1_000) is None
    site.namespaces.chmod(0o600)
    assert site.poll(1_000) is None


def test_written_in_place_is_seen_once_when_settled(site: Site) -> None:
    site.namespaces.write_text("namespaces: {a: 1}\n")
    assert isinstance(site.poll(1_000), Unstable)
    assert isinstance(site.poll(SETTLE - 1), Unstable)
    assert reading(site.poll(1)).raw["namespaces"] == b"namespaces: {a: 1}\n"
    assert site.poll(1_000) is None


def test_editors_that_rename(site: Site) -> None:
    """First the old file moves aside, then a new one takes its name."""
    site.namespaces.rename(site.namespaces.with_suffix(".bak"))
    assert isinstance(site.poll(1_000), Unstable)
    site.namespaces.write_text("namespaces: {b: 1}\n")
    assert isinstance(site.poll(50), Unstable)
    assert reading(site.poll(SETTLE)).raw["namespaces"] == b"namespaces: {b: 1}\n"


def test_same_size_same_time_other_file(site: Site) -> None:
    before = site.namespaces.stat()
    fresh = site.namespaces.with_suffix(".new")
    fresh.write_text("namespaces: []\n")
    os.utime(fresh, ns=(before.st_atime_ns, before.st_mtime_ns))
    fresh.replace(site.namespaces)
    assert reading(site.settled()).raw["namespaces"] == b"namespaces: []\n"


def test_an_optional_file_that_appears(site: Site) -> None:
    site.agents.write_text("agents: []\n")
    assert set(reading(site.settled()).raw) == {"namespaces", "agents"}


def test_c1_half_written_is_never_handed_out(tmp_path: Path) -> None:
    """What is handed out is whole; a reader that believed every look would have taken empty and partial files."""
    seen = poll_half_written(tmp_path, 150)
    assert seen.empty + seen.partial >= 10, f"the writer was not caught half-way, this proved nothing: {seen}"
    assert seen.readings >= 1, seen
    assert seen.wrong == [] or seen.longest_s * SECOND >= SETTLE, seen


def test_c1_empty_is_half_written_until_the_deadline(site: Site) -> None:
    site.namespaces.write_text(" \n")
    waited = 0
    while isinstance(found := site.poll(SETTLE), Unstable):
        waited += SETTLE
    assert trouble(found) == "n.yaml: is empty"
    assert waited >= EMPTY_DEADLINE
    assert site.poll(1_000) is None


def test_c1_empty_then_written(site: Site) -> None:
    site.namespaces.write_bytes(b"")
    assert isinstance(site.poll(1_000), Unstable)
    assert isinstance(site.poll(SETTLE), Unstable)
    site.namespaces.write_text("namespaces: {c: 1}\n")
    assert reading(site.settled()).raw["namespaces"] == b"namespaces: {c: 1}\n"


def test_c1_what_never_rests_is_said_once_and_read_when_it_does(site: Site) -> None:
    said = []
    for turn in range(2 * REST_DEADLINE // SETTLE):
        site.namespaces.write_text(f"namespaces: {{a{turn}: 1}}\n")
        found = site.poll(SETTLE)
        if not isinstance(found, Unstable):
            said.append(trouble(found))
    assert said == [f"n.yaml, {site.agents}: changing for over 30 s without coming to rest"]
    assert isinstance(site.settled(), Reading)


def test_c1_back_to_the_old_contents_ends_the_trouble(site: Site) -> None:
    for turn in range(REST_DEADLINE // SETTLE + 2):
        site.namespaces.write_text(f"namespaces: {{a{turn}: 1}}\n")
        site.poll(SETTLE)
    site.namespaces.write_text("namespaces: {}\n")
    assert reading(site.settled()).raw["namespaces"] == b"namespaces: {}\n"
    assert site.poll(1_000) is None


def test_c2_deleted_is_said_once_and_ends_with_a_reading(site: Site) -> None:
    old = site.watch.read_now().sha256
    site.namespaces.unlink()
    assert trouble(site.settled()) == "n.yaml: is missing"
    assert [site.poll(1_000) for _ in range(3)] == [None] * 3
    site.namespaces.write_text("namespaces: {}\n")
    assert reading(site.settled()).sha256 == old


def test_c2_an_optional_file_may_be_absent_but_not_vanish(site: Site) -> None:
    site.agents.write_text("agents: []\n")
    assert isinstance(site.settled(), Reading)
    site.agents.unlink()
    assert trouble(site.settled()) == f"{site.agents}: is missing"
    assert set(site.watch.read_now().raw) == {"namespaces"}
    assert site.poll(1_000) is None


def test_c2_a_directory_in_its_place(site: Site) -> None:
    site.namespaces.unlink()
    site.namespaces.mkdir()
    assert trouble(site.settled()) == "n.yaml: is a directory; a file is needed"


def test_c2_a_fifo_does_not_block(site: Site) -> None:
    site.namespaces.unlink()
    os.mkfifo(site.namespaces)
    assert trouble(site.settled()) == "n.yaml: is not a regular file"


def test_c2_a_link_to_itself(site: Site) -> None:
    site.namespaces.unlink()
    site.namespaces.symlink_to(site.namespaces)
    assert trouble(site.settled()).startswith("n.yaml: cannot be read: ")


@pytest.mark.needs("another user than root")
def test_c2_unreadable(site: Site) -> None:
    site.namespaces.chmod(0)
    assert trouble(site.settled()) == "n.yaml: cannot be read: Permission denied"
    site.namespaces.chmod(0o600)
    assert isinstance(site.settled(), Reading)


def test_c2_writable_by_everybody_is_refused(site: Site) -> None:
    site.namespaces.chmod(0o666)
    assert "chmod o-w" in trouble(site.settled())


@pytest.mark.needs("root")
def test_c2_a_stranger_as_owner_is_a_warning(site: Site) -> None:
    os.chown(site.namespaces, 4_321, -1)
    assert site.watch.read_now().warnings == ("n.yaml: belongs to uid 4321, who so decides what is run here",)


def test_all_that_is_wrong_is_said_at_start(tmp_path: Path) -> None:
    missing, empty = tmp_path / "n.yaml", tmp_path / "a.yaml"
    empty.touch()
    with pytest.raises(ConfigError) as refused:
        ConfigWatch([Watched("namespaces", missing), Watched("agents", empty)]).read_now()
    assert refused.value.problems == (f"{missing}: is missing", f"{empty}: is empty")


def test_c4_a_huge_sparse_file_is_refused_unread(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    os.truncate(site.namespaces, 1 << 30)
    monkeypatch.setattr(os, "read", lambda *_: pytest.fail("read"))
    assert trouble(site.settled()) == "n.yaml: too large: 1,073,741,824 bytes, at most 10,000,000"


def test_c4_a_file_that_grows_while_it_is_read_is_cut_off(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.namespaces.write_text("namespaces: {a: 1}\n")
    monkeypatch.setattr(os, "read", lambda fd, size: b"x" * size)
    assert trouble(site.settled()) == "n.yaml: too large: at most 10,000,000 bytes"


def test_c3_generations_never_mix(tmp_path: Path) -> None:
    """The second files are read long after the first; the map is swapped all the time."""
    seen = read_while_swapped(ConfigMap(tmp_path, numbered), 200, patience_s=30)
    assert seen.naive_mixed >= 5, f"reading by path hardly mixed generations, this proved nothing: {seen}"
    assert (seen.whole >= 200, seen.mixed) == (True, 0), seen


def test_c3_one_reading_per_swap(tmp_path: Path) -> None:
    made = ConfigMap(tmp_path, numbered)
    watch = ConfigWatch(made.files())
    assert watch.read_now().raw["agents"] == b"generation: 0\n"
    now = 0
    for generation in (1, 2, 3):
        made.swap()
        found = [watch.poll(now + later) for later in (1_000, 1_200, 2_000, 3_000)]
        now += 5_000
        handed = [each for each in found if each is not None and not isinstance(each, Unstable)]
        assert [reading(each).raw["namespaces"] for each in handed] == [b"generation: %d\n" % generation]


def test_c3_through_a_link_to_the_mount(tmp_path: Path) -> None:
    (tmp_path / "map").mkdir()
    made = ConfigMap(tmp_path / "map", numbered)
    (tmp_path / "n.yaml").symlink_to(tmp_path / "map/namespaces.yaml")
    watch = ConfigWatch([Watched("namespaces", tmp_path / "n.yaml")])
    assert watch.read_now().raw["namespaces"] == b"generation: 0\n"
    made.swap()
    assert isinstance(watch.poll(0), Unstable)
    assert reading(watch.poll(SETTLE)).raw["namespaces"] == b"generation: 1\n"


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    made = ConfigMap(tmp_path, numbered)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        look(made.files())
        look([Watched("x", tmp_path), Watched("y", tmp_path / "none")])
    assert len(list(Path("/proc/self/fd").iterdir())) == before
