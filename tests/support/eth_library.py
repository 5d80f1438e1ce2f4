"""The Ethereum libraries that tests have beside the program's own code."""

import importlib
import sys
from typing import Any


def library(name: str) -> Any:
    """Loaded at first use: that takes a second. py-evm raises the whole process's recursion limit to 100,000 when it is
    loaded, with which a JSON text that is nested too deep ends the process: it is put back."""
    limit = sys.getrecursionlimit()
    try:
        return importlib.import_module(name)
    finally:
        sys.setrecursionlimit(limit)
