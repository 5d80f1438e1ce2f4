"""Which rail pays for a target: by its scheme, loaded only then, so that a rail needs no other rail's libraries."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from vmsh_scheduler.anchors.chain import Chain, Looker
from vmsh_scheduler.anchors.facts import Facts
from vmsh_scheduler.anchors.transact import Patience
from vmsh_scheduler.domain.batch import Document
from vmsh_scheduler.errors import ConfigError

MODULES: Mapping[str, str] = {"eip155": "vmsh_scheduler.anchors.evm", "btc": "vmsh_scheduler.anchors.btc"}
"""Scheme -> module with `opened(facts) -> Opened`."""
UNPAID: Mapping[str, str] = {"ots": "vmsh_scheduler.anchors.ots"}
"""Scheme -> module with `probe(facts)` and `confirm(facts)` of its own: in two phases too, but nobody pays."""
LOOKERS: Mapping[str, str] = {**MODULES, **UNPAID}
"""Scheme -> module with `looker(facts) -> Looker | None`, for `verify --online`."""
DEPLOYERS: Mapping[str, str] = {"eip155": "vmsh_scheduler.anchors.deploy"}
"""Scheme -> module with `run(facts)`, which puts a contract there."""
EXTRAS: Mapping[str, str] = {"eip155": "evm"}


class Unpaid(Protocol):
    """A module of UNPAID."""

    def probe(self, facts: Facts) -> Document: ...
    def confirm(self, facts: Facts) -> Document: ...


class Deployer(Protocol):
    """A module of DEPLOYERS."""

    def run(self, facts: Facts) -> Document: ...


@dataclass(frozen=True, slots=True)
class Opened:
    """A chain as its entry of anchors.yaml says, and how long to wait for what."""

    chain: Chain
    wait_s: float = 0.0
    """A run waits so long for its first block; 0 = blocks come too seldom for that."""
    stuck_after_s: int = 3_600
    """After that without a block a transaction is replaced by a dearer one."""

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
        raise ConfigError(f"target {target!r} is not for this command", hint=f"it is for {', '.join(modules)}")
    try:
        return importlib.import_module(modules[scheme])
    except ModuleNotFoundError as error:
        raise _not_installed(scheme, error) from None


def unpaid(facts: Facts) -> Unpaid | None:
    """The rail's own module, if it has one."""
    scheme = facts.text("target", "VMSH_TARGET").partition(":")[0]
    found: Unpaid | None = _module(facts, UNPAID) if scheme in UNPAID else None
    return found


def deployer(facts: Facts) -> Deployer:
    """ConfigError as `opened`: for chains without contracts, and where the extra is missing."""
    found: Deployer = _module(facts, DEPLOYERS)
    return found


def _not_installed(scheme: str, error: ModuleNotFoundError) -> ConfigError:
    extra = EXTRAS.get(scheme)
    how = f"pip install 'vmsh-scheduler[{extra}]'" if extra else ""
    return ConfigError(f"{scheme}: needs {error.name}, which is not installed", hint=how)
