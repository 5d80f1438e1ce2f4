"""Which rail pays for a target: by its scheme, loaded only then, so that a rail needs no other rail's libraries."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from vmsh_scheduler.anchors.chain import Chain, Looker
from vmsh_scheduler.anchors.facts import Facts
from vmsh_scheduler.anchors.transact import Patience
from vmsh_scheduler.errors import ConfigError

MODULES: Mapping[str, str] = {"eip155": "vmsh_scheduler.anchors.evm", "btc": "vmsh_scheduler.anchors.btc"}
"""Scheme -> module with `opened(facts) -> Opened`."""
UNPAID: Mapping[str, str] = {"ots": "vmsh_scheduler.anchors.ots"}
"""Scheme -> module with `probe(facts)` and `confirm(facts)` of its own: in two phases too, but nobody pays."""
LOOKERS: Mapping[str, str] = {**MODULES, **UNPAID}
"""Scheme -> module with `looker(facts) -> Looker | None`, for `verify --online`."""
EXTRAS: Mapping[str, str] = {"eip155": "evm"}


@dataclass(frozen=True, slots=True)
class Opened:
    """A chain as its entry of anchors.yaml says, and how long to wait for what."""

    chain: Chain
    wait_s: float = 0.0
    """A run waits so long for its first block; 0 = blocks come too seldom for that."""
    stuck_after_s: int = 3_600
    """After that without a block a transaction is replaced by a dearer one."""
    alarm_after_s: int = 86_400
    """After that without a block somebody should look."""

    def patience(self, facts: Facts) -> Patience:
        """`waitS` of the facts wins."""
        told = facts.text("waitS")
        return Patience(float(told) if told.isascii() and told.isdigit() else self.wait_s)


def opened(facts: Facts) -> Opened:
    """Nothing is asked of the node yet. ConfigError when the target has no such rail, or its extra is missing."""
    found: Opened = _module(facts, MODULES).opened(facts)
    return found


def looker(facts: Facts) -> Looker | None:
    """Reads only; no key is needed, and none is read. None: the rail's entry names no node."""
    found: Looker | None = _module(facts, LOOKERS).looker(facts)
    return found


def _module(facts: Facts, modules: Mapping[str, str]) -> Any:
    target = facts.text("target", "VMSH_TARGET")
    scheme = target.partition(":")[0]
    if scheme not in modules:
        raise ConfigError(f"target {target!r} is on no chain that is paid", hint=f"one of {', '.join(modules)}")
    try:
        return importlib.import_module(modules[scheme])
    except ModuleNotFoundError as error:
        raise _not_installed(scheme, error) from None


def unpaid(facts: Facts) -> ModuleType | None:
    """The rail's own module, if it has one."""
    scheme = facts.text("target", "VMSH_TARGET").partition(":")[0]
    return importlib.import_module(UNPAID[scheme]) if scheme in UNPAID else None


def open_chain(facts: Facts) -> Chain:
    return opened(facts).chain


def _not_installed(scheme: str, error: ModuleNotFoundError) -> ConfigError:
    extra = EXTRAS.get(scheme)
    how = f"pip install 'vmsh-scheduler[{extra}]'" if extra else ""
    return ConfigError(f"{scheme}: needs {error.name}, which is not installed", hint=how)
