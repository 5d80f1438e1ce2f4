"""S16: file systems whose renames and locks are not those of a local disk are named."""

import os
from contextlib import closing
from pathlib import Path

import pytest

from vmsh_scheduler.doctor import examine
from vmsh_scheduler.settings_file import load_settings
from vmsh_scheduler.stores.local import mounts
from vmsh_scheduler.stores.local.directory import open_directory

TABLE = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
36 22 0:41 / /data/on\\040nfs rw,relatime shared:3 master:1 - nfs4 server:/x rw,vers=4.2
37 22 0:42 / /merged rw - overlay overlay rw,lowerdir=/l
38 22 0:43 / /s rw - fuse.sshfs host:/ rw
short line
"""


@pytest.mark.parametrize(
    ("device", "kind"),
    [((254, 0), "ext4"), ((0, 41), "nfs4"), ((0, 42), "overlay"), ((0, 43), "fuse.sshfs"), ((0, 99), "")],
)
def test_s16_the_type_is_that_of_the_device(device: tuple[int, int], kind: str) -> None:
    assert mounts.file_system(os.makedev(*device), TABLE) == kind


def mounted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str) -> None:
    """This directory, as a mount of that type."""
    device = tmp_path.stat().st_dev
    table = tmp_path / "mountinfo"
    table.write_text(f"1 1 {os.major(device)}:{os.minor(device)} / / rw - {kind} x rw\n")
    monkeypatch.setattr(mounts, "MOUNTS", table)


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "fuse", "fuse.glusterfs", "overlay", "cifs", "9p"])
def test_s16_a_doubtful_file_system_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    mounted(monkeypatch, tmp_path, kind)
    with closing(open_directory(tmp_path / "state" / "scheduler.json")) as directory:
        found = directory.doubt()
    assert found.text.startswith(f"state directory is on {kind}: ")
    assert found.grave is (kind != "overlay")


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "zfs", "tmpfs"])
def test_s16_a_local_one_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    mounted(monkeypatch, tmp_path, kind)
    with closing(open_directory(tmp_path / "state" / "scheduler.json")) as directory:
        assert directory.doubt() == mounts.Doubt()


def test_s16_where_nothing_is_known_nothing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "MOUNTS", tmp_path / "no-such-file")
    with closing(open_directory(tmp_path / "scheduler.json")) as directory:
        assert directory.doubt() == mounts.Doubt()


@pytest.mark.parametrize(("kind", "ok"), [("nfs4", [False]), ("overlay", [True]), ("ext4", [])])
def test_s16_doctor_says_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, ok: list[bool]) -> None:
    """A container without a volume works, so it is told and not failed."""
    mounted(monkeypatch, tmp_path, kind)
    (tmp_path / "state").mkdir(mode=0o700)
    settings = load_settings({}, {"METRICS_PORT": "0"}, tmp_path)
    rows = [row for row in examine(settings, {}) if "state directory is on" in row["detail"]]
    assert [row["ok"] for row in rows] == ok
