"""The Ethereum libraries that tests have beside the program's own code."""

import importlib
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def unmeasured(work: Callable[P, R]) -> Callable[P, R]:
    """Of an EVM's calls coverage counts none, but looks at each of them, which takes as long as the EVM."""

    @wraps(work)
    def quietly(*args: P.args, **kwargs: P.kwargs) -> R:
        tracer = sys.gettrace()
        sys.settrace(None)
        try:
            return work(*args, **kwargs)
        finally:
            sys.settrace(tracer)

    return quietly


@unmeasured
def library(name: str) -> Any:
    """Loaded at first use: that takes a second. py-evm raises the whole process's recursion limit to 100,000 when it is
    loaded, with which a JSON text that is nested too deep ends the process: it is put back."""
    limit = sys.getrecursionlimit()
    try:
        return importlib.import_module(name)
    finally:
        sys.setrecursionlimit(limit)
