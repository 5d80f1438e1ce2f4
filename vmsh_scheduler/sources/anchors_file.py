"""anchors.yaml read, and handed out entry by entry to the cadences that have no command of their own.

What goes into a job is the entry as written: `${NAME}` is filled in by the subprocess alone. Here the values are only
looked at, so that what would fail there fails at validation; an entry that nobody uses may refer to what is not set."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, NamedTuple

from vmsh_scheduler.errors import ConfigError
from vmsh_scheduler.sources import rails
from vmsh_scheduler.sources.check import validate
from vmsh_scheduler.sources.compiled import Rail
from vmsh_scheduler.sources.grammar import Target
from vmsh_scheduler.sources.marks import config_error
from vmsh_scheduler.sources.yaml_file import Document, read

Entries = Mapping[str, Mapping[str, Any]]
"""By name, as written."""

VERBS: Mapping[str, str] = {"rfc3161": "tsa", "eip155": "evm", "btc": "btc", "ots": "ots"}


class Extra(NamedTuple):
    """What a rail's subprocess imports, and the extra of ours that brings it."""

    name: str
    modules: tuple[str, ...]


EXTRAS: Mapping[str, Extra] = {
    "rfc3161": Extra("tsa", ("rfc3161_client",)),
    "eip155": Extra("evm", ("coincurve", "Crypto")),
    "ots": Extra("ots", ("opentimestamps",)),
}


def uninstalled(scheme: str) -> str:
    """The line that installs what the rail lacks here; "" = nothing is missing."""
    extra = EXTRAS.get(scheme)
    if extra is None or all(find_spec(module) for module in extra.modules):
        return ""
    return f"pip install 'vmsh-scheduler[{extra.name}]'"


@dataclass(slots=True)
class AnchorsDocument:
    """The file of one reading. Problems of entries in use gather in `problems`, each once."""

    document: Document
    environ: Mapping[str, str] = field(repr=False)
    problems: dict[str, None] = field(default_factory=dict)
    _found: dict[str, Rail | None] = field(default_factory=dict)

    def rail(self, target: Target) -> Rail | None:
        """For a cadence; None: no entry is there for it. One with problems is given all the same."""
        key = f"{target.scheme}:{target.entry}"
        if key not in self._found:
            self._found[key] = self._rail(target)
        return self._found[key]

    def _rail(self, target: Target) -> Rail | None:
        entries = self._entries(target.scheme)
        name = rails.chosen(entries, target.entry)
        if not name:
            return None
        written = entries[name]
        entry, faults = rails.resolved(target.scheme, written, self.environ)
        faults += [] if entry is None else rails.mismatch(entry, target)
        self._note(target.scheme, name, faults)
        members = self._members(name, written.get("authorities"))
        told = {**written, "authorities": members} if members else written
        variables = rails.variables(target.scheme, written, *members.values())
        if target.scheme == "ots" and (node := self._header_node(name, written.get("btc"))):
            told, variables = {**written, "btc": node}, (*variables, *rails.variables("btc", *node.values()))
        return Rail(VERBS[target.scheme], name, told, variables)

    def _header_node(self, name: str, network: object) -> dict[str, Mapping[str, Any]]:
        """The entry of btc that an entry of ots names, by the network; {} when it names none that is good."""
        if not isinstance(network, str):
            return {}
        entries = self._entries("btc")
        found = rails.chosen(entries, network)
        refusal = rails.name_refusal("btc", network) or ("" if found else "must name an entry of btc")
        if refusal:
            self._note("ots", name, [rails.Fault(("btc",), refusal)])
            return {}
        entry, faults = rails.resolved("btc", entries[found], self.environ)
        faults += [] if entry is None else rails.mismatch(entry, Target("btc", network))
        self._note("btc", found, faults)
        return {network: entries[found]}

    def _members(self, group: str, names: object) -> Entries:
        """The entries that a group of authorities names, each good for itself."""
        found: dict[str, Mapping[str, Any]] = {}
        entries = self._entries("rfc3161")
        for index, name in enumerate(names if isinstance(names, list) else []):
            member = entries.get(name)
            if member is None or "authorities" in member or name == group:
                message = "must name another entry of rfc3161, one with a url"
                self._note("rfc3161", group, [rails.Fault(("authorities", index), message)])
                continue
            _, faults = rails.resolved("rfc3161", member, self.environ, overrides=False)
            self._note("rfc3161", name, faults)
            found[name] = member
        return found

    def _entries(self, scheme: str) -> Entries:
        found: Entries = self.document.data.get(scheme, {})
        return found

    def _note(self, scheme: str, name: str, faults: Iterable[rails.Fault]) -> None:
        for fault in faults:
            self.problems[self.document.problem((scheme, name, *fault.place), fault.message)] = None


class Unreadable:
    """In place of a file with problems, so that they are not told a second time by every cadence that needs it."""

    def rail(self, target: Target) -> Rail:
        return Rail(VERBS.get(target.scheme, ""), "", {}, ())


def read_anchors(raw: bytes, name: str, environ: Mapping[str, str]) -> AnchorsDocument:
    """Raises ConfigError with every problem that the file has whoever uses it."""
    document, problems = read(raw, name, empty_ok=True)
    if document is None:
        raise config_error(problems)
    problems += [
        document.problem((scheme, entry_name, *fault.place), fault.message)
        for scheme, entry_name, entry in _each(document.data)
        for fault in rails.literal_secrets(entry)
    ]
    try:
        validate(document._replace(data=_filled(document.data, environ)), rails.AnchorsFile)
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise config_error(problems)
    _check_names(document)
    return AnchorsDocument(document, environ)


def _each(data: Mapping[str, Any]) -> Iterable[tuple[str, str, Mapping[str, Any]]]:
    for scheme in rails.MODELS:
        entries = data.get(scheme)
        for name, entry in entries.items() if isinstance(entries, dict) else ():
            if isinstance(entry, dict):
                yield scheme, name, entry


def _filled(data: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """With every entry filled in as far as the environment goes."""
    copy = {key: dict(value) if isinstance(value, dict) else value for key, value in data.items()}
    for scheme, name, entry in _each(data):
        copy[scheme][name] = rails.filled(entry, environ)[0]
    return copy


def _check_names(document: Document) -> None:
    """An entry under a name that no target can have would never be used."""
    wrong = []
    for scheme, name, _ in _each(document.data):
        refusal = "" if name == rails.DEFAULT else rails.name_refusal(scheme, name)
        if refusal:
            wrong.append(document.problem((scheme, name), refusal, at_key=True))
    if wrong:
        raise config_error(wrong)
