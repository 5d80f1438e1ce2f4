"""Makes a virtual environment with pip, also where the system's Python lacks ensurepip and pip (Debian without
python3-venv) and nobody is root: then pip's own wheel is taken from the package index, checked and used."""

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.request
import venv
from pathlib import Path
from urllib.parse import urljoin

NEEDED = (3, 11)
WHEEL = re.compile(r"pip-(\d+(?:\.\d+)*)-py3-none-any\.whl")


def main(target: Path) -> int:
    if sys.version_info < NEEDED:
        sys.stderr.write("Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11 ...\n")
        return 1
    try:
        venv.create(target, with_pip=True, clear=True)
    except (subprocess.CalledProcessError, ImportError):
        venv.create(target, with_pip=False, clear=True, symlinks=True)
        install_pip(target / "bin" / "python")
    return 0


def install_pip(python: Path) -> None:
    """A wheel of pip can run itself: it installs the copy that stays."""
    index = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/") + "/pip/"
    request = urllib.request.Request(index, headers={"Accept": "application/vnd.pypi.simple.v1+json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        files = [
            file for file in json.load(answer)["files"] if WHEEL.fullmatch(file["filename"]) and not file.get("yanked")
        ]
    newest = max(files, key=lambda file: [int(n) for n in WHEEL.fullmatch(file["filename"])[1].split(".")])
    with urllib.request.urlopen(urljoin(index, newest["url"]), timeout=120) as answer:
        wheel = answer.read()
    if hashlib.sha256(wheel).hexdigest() != newest["hashes"]["sha256"]:
        raise SystemExit("the index sent a pip that is not what it announced")
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / newest["filename"]
        path.write_bytes(wheel)
        subprocess.run([python, f"{path}/pip", "install", "-q", "--no-deps", path], check=True)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
