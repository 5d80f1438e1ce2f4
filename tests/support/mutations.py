"""Good config files with something changed at random, and the process that has them read, one after another.

`python -m tests.support.mutations DIRECTORY FIRST COUNT HOW` prints a line per file pair: number, outcome, CPU ms."""

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.support.config import EVERY_AGENT_FIELD, EVERY_FIELD, EVERY_SETTING
from tests.support.daemon import UNMEASURED
from vmsh_scheduler.errors import ConfigError
from vmsh_scheduler.settings_file import load_settings
from vmsh_scheduler.sources.catalog import compile_files
from vmsh_scheduler.sources.watch import ConfigWatch

REPOSITORY = Path(__file__).parents[2]
ROLES = ("namespaces", "agents", "scheduler")
WORDS = """[] {} ~ true -1 0 1e3 1:30 010 1.10 off .inf 2024-13-45 99:00:00 *x &x &x|y ! !!int !!python/name:os.system
    ' " | > - ? : , [ ] { } # % @ ` $ ${NO} ${} $$ \\ 89s 34*fast 2*strong 0s local:a eip155:1 btc:mainnet"""
VALUES = [
    *WORDS.split(),
    "\t",
    "9" * 30,
    "9" * 5_000,
    "[" * 5_000,
    "{a: " * 500,
    "x" * 20_000,
    "\ud800",
    "\u2028",
    "\x85",
    "\ufeff",
    "\x00",
]

Files = dict[str, bytes]
Dice = random.Random


def bases() -> tuple[Files, ...]:
    """What is shipped, the file of the original, and one in which every field there is has a value."""
    shipped = {role: (REPOSITORY / f"config/{role}.yaml").read_bytes() for role in ROLES}
    seed = {"namespaces": (REPOSITORY / "tests/data/seed003-namespaces.yaml").read_bytes()}
    full = {"namespaces": EVERY_FIELD, "agents": EVERY_AGENT_FIELD, "scheduler": EVERY_SETTING}
    whole = {role: text.encode() for role, text in full.items()}
    return shipped, {**whole, **seed}, whole


def mutated(number: int) -> Files:
    """The same for the same number, everywhere."""
    dice = Dice(number)
    files = dict(dice.choice(bases()))
    role = dice.choice(sorted(files))
    if dice.random() < 0.7:  # most of what is shipped are comments: a change there tells nothing
        files[role] = b"".join(line for line in _lines(files[role]) if not line.lstrip().startswith(b"#"))
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        files[role] = dice.choice(CHANGES)(files[role], dice)
    return files


def _lines(raw: bytes) -> list[bytes]:
    return raw.splitlines(keepends=True) or [b"\n"]


def _span(length: int, dice: Dice, most: int) -> slice:
    start = dice.randrange(length)
    return slice(start, start + dice.randint(1, most))


def flip(raw: bytes, dice: Dice) -> bytes:
    """One to four bits."""
    changed = bytearray(raw or b"\n")
    for _ in range(dice.randint(1, 4)):
        changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
    return bytes(changed)


def cut_out(raw: bytes, dice: Dice) -> bytes:
    gone = _span(len(raw) or 1, dice, 40)
    return raw[: gone.start] + raw[gone.stop :]


def truncate(raw: bytes, dice: Dice) -> bytes:
    return raw[: dice.randrange(len(raw) or 1)]


def swap_lines(raw: bytes, dice: Dice) -> bytes:
    lines = _lines(raw)
    one, other = dice.randrange(len(lines)), dice.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return b"".join(lines)


def delete_lines(raw: bytes, dice: Dice) -> bytes:
    lines = _lines(raw)
    del lines[_span(len(lines), dice, 3)]
    return b"".join(lines)


def repeat_block(raw: bytes, dice: Dice) -> bytes:
    lines = _lines(raw)
    block = lines[_span(len(lines), dice, 12)]
    at = dice.randrange(len(lines))
    return b"".join([*lines[:at], *block * dice.choice((1, 1, 1, 50)), *lines[at:]])


def indent(raw: bytes, dice: Dice) -> bytes:
    lines = _lines(raw)
    at = dice.randrange(len(lines))
    lines[at] = dice.choice((b" ", b"  ", b"\t", b"- ", b"? ")) + lines[at].lstrip(dice.choice((b"", b" ")))
    return b"".join(lines)


def other_type(raw: bytes, dice: Dice) -> bytes:
    """The value of a key becomes something of another kind."""
    lines = _lines(raw)
    at = dice.randrange(len(lines))
    head, colon, _ = lines[at].partition(b":")
    lines[at] = head + colon + b" " + dice.choice(VALUES).encode("utf-8", "surrogatepass") + b"\n"
    return b"".join(lines)


def swap_values(raw: bytes, dice: Dice) -> bytes:
    """Each may well be of the right type, and in the wrong place."""
    lines = _lines(raw)
    one, other = dice.randrange(len(lines)), dice.randrange(len(lines))
    (left, _, mine), (right, _, yours) = lines[one].partition(b":"), lines[other].partition(b":")
    lines[one], lines[other] = left + b":" + yours, right + b":" + mine
    return b"".join(lines)


def other_key(raw: bytes, dice: Dice) -> bytes:
    """A key with a letter less, or one that another line has."""
    lines = _lines(raw)
    at, source = dice.randrange(len(lines)), dice.randrange(len(lines))
    head, colon, value = lines[at].partition(b":")
    lines[at] = dice.choice((head[:-1], lines[source].partition(b":")[0])) + colon + value
    return b"".join(lines)


CHANGES: tuple[Callable[[bytes, Dice], bytes], ...] = (
    flip,
    cut_out,
    truncate,
    swap_lines,
    delete_lines,
    repeat_block,
    indent,
    other_type,
    swap_values,
    other_key,
)


@dataclass(frozen=True, slots=True)
class Seen:
    """What became of one pair of files. `outcome`: accepted, refused, or the name of what was raised."""

    number: int
    outcome: str
    cpu_ms: float


@dataclass(frozen=True, slots=True)
class Examined:
    """What a worker said, and how it ended: 0, or -signal."""

    seen: tuple[Seen, ...]
    code: int
    words: str

    def outcomes(self, *known: str) -> list[Seen]:
        return [each for each in self.seen if each.outcome in known]

    def escapes(self) -> list[Seen]:
        return [each for each in self.seen if each.outcome not in ("accepted", "refused")]


def examine(directory: Path, first: int, count: int, how: str = "program", *, patience_s: float = 100) -> Examined:
    """Has a process of its own read them. `how`: program, or naive."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.mutations", str(directory), str(first), str(count), how],
        cwd=REPOSITORY,
        env={**os.environ, **UNMEASURED},
        capture_output=True,
        text=True,
        timeout=patience_s,
        check=False,
    )
    rows = (line.split() for line in done.stdout.splitlines())
    return Examined(tuple(Seen(int(n), what, float(ms)) for n, what, ms in rows), done.returncode, done.stderr)


def write(directory: Path, files: Mapping[str, bytes]) -> None:
    """Below `config/`; a file that is not among them is removed."""
    for role in ROLES:
        path = directory / f"config/{role}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        if role in files:
            path.write_bytes(files[role])


def _by_the_program(directory: Path) -> None:
    """What `validate-config` does."""
    settings = load_settings({}, {}, directory)
    compile_files(ConfigWatch(settings.config_paths).read_now(), settings, {})


def _naively(directory: Path) -> None:
    """As one would write it in an afternoon."""
    document = yaml.safe_load((directory / "config/namespaces.yaml").read_text())
    for space in document["namespaces"].values():
        for level in space["cadence"].values():
            number, unit = int(level["every"][:-1]), level["every"][-1]
            if number * {"s": 1, "m": 60, "h": 3_600, "d": 86_400}[unit] <= 0:
                raise ConfigError("never")


def _outcome(read: Callable[[Path], None], directory: Path) -> str:
    try:
        read(directory)
    except ConfigError as error:
        return "refused" if error.problems and all(error.problems) else "wordless"
    except Exception as error:
        return type(error).__name__
    return "accepted"


def _work(directory: Path, numbers: range, how: str) -> Iterator[str]:
    read = {"program": _by_the_program, "naive": _naively}[how]
    for number in numbers:
        write(directory, mutated(number))
        began = time.process_time()
        outcome = _outcome(read, directory)
        yield f"{number} {outcome} {(time.process_time() - began) * 1000:.1f}\n"


if __name__ == "__main__":
    start = int(sys.argv[2])
    for line in _work(Path(sys.argv[1]), range(start, start + int(sys.argv[3])), sys.argv[4]):
        os.write(1, line.encode())  # at once: the last line tells where a signal struck
