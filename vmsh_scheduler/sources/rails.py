"""An entry of anchors.yaml (spec vaultmesh section 7): which one a target uses, and how what is written becomes values.

The compiler and the subprocess that anchors both come here, so both mean the same by it."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import ValidationError

from vmsh_scheduler.domain.references import fill, named, written_out
from vmsh_scheduler.sources import grammar
from vmsh_scheduler.sources.rail_models import (
    MODELS,
    AnchorsFile,
    BtcEntry,
    Eip155Entry,
    Entry,
    Login,
    OtsEntry,
    Rfc3161Entry,
)
from vmsh_scheduler.sources.words import say

__all__ = ["MODELS", "AnchorsFile", "BtcEntry", "Eip155Entry", "Entry", "Login", "OtsEntry", "Rfc3161Entry"]
DEFAULT = "default"

_USERINFO = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?#]*@")
_KEY_IN_PATH = re.compile(r"(?<=[/=])(?=[A-Za-z_-]*[0-9])(?=[0-9_-]*[A-Za-z])[A-Za-z0-9_-]{20,}(?=[/?&#]|$)")

OVERRIDES: Mapping[str, Mapping[str, str]] = {
    "eip155": {
        "EVM_RPC": "rpcUrl",
        "EVM_CHAIN_ID": "chainId",
        "EVM_CONTRACT": "contract",
        "EVM_ANCHOR_KEY": "key",
        "EVM_PERSIST": "persist",
        "EVM_CONFIRMATIONS": "confirmations",
    },
    "btc": {"BTC_RPC": "rpcUrl", "BTC_NETWORK": "network", "BTC_CONFIRMATIONS": "confirmations"},
    "rfc3161": {"TSA_URL": "url", "TSA_POLICY_OID": "policyOID"},
    "ots": {},
}
"""Variables that win over the file, and the field that each sets."""
_SECRET_FIELDS = {"key": ("keyFile", "keyCredential"), "password": ("passwordFile", "passwordCredential")}
_URL_FIELDS = ("rpcUrl", "url", "calendars", "trusted")


class Fault(NamedTuple):
    """What is wrong with one field of an entry; () = with the entry itself."""

    place: tuple[str | int, ...]
    message: str


def literal_secrets(entry: Mapping[str, Any]) -> Iterator[Fault]:
    """Secrets that stand in the file itself, which everybody who may read configuration could read."""
    for name, value in entry.items():
        if name in _SECRET_FIELDS and _is_literal(value):
            others = " or ".join(_SECRET_FIELDS[name])
            yield Fault((name,), f"a secret does not belong into this file: write ${{NAME}}, or use {others}")
        elif name in _URL_FIELDS:
            yield from _in_url(name, value)


def _is_literal(value: object) -> bool:
    return written_out(value).strip() != "" if isinstance(value, str) else value is not None


def _in_url(name: str, value: object) -> Iterator[Fault]:
    for index, url in enumerate(value if isinstance(value, list) else [value]):
        place = (name, index) if isinstance(value, list) else (name,)
        said = written_out(url) if isinstance(url, str) else ""
        if _USERINFO.match(url if isinstance(url, str) else ""):
            yield Fault(place, "no user information in a URL: use `user` and `passwordFile`, or write it as ${NAME}")
        elif _KEY_IN_PATH.search(said):
            yield Fault(place, "holds what looks like an API key: write the URL, or that part of it, as ${NAME}")


def filled(entry: Mapping[str, Any], environ: Mapping[str, str]) -> tuple[dict[str, Any], list[Fault]]:
    """With its references replaced. A field with an unset one, and one that is empty then, is left out."""
    kept: dict[str, Any] = {}
    faults: list[Fault] = []
    for name, value in entry.items():
        parts = value if isinstance(value, list) else [value]
        found = [fill(part, environ) if isinstance(part, str) else None for part in parts]
        wrong = [problem for each in found if each for problem in each.problems]
        faults += [Fault((name,), problem) for problem in wrong]
        plain = [part if each is None else each.text for part, each in zip(parts, found, strict=True)]
        if not wrong and plain != [""]:
            kept[name] = plain if isinstance(value, list) else plain[0]
    return kept, faults


def resolved(
    scheme: str, entry: Mapping[str, Any], environ: Mapping[str, str], *, overrides: bool = True
) -> tuple[Entry | None, list[Fault]]:
    """The values of an entry as written, or all that is wrong with it; no fault holds a value."""
    values, faults = filled(entry, environ)
    told = overriding(scheme, environ) if overrides and "authorities" not in entry else {}
    if "key" in told:
        values = {name: value for name, value in values.items() if name not in _SECRET_FIELDS["key"]}
    values |= told
    faults = [fault for fault in faults if fault.place[0] not in told]
    try:
        model = MODELS[scheme].model_validate(values)
    except ValidationError as error:
        found = [Fault(tuple(each["loc"]), say(each)) for each in error.errors(include_url=False)]
        return None, [*faults, *found]
    named_already = {fault.place[0] for fault in faults}
    faults += [fault for fault in incomplete(model) if fault.place[0] not in named_already]
    return (None, faults) if faults else (model, [])


def overriding(scheme: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Field -> value, of the variables that are set; EVM_PERSIST counts as true only if it is `true`."""
    told = {field: environ[name] for name, field in OVERRIDES[scheme].items() if environ.get(name)}
    if "persist" in told:
        told["persist"] = "true" if told["persist"] == "true" else "false"
    return told


def incomplete(entry: Entry) -> Iterator[Fault]:
    """What an entry lacks that is to be used, or has twice."""
    match entry:
        case Eip155Entry():
            yield from _missing(rpcUrl=entry.rpc_url)
            keys = {"key": entry.key, "keyFile": entry.key_file, "keyCredential": entry.key_credential}
            yield from _exactly_one(keys)
        case BtcEntry():
            yield from _missing(rpcUrl=entry.rpc_url)
        case Rfc3161Entry(authorities=None):
            yield from _missing(url=entry.url, trustBundle=entry.trust_bundle)
            if entry.need is not None:
                yield Fault(("need",), "goes with `authorities`")
        case Rfc3161Entry():
            yield from _group(entry)
        case OtsEntry():
            yield from _missing(calendars=entry.calendars)
            if entry.calendars and (entry.need or 1) > len(entry.calendars):
                yield Fault(("need",), "is more than there are calendars")
            if len({url.rstrip("/") for url in entry.calendars or ()}) < len(entry.calendars or ()):
                yield Fault(("calendars",), "names one twice")
    if not isinstance(entry, OtsEntry):
        yield from _login(entry)


def _missing(**fields: object) -> Iterator[Fault]:
    for name, value in fields.items():
        if value is None:
            yield Fault((name,), "required key is missing, or empty")


def _exactly_one(fields: Mapping[str, object]) -> Iterator[Fault]:
    given = [name for name, value in fields.items() if value is not None]
    first = next(iter(fields))
    if not given:
        yield Fault((first,), f"is missing: one of {', '.join(fields)}")
    elif len(given) > 1:
        yield Fault((given[1],), f"goes not with `{given[0]}`")


def _group(entry: Rfc3161Entry) -> Iterator[Fault]:
    names = entry.authorities or ()
    own = {"url": entry.url, "policyOID": entry.policy_oid, "trustBundle": entry.trust_bundle, "user": entry.user}
    for name, value in own.items():
        if value is not None:
            yield Fault((name,), "belongs into the entries that `authorities` names")
    if len(set(names)) < len(names):
        yield Fault(("authorities",), "names one twice")
    if (entry.need or 1) > len(names):
        yield Fault(("need",), "is more than there are authorities")


def _login(entry: Login) -> Iterator[Fault]:
    fields = {
        "password": entry.password,
        "passwordFile": entry.password_file,
        "passwordCredential": entry.password_credential,
        "cookieFile": getattr(entry, "cookie_file", None),
    }
    given = [name for name, value in fields.items() if value is not None]
    if len(given) > 1:
        yield Fault((given[1],), f"goes not with `{given[0]}`")
    if given and given != ["cookieFile"] and entry.user is None:
        yield Fault(("user",), "is missing beside the password")


def chosen(entries: Mapping[str, Any], name: str) -> str:
    """Which entry of a rail a target uses: its own, else `default`, else "" = none."""
    return name if name in entries else DEFAULT if DEFAULT in entries else ""


def name_refusal(scheme: str, name: str) -> str:
    """Why no target can lead to an entry of this name; "" if one can."""
    try:
        grammar.target(f"{scheme}:{name}")
    except grammar.GrammarError as error:
        return f"no target can have this name: {error}"
    return ""


def mismatch(entry: Entry, target: grammar.Target) -> Iterator[Fault]:
    """An entry that is for another chain than the target's; a wrong node would take the money all the same."""
    advice = f"is not that of the target {target.scheme}:{target.entry}; give it an entry of its own"
    if isinstance(entry, Eip155Entry) and entry.chain_id not in (None, int(target.entry)):
        yield Fault(("chainId",), f'{advice}, named "{target.entry}"')
    if isinstance(entry, BtcEntry) and entry.network not in (None, target.entry):
        yield Fault(("network",), f"{advice}, named {target.entry}")


def variables(scheme: str, *entries: Mapping[str, Any]) -> tuple[str, ...]:
    """What the subprocess has to see of the environment to make the same of them."""
    texts = [
        text
        for entry in entries
        for value in entry.values()
        for text in (value if isinstance(value, list) else [value])
        if isinstance(text, str)
    ]
    own = [name for text in texts for name in named(text)]
    return tuple(dict.fromkeys([*own, *OVERRIDES[scheme], "CREDENTIALS_DIRECTORY"]))
