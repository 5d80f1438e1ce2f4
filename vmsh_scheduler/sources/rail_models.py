"""anchors.yaml as pydantic models: every field of each rail's entry, its limits, its JSON Schema.

What needs two fields at once, or the environment, is judged by rails.py."""

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from vmsh_scheduler.sources.documents import Duration
from vmsh_scheduler.sources.model import Model

MOST_AUTHORITIES = 8
"""Of one group: their tokens share a receipt."""
MOST_CALENDARS = 16
_URL = re.compile(r"https?://(?:[^\s/?#@]+@)?[^\s/?#@]+(?:[/?#]\S*)?")


def _number(value: object) -> object:
    """From the environment a number comes as text."""
    return int(value) if isinstance(value, str) and re.fullmatch("[0-9]{1,18}", value) else value


def _fraction(value: object) -> object:
    return float(value) if isinstance(value, str) and re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", value) else value


def _switch(value: object) -> object:
    return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value


def _url(text: str) -> str:
    if not _URL.fullmatch(text):
        raise ValueError("not a URL: http:// or https:// and a host")
    return text


def _line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be printable text on one line")
    return text


def _oid(text: str) -> str:
    if not re.fullmatch(r"[0-2](\.(0|[1-9][0-9]{0,18})){1,30}", text):
        raise ValueError('not an OID: dotted numbers, such as "1.2.3.4"')
    return text


def _contract(text: str) -> str:
    if not re.fullmatch("0x[0-9a-fA-F]{40}", text):
        raise ValueError("not an address: 0x and 40 hex digits")
    return text


def _or_reference(kind: str) -> dict[str, Any]:
    """For editors: the same as text, if that is a reference."""
    return {"type": [kind, "string"]}


_LATER = _or_reference("integer")
Text = Annotated[str, Field(min_length=1, max_length=4_096), AfterValidator(_line)]
Url = Annotated[Text, AfterValidator(_url)]
Whole = Annotated[int, BeforeValidator(_number)]
Fraction = Annotated[float, BeforeValidator(_fraction)]


class Login(Model):
    """HTTP basic authentication."""

    user: Text | None = Field(default=None, description="HTTP user.")
    password: Text | None = Field(default=None, description="As ${NAME} only.", repr=False)
    password_file: Text | None = Field(default=None, alias="passwordFile", description="Relative to the root.")
    password_credential: Text | None = Field(
        default=None, alias="passwordCredential", description="Name of a systemd credential."
    )


class Eip155Entry(Login):
    """An EVM chain: eip155.<chainId>."""

    rpc_url: Url | None = Field(default=None, alias="rpcUrl", description="JSON-RPC; EVM_RPC wins.")
    chain_id: Whole | None = Field(
        default=None,
        alias="chainId",
        ge=1,
        description="Must be the target's; EVM_CHAIN_ID wins.",
        json_schema_extra=_LATER,
    )
    contract: Annotated[str, AfterValidator(_contract)] | None = Field(
        default=None, description="Address; without one the root goes as plain calldata. EVM_CONTRACT wins."
    )
    key: Text | None = Field(default=None, description="Private key, as ${NAME} only; EVM_ANCHOR_KEY wins.", repr=False)
    key_file: Text | None = Field(default=None, alias="keyFile", description="Relative to the root.")
    key_credential: Text | None = Field(
        default=None, alias="keyCredential", description="Name of a systemd credential."
    )
    persist: Annotated[bool, BeforeValidator(_switch)] = Field(
        default=False,
        description="The contract keeps the root; EVM_PERSIST=true wins.",
        json_schema_extra=_or_reference("boolean"),
    )
    confirmations: Whole = Field(
        default=12, ge=0, le=1_000_000, description="EVM_CONFIRMATIONS wins.", json_schema_extra=_LATER
    )
    max_fee_gwei: Fraction | None = Field(
        default=None,
        alias="maxFeeGwei",
        gt=0,
        description="Most that a unit of gas may cost.",
        json_schema_extra=_or_reference("number"),
    )
    priority_fee_gwei: Fraction | None = Field(
        default=None,
        alias="priorityFeeGwei",
        ge=0,
        description="Tip per unit of gas.",
        json_schema_extra=_or_reference("number"),
    )
    replace_after: Duration | None = Field(
        default=None, alias="replaceAfter", description="A transaction that waits longer is sent at a higher fee."
    )


class BtcEntry(Login):
    """A Bitcoin network: btc.<network>."""

    rpc_url: Url | None = Field(default=None, alias="rpcUrl", description="JSON-RPC of bitcoind; BTC_RPC wins.")
    network: Text | None = Field(default=None, description="Must be the target's; BTC_NETWORK wins.")
    wallet: Text | None = Field(default=None, description="Its wallet; needed where several are loaded.")
    cookie_file: Text | None = Field(default=None, alias="cookieFile", description="bitcoind's .cookie.")
    confirmations: Whole = Field(
        default=6, ge=0, le=1_000_000, description="BTC_CONFIRMATIONS wins.", json_schema_extra=_LATER
    )
    conf_target: Whole | None = Field(
        default=None,
        alias="confTarget",
        ge=1,
        le=1_008,
        description="Blocks within which to be mined.",
        json_schema_extra=_LATER,
    )
    fee_rate: Fraction | None = Field(
        default=None,
        alias="feeRate",
        gt=0,
        description="sat/vB, in place of confTarget.",
        json_schema_extra=_or_reference("number"),
    )
    max_fee_sats: Whole | None = Field(
        default=None, alias="maxFeeSats", ge=1, description="Most that an anchor may cost.", json_schema_extra=_LATER
    )


class Rfc3161Entry(Login):
    """A time-stamping authority, or a group of them: rfc3161.<name>."""

    url: Url | None = Field(default=None, description="Where requests are posted; TSA_URL wins.")
    policy_oid: Annotated[str, AfterValidator(_oid)] | None = Field(
        default=None, alias="policyOID", description="Policy to ask for; TSA_POLICY_OID wins."
    )
    trust_bundle: Text | None = Field(
        default=None, alias="trustBundle", description="PEM file of the root certificates, relative to the root."
    )
    authorities: Annotated[tuple[Text, ...], Field(strict=False, min_length=2, max_length=MOST_AUTHORITIES)] | None = (
        Field(default=None, description="Names of other entries: all are asked.")
    )
    need: Whole | None = Field(
        default=None,
        ge=1,
        le=MOST_AUTHORITIES,
        description="So many of them must stamp. Default: 2.",
        json_schema_extra=_LATER,
    )
    timeout: Duration = Field(default=20_000, description="Until the whole reply is there. Default: 20s.")


class OtsEntry(Model):
    """OpenTimestamps: ots.<name>."""

    calendars: Annotated[tuple[Url, ...], Field(strict=False, min_length=1, max_length=MOST_CALENDARS)] | None = Field(
        default=None, description="URLs."
    )
    need: Whole | None = Field(
        default=None,
        ge=1,
        le=MOST_CALENDARS,
        description="So many of them must answer. Default: 2, or the one.",
        json_schema_extra=_LATER,
    )
    alarm_after: Duration = Field(
        default=86_400_000, alias="alarmAfter", description="Accepted, yet in no block for so long: an alarm. 24h."
    )
    timeout: Duration = Field(default=20_000, description="Per calendar. Default: 20s.")
    trusted: Annotated[tuple[Url, ...], Field(strict=False, max_length=MOST_CALENDARS)] = Field(
        default=(), description="More calendars that may hold the proofs: https://host or https://*.domain."
    )
    btc: Text | None = Field(
        default=None, description="Network whose entry of btc names the node that checks block headers."
    )


Entry = Eip155Entry | BtcEntry | Rfc3161Entry | OtsEntry
MODELS: Mapping[str, type[Entry]] = {
    "eip155": Eip155Entry,
    "btc": BtcEntry,
    "rfc3161": Rfc3161Entry,
    "ots": OtsEntry,
}


class AnchorsFile(Model):
    """anchors.yaml: how each rail is reached. An entry that no cadence uses may lack what it refers to."""

    eip155: dict[str, Eip155Entry] = Field(default={}, description="By chain id, or `default`.")
    btc: dict[str, BtcEntry] = Field(default={}, description="By network, or `default`.")
    rfc3161: dict[str, Rfc3161Entry] = Field(default={}, description="By name, or `default`.")
    ots: dict[str, OtsEntry] = Field(default={}, description="By name, or `default`.")
