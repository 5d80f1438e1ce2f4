"""C4: inputs made to exhaust whoever reads them are refused at once, with little memory, in a process of their own."""

import json
import signal
import subprocess
import sys

import pytest

READER = """
import json, resource, sys, time
from vmsh_scheduler.errors import ConfigError
from vmsh_scheduler.sources.yaml_file import parse

def levels(count, line):
    return "".join(line(chr(97 + n), chr(98 + n)) + "\\n" for n in range(count))

BOMBS = {
    "deep_lists": b"a: " + b"[" * 200_000,
    "deep_mappings": b"{a: " * 200_000,
    "deep_blocks": b"a:\\n " + b"- " * 2_000_000,
    "laughs": ("a: &a [[], [], [], [], [], [], [], [], []]\\n"
               + levels(9, lambda n, m: f"{m}: &{m} [" + ", ".join(["*" + n] * 9) + "]")).encode(),
    "merges": ("a: &a {x: 1}\\n"
               + levels(9, lambda n, m: f"{m}: &{m} {{<<: [" + ", ".join(["*" + n] * 9) + "]}")).encode(),
    "recursive": b"a: &a [*a]",
    "chain": ("a0: &a0 [x]\\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\\n" for n in range(1, 2_000))).encode(),
    "copied_text": b"a: &a '" + b"x" * 5_000_000 + b"'\\nb: [" + b"*a, " * 1_000 + b"]",
    "wide": b"a: [" + b"1," * 3_000_000 + b"]",
    "long": b"a:\\n" + b"- 1\\n" * 2_400_000,
    "digits": b"a: " + b"9" * 5_000_000,
    "over_size": b"a: '" + b"x" * 10_000_000 + b"'",
}
found = {}
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name, raw in BOMBS.items():
    began, problems = time.process_time(), []
    try:
        parse(raw, "f.yaml")
    except ConfigError as error:
        problems = error.problems
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    found[name] = {"seconds": time.process_time() - began, "kilobytes": grown, "problems": problems}
json.dump(found, sys.stdout)
"""

NAIVE = """
import resource, sys, yaml
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_CPU, (1, 1))
bombs = {
    "deep": "a: " + "[" * 200_000,
    "merges": "a: &a {x: 1}\\n" + "".join(
        f"{m}: &{m} {{<<: [" + ", ".join(["*" + n] * 9) + "]}\\n" for n, m in zip("abcdefgh", "bcdefghi")),
}
yaml.load(bombs[sys.argv[1]], Loader=yaml.CSafeLoader if sys.argv[1] == "deep" else yaml.SafeLoader)
"""


@pytest.mark.parametrize("bomb", ["deep", "merges"])
def test_c4_the_library_alone_dies_of_them(bomb: str) -> None:
    """Of its stack, or of the second of CPU time that it is given."""
    done = subprocess.run([sys.executable, "-c", NAIVE, bomb], capture_output=True, timeout=60, check=False)
    assert done.returncode in (-signal.SIGSEGV, -signal.SIGXCPU, -signal.SIGKILL), done.stderr.decode()


@pytest.fixture(scope="module")
def measured() -> dict[str, dict[str, object]]:
    done = subprocess.run([sys.executable, "-c", READER], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    found: dict[str, dict[str, object]] = json.loads(done.stdout)
    return found


def test_c4_twelve_bombs_are_refused_with_a_place(measured: dict[str, dict[str, list[str]]]) -> None:
    assert len(measured) == 12
    assert {name: found["problems"] for name, found in measured.items() if not found["problems"]} == {}
    assert all(found["problems"][0].startswith("f.yaml:") for found in measured.values())


def test_c4_each_within_a_second(measured: dict[str, dict[str, float]]) -> None:
    assert {name: found["seconds"] for name, found in measured.items() if found["seconds"] > 1} == {}


def test_c4_in_little_memory(measured: dict[str, dict[str, int]]) -> None:
    assert max(found["kilobytes"] for found in measured.values()) <= 32 * 1024
