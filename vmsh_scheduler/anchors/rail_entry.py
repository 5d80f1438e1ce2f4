"""The entry of anchors.yaml that a run was given, with its references and secrets filled in: here, and nowhere else.

`rail` of the facts is the entry as written, `railName` the name it was found under (spec vaultmesh section 7)."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

from vmsh_scheduler.anchors import disk, rpc
from vmsh_scheduler.anchors.facts import Facts
from vmsh_scheduler.errors import ConfigError
from vmsh_scheduler.sources import grammar, rails

E = TypeVar("E", rails.Eip155Entry, rails.BtcEntry, rails.Rfc3161Entry, rails.OtsEntry)

SECRET_LIMIT = 64 << 10


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where to ask. User information is never a part of `url`; its path may be a key all the same."""

    url: str = field(repr=False)
    user: str = ""
    password: str = field(default="", repr=False)

    def http(self, field_name: str = "rpcUrl") -> rpc.Endpoint:
        """As requests go there; `field_name`: what to set when it is wrong."""
        return rpc.endpoint(self.url, user=self.user, password=self.password, field_name=field_name)


@dataclass(frozen=True, slots=True)
class EvmRail:
    """Of `eip155:<chainId>`."""

    rpc: Endpoint
    chain_id: int
    key: str = field(repr=False)
    contract: str
    persist: bool
    confirmations: int
    max_fee_gwei: float | None
    priority_fee_gwei: float | None
    replace_after_s: float | None


@dataclass(frozen=True, slots=True)
class BtcRail:
    """Of `btc:<network>`."""

    rpc: Endpoint
    network: str
    wallet: str
    confirmations: int
    conf_target: int | None
    fee_rate: float | None
    max_fee_sats: int | None


@dataclass(frozen=True, slots=True)
class Authority:
    """One TSA; its attestations have the chain `rfc3161:<name>`."""

    name: str
    endpoint: Endpoint
    trust_bundle: Path
    policy_oid: str
    timeout_s: float


@dataclass(frozen=True, slots=True)
class TsaRail:
    """Of `rfc3161:<name>`: so many of these must stamp."""

    authorities: tuple[Authority, ...]
    need: int = 1


@dataclass(frozen=True, slots=True)
class OtsRail:
    """Of `ots:<name>`."""

    calendars: tuple[Endpoint, ...]
    need: int
    alarm_after_s: float
    timeout_s: float
    trusted: tuple[str, ...]
    btc: BtcRail | None
    """The node that checks block headers; None: nobody does."""


@dataclass(frozen=True, slots=True)
class _Given:
    """What an entry is filled in from."""

    scheme: str
    name: str
    facts: Facts

    def fault(self, field_name: str, message: str) -> ConfigError:
        return ConfigError(f"anchors.yaml: {self.scheme}.{self.name}.{field_name}: {message}")

    def path(self, text: str) -> Path:
        return self.facts.root / text

    def secret(self, value: str | None, file: str | None, credential: str | None, field_name: str) -> str:
        """The one of the three that is given; "" = none is."""
        if value is not None:
            return value
        if file is not None:
            path = self.path(file)
            with suppress(OSError):  # reading it says why
                disk.check_private(path, group=True)  # containers hand secrets over that way
            return self._content(path, f"{field_name}File")
        if credential is None:
            return ""
        directory = self.facts.credentials
        if Path(credential).name != credential:
            raise self.fault(f"{field_name}Credential", "must be the name of a credential, not a path")
        if directory is None:
            raise self.fault(f"{field_name}Credential", "systemd handed no credentials (CREDENTIALS_DIRECTORY)")
        return self._content(directory / credential, f"{field_name}Credential")

    def _content(self, path: Path, field_name: str) -> str:
        try:
            text = disk.read(path, SECRET_LIMIT).decode(errors="replace").strip()
        except FileNotFoundError:
            raise self.fault(field_name, f"{path} is not there") from None
        if not text or not text.isprintable():
            raise self.fault(field_name, f"{path} holds no secret on one line")
        return text


def evm_rail(facts: Facts) -> EvmRail:
    """Raises ConfigError naming the field, Denied for a key that others can read."""
    given, target, entry = _entry(facts, rails.Eip155Entry)
    key = given.secret(entry.key, entry.key_file, entry.key_credential, "key")
    return EvmRail(
        rpc=_endpoint(given, entry.rpc_url or "", entry),
        chain_id=int(target.entry),
        key=key,
        contract=entry.contract or "",
        persist=entry.persist,
        confirmations=_confirmations(facts, entry.confirmations),
        max_fee_gwei=entry.max_fee_gwei,
        priority_fee_gwei=entry.priority_fee_gwei,
        replace_after_s=None if entry.replace_after is None else entry.replace_after / 1000,
    )


def btc_rail(facts: Facts) -> BtcRail:
    """Raises as `evm_rail`. A cookie file is user and password in one."""
    given, target, entry = _entry(facts, rails.BtcEntry)
    return _btc(given, target.entry, entry, _confirmations(facts, entry.confirmations))


def _btc(given: _Given, network: str, entry: rails.BtcEntry, confirmations: int) -> BtcRail:
    node = _endpoint(given, entry.rpc_url or "", entry)
    if entry.cookie_file is not None:
        user, _, password = given.secret(None, entry.cookie_file, None, "cookie").partition(":")
        node = Endpoint(node.url, user, password)
    return BtcRail(
        rpc=node,
        network=network,
        wallet=entry.wallet or "",
        confirmations=confirmations,
        conf_target=entry.conf_target,
        fee_rate=entry.fee_rate,
        max_fee_sats=entry.max_fee_sats,
    )


def tsa_rail(facts: Facts) -> TsaRail:
    """Raises as `evm_rail`. A group comes with its authorities' entries, by their names."""
    members = _named(facts, "authorities")
    if not members:
        given, target, entry = _entry(facts, rails.Rfc3161Entry)
        return TsaRail((_authority(given, target.entry, entry, _policy_told(facts) or entry.policy_oid),))
    _, _, entry = _entry(_with(facts, authorities=list(members)), rails.Rfc3161Entry)
    found = tuple(_member(facts, name, member) for name, member in members.items())
    return TsaRail(found, entry.need or min(2, len(found)))


def ots_rail(facts: Facts) -> OtsRail:
    """Raises as `evm_rail`."""
    nodes = _named(facts, "btc")
    given, _, entry = _entry(_with(facts, btc=next(iter(nodes))) if nodes else facts, rails.OtsEntry)
    calendars = tuple(_bare(given, url, "calendars") for url in entry.calendars or ())
    return OtsRail(
        calendars=calendars,
        need=entry.need or min(2, len(calendars)),
        alarm_after_s=entry.alarm_after / 1000,
        timeout_s=entry.timeout / 1000,
        trusted=entry.trusted,
        btc=next((_node(facts, name, node) for name, node in nodes.items()), None),
    )


def _node(facts: Facts, name: str, written: Mapping[str, Any]) -> BtcRail:
    given = _Given("btc", name, facts)
    entry = _resolved(given, written, rails.BtcEntry)
    return _btc(given, entry.network or name, entry, entry.confirmations)


def _named(facts: Facts, field_name: str) -> dict[str, Mapping[str, Any]]:
    """Entries that this one names: the compiler put them in place of their names."""
    found = _written(facts).get(field_name)
    pairs = found.items() if isinstance(found, Mapping) else ()
    return {str(name): entry for name, entry in pairs if isinstance(entry, Mapping)}


def _with(facts: Facts, **fields: object) -> Facts:
    """With names again in place of the entries, as the file has them."""
    return Facts({**facts.document, "rail": {**_written(facts), **fields}}, facts.environ)


def _written(facts: Facts) -> Mapping[str, Any]:
    written = facts.document.get("rail")
    if not isinstance(written, Mapping):
        raise ConfigError("stdin: rail is missing", hint="this command needs an entry of anchors.yaml")
    return written


def _entry(facts: Facts, kind: type[E]) -> tuple[_Given, grammar.Target, E]:
    try:
        target = grammar.target(facts.text("target", "VMSH_TARGET"))
    except grammar.GrammarError as error:
        raise ConfigError(f"stdin: target {error}") from None
    given = _Given(target.scheme, facts.text("railName") or target.entry, facts)
    entry = _resolved(given, _written(facts), kind)
    for fault in rails.mismatch(entry, target):
        raise given.fault(_dotted(fault), fault.message)
    return given, target, entry


def _resolved(given: _Given, written: Mapping[str, Any], kind: type[E], *, overrides: bool = True) -> E:
    if rails.MODELS.get(given.scheme) is not kind:
        raise ConfigError(f"stdin: {given.scheme}: targets are not for this command")
    entry, faults = rails.resolved(given.scheme, written, given.facts.environ, overrides=overrides)
    for fault in faults:
        raise given.fault(_dotted(fault), fault.message)
    if not isinstance(entry, kind):
        raise given.fault("", "cannot be used")
    return entry


def _dotted(fault: rails.Fault) -> str:
    return ".".join(map(str, fault.place))


def _member(facts: Facts, name: str, written: Mapping[str, Any]) -> Authority:
    given = _Given("rfc3161", name, facts)
    entry = _resolved(given, written, rails.Rfc3161Entry, overrides=False)
    return _authority(given, name, entry, entry.policy_oid or _policy_told(facts))


def _policy_told(facts: Facts) -> str:
    """By the cadence; it wins, unless each authority of a group has a policy of its own."""
    return facts.text("policyOID", "VMSH_POLICY_OID")


def _authority(given: _Given, name: str, entry: rails.Rfc3161Entry, policy: str | None) -> Authority:
    bundle = given.path(entry.trust_bundle or "")
    return Authority(name, _endpoint(given, entry.url or "", entry), bundle, policy or "", entry.timeout / 1000)


def _confirmations(facts: Facts, of_entry: int) -> int:
    """The cadence's own say wins over the rail's."""
    told = facts.text("confirmations", "VMSH_CONFIRMATIONS")
    return int(told) if told.isascii() and told.isdigit() else of_entry


def _endpoint(given: _Given, url: str, entry: rails.Login) -> Endpoint:
    bare = _bare(given, url, "url")
    password = given.secret(entry.password, entry.password_file, entry.password_credential, "password")
    return Endpoint(bare.url, entry.user, password) if entry.user is not None else bare


def _bare(given: _Given, url: str, field_name: str) -> Endpoint:
    """User information, which a URL from the environment may have, apart."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise given.fault(field_name, "not a URL") from None
    host = parts.netloc.rpartition("@")[2]
    bare = urlunsplit((parts.scheme, host, parts.path, parts.query, ""))
    return Endpoint(bare, unquote(parts.username or ""), unquote(parts.password or ""))
