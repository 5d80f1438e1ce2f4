"""Price, block DAG and balance as one snapshot for agents (Forge.OS contract, sections 5 and 11)."""

import asyncio
import json
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from json import JSONDecodeError
from typing import Any, Generic, NoReturn, TypeVar
from urllib.parse import quote

from vmsh_scheduler.domain.text import one_line
from vmsh_scheduler.errors import Unavailable
from vmsh_scheduler.market.breaker import FAILURES, WAIT_MS, Breaker
from vmsh_scheduler.market.cache import Cache, Counts, Held

Number = int | float
Fetch = Callable[[str], Awaitable[bytes]]
Observe = Callable[[str, int, bool], None]
"""Kind, milliseconds, whether a usable value came: once for every request that was made."""
T = TypeVar("T")

PREFIXES = ("kaspa:", "kaspatest:")
LONGEST_ADDRESS = 200
LARGEST_BODY = 262_144
LONGEST_MESSAGE = 240
LONGEST_NETWORK = 64
LONGEST_NUMBER = 64
MOST_BREAKERS = 20_000
SOMPI_PER_KAS = 1e8
EXACT = 2**53 - 1
"""The largest integer every reader of JSON takes as it is (RFC 8259 section 6)."""
MOST_SOMPI = 2**64 - 1
SCORES = ("daaScore", "virtualDaaScore", "virtualDAAScore", "headerCount", "blockCount")

_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_CONTEXT = 10
"""Characters on each side of the culprit, as the seed's JSON parser shows them."""


class MarketFailed(Unavailable):
    """No snapshot; the text is what a caller is shown (section 11)."""

    code = "market_unavailable"


@dataclass(frozen=True, slots=True)
class MarketOptions:
    """Section 1, and what D30 asks for. `stale_if_error_ms` counts from when a value is no longer fresh."""

    market_ttl_ms: int = 2_000
    balance_ttl_ms: int = 2_500
    stale_if_error_ms: int = 0
    breaker_failures: int = FAILURES
    breaker_wait_ms: int = WAIT_MS


@dataclass(frozen=True, slots=True)
class Dag:
    """What `/info/blockdag` comes down to."""

    daa_score: Number
    network: str


@dataclass(frozen=True, slots=True)
class _Values:
    """The three a snapshot is made of; their ages are theirs even if the cache has moved on."""

    price: Held[Number]
    dag: Held[Dag]
    balance: Held[Number]


class Market:
    """Snapshots of an upstream. `now` is the wall clock and only stamps; ages, TTLs and waits go by `elapsed`."""

    def __init__(
        self,
        fetch: Fetch,
        now: Callable[[], int],
        elapsed: Callable[[], int],
        options: MarketOptions | None = None,
        *,
        observe: Observe | None = None,
    ) -> None:
        options = options or MarketOptions()
        source = partial(_Source, fetch=fetch, elapsed=elapsed, options=options, observe=observe)
        self._now = now
        self._elapsed = elapsed
        self._price = source("price", _price, options.market_ttl_ms)
        self._dag = source("blockdag", _dag, options.market_ttl_ms)
        self._balance = source("balance", _kas, options.balance_ttl_ms)

    async def snapshot(self, address: str) -> Mapping[str, object]:
        """The `market` of a callback. Raises MarketFailed and nothing else."""
        wallet = _required(address)
        return self._assembled(wallet, await self._values(wallet))

    async def reply(self, address: str) -> Mapping[str, object]:
        """The body of `GET /v1/market-snapshot`."""
        wallet = _required(address)
        values = await self._values(wallet)
        now = self._elapsed()
        cache = {
            "priceAgeMs": now - values.price.stamp,
            "blockdagAgeMs": now - values.dag.stamp,
            "balanceAgeMs": now - values.balance.stamp,
        }
        return {"snapshot": self._assembled(wallet, values), "cache": cache}

    def view(self) -> Mapping[str, int | None]:
        """The `cache` of `/health` (section 14)."""
        return {
            "priceAgeMs": self._price.cache.age(""),
            "blockdagAgeMs": self._dag.cache.age(""),
            "balanceEntries": len(self._balance.cache),
        }

    def counts(self) -> Mapping[str, Counts]:
        """By kind, never by address (D25)."""
        return {source.kind: source.cache.counts for source in (self._price, self._dag, self._balance)}

    async def close(self) -> None:
        """Ends the requests that outlived their callers."""
        await asyncio.gather(*(source.cache.close() for source in (self._price, self._dag, self._balance)))

    async def _values(self, wallet: str) -> _Values:
        """All three at once; the first to fail fails the whole, and nobody is left waiting for the others."""
        known = self._known(wallet)
        if known is not None:
            return known
        price = asyncio.create_task(self._price.get("", "/info/price"))
        dag = asyncio.create_task(self._dag.get("", "/info/blockdag"))
        balance = asyncio.create_task(self._balance_of(wallet, after=(price, dag)))
        try:
            return _Values(*await asyncio.gather(price, dag, balance))
        finally:
            for task in (price, dag, balance):
                task.cancel()

    async def _balance_of(self, wallet: str, *, after: "tuple[asyncio.Task[Any], ...]") -> Held[Number]:
        """While the upstream is not known to be well, only once it has given the others."""
        if not (self._price.well and self._dag.well):
            await asyncio.gather(*after)
        return await self._balance.get(wallet, f"/addresses/{_component(wallet)}/balance")

    def _known(self, wallet: str) -> _Values | None:
        """Most of the time all three are fresh, and three tasks would cost more than the rest of it."""
        price, dag, balance = self._price.cache.fresh(""), self._dag.cache.fresh(""), self._balance.cache.fresh(wallet)
        if price is None or dag is None or balance is None:
            return None
        for source, key in ((self._price, ""), (self._dag, ""), (self._balance, wallet)):
            source.cache.took(key)
        return _Values(price, dag, balance)

    def _assembled(self, wallet: str, values: _Values) -> Mapping[str, object]:
        dag = values.dag.value
        return {
            "ts": self._now(),
            "address": wallet,
            "priceUsd": values.price.value,
            "dag": {"daaScore": dag.daa_score, "network": dag.network},
            "walletKas": values.balance.value,
        }


class _Source(Generic[T]):
    """One kind of value: its cache, its breaker, how its body is read."""

    def __init__(
        self,
        kind: str,
        read: Callable[[Mapping[str, object]], T],
        ttl_ms: int,
        *,
        fetch: Fetch,
        elapsed: Callable[[], int],
        options: MarketOptions,
        observe: Observe | None,
    ) -> None:
        self.kind = kind
        self.cache: Cache[T] = Cache(elapsed, ttl_ms=ttl_ms, stale_if_error_ms=options.stale_if_error_ms)
        limits = {"failures": options.breaker_failures, "wait_ms": options.breaker_wait_ms}
        self._new_breaker = partial(Breaker, elapsed, **limits)
        self._breakers: OrderedDict[str, Breaker] = OrderedDict()
        """One per key, so per wallet: what the upstream makes of one wallet says nothing of the others. While all of
        it is down those of price and DAG are open, and no snapshot asks for more than they let pass."""
        self._read = read
        self._fetch = fetch
        self._elapsed = elapsed
        self._observe = observe or _unobserved

    @property
    def well(self) -> bool:
        """Of a kind with one key."""
        return self._breaker("").state == "closed"

    async def get(self, key: str, path: str) -> Held[T]:
        try:
            return await self.cache.get(key, lambda: self._load(key, path))
        except MarketFailed:
            raise
        except Exception as error:
            raise MarketFailed(_message(error)) from error

    async def _load(self, key: str, path: str) -> T:
        breaker = self._breaker(key)
        ticket = breaker.admit()
        if ticket is None:
            raise MarketFailed(breaker.last_error)
        began = self._elapsed()
        try:
            value = self._read(_document(await self._fetch(path)))
        except asyncio.CancelledError:
            breaker.abandoned(ticket)
            raise
        except Exception as error:
            message = _message(error)
            breaker.failed(ticket, message)
            self._observe(self.kind, self._elapsed() - began, False)
            raise MarketFailed(message) from error
        breaker.succeeded(ticket)
        self._observe(self.kind, self._elapsed() - began, True)
        return value

    def _breaker(self, key: str) -> Breaker:
        """Those asked for least recently are forgotten."""
        known = self._breakers.get(key)
        if known is None:
            known = self._breakers[key] = self._new_breaker()
        self._breakers.move_to_end(key)
        if len(self._breakers) > MOST_BREAKERS:
            self._breakers.popitem(last=False)
        return known


def valid_address(text: str) -> str:
    """Trimmed and in lower case; empty if it is no address. Checks no more of it than the seed (section 5), except
    that it is short and printable ASCII."""
    address = text.strip().lower() if len(text) <= 2 * LONGEST_ADDRESS else ""
    sound = len(address) <= LONGEST_ADDRESS and address.isascii() and address.isprintable()
    return address if sound and address.startswith(PREFIXES) else ""


def _required(address: str) -> str:
    wallet = valid_address(address)
    if not wallet:
        raise MarketFailed("address_required")
    return wallet


def _component(text: str) -> str:
    """As encodeURIComponent does it: the colon becomes %3A."""
    return quote(text, safe="!*'()")


def _unobserved(kind: str, ms: int, ok: bool) -> None:
    """Nobody wants to know."""


def _message(error: Exception) -> str:
    fallback = "This operation was aborted" if isinstance(error, TimeoutError) else "fetch failed"
    return one_line(str(error)[:LONGEST_MESSAGE])[:LONGEST_MESSAGE] or fallback


def _price(data: Mapping[str, object]) -> Number:
    return _number(_first(data, "price", "priceUsd"), EXACT)


def _dag(data: Mapping[str, object]) -> Dag:
    inner = data.get("blockdag")
    dag = inner if isinstance(inner, dict) else data
    network = _first(dag, "networkName", "network")
    name = one_line(network[:LONGEST_NETWORK]) if isinstance(network, str) else ""
    return Dag(_number(_first(dag, *SCORES), EXACT), name)


def _kas(data: Mapping[str, object]) -> Number:
    return _plain(_number(_first(data, "balance", "sompi"), MOST_SOMPI) / SOMPI_PER_KAS)


def _first(data: Mapping[str, object], *names: str) -> object:
    """Null is as good as absent."""
    return next((data[name] for name in names if data.get(name) is not None), None)


def _number(value: object, most: int) -> Number:
    """Numbers and decimal text from 0 to `most`; anything else is 0 (section 11)."""
    if isinstance(value, str):
        value = _parsed(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    return _plain(value) if 0 <= value <= most else 0  # also false for NaN


def _parsed(text: str) -> Number:
    text = text.strip() if len(text) <= LONGEST_NUMBER else ""
    if not _DECIMAL.fullmatch(text):
        return 0
    return int(text) if text.isdigit() else float(text)


def _plain(value: Number) -> Number:
    """Whole numbers without `.0`, as JSON.stringify writes them."""
    return int(value) if value == int(value) else value


def _document(body: bytes) -> Mapping[str, Any]:
    """An object that holds none of the names, if the JSON is something else."""
    if len(body) > LARGEST_BODY:
        raise ValueError(f"upstream_body_over_{LARGEST_BODY}_bytes")
    text = body.decode("utf-8-sig", "replace")
    try:
        value = json.loads(text, parse_int=_integer, parse_constant=_refuse)
    except JSONDecodeError as error:
        raise ValueError(_parser_text(text, error)) from error
    except RecursionError as error:
        raise ValueError("the JSON of the upstream is nested too deeply") from error
    return value if isinstance(value, dict) else {}


def _integer(digits: str) -> Number:
    """int() refuses thousands of digits; such a number is out of every range anyway."""
    return int(digits) if len(digits) <= LONGEST_NUMBER else float(digits)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"Unexpected token '{constant[0]}', {constant} is not valid JSON")


def _parser_text(text: str, error: JSONDecodeError) -> str:
    """The two usual faults in the words of the seed's JSON parser, for whoever matches on them."""
    at = error.pos
    if at >= len(text):
        return "Unexpected end of JSON input"
    if error.msg != "Expecting value":
        return f"{error.msg} in JSON at position {at}"
    return f"Unexpected token '{text[at]}', {_around(text, at)} is not valid JSON"


def _around(text: str, at: int) -> str:
    if len(text) <= 2 * _CONTEXT:
        return f'"{text}"'
    before, after = at >= _CONTEXT, at + _CONTEXT < len(text)
    shown = text[at - _CONTEXT if before else 0 : at + _CONTEXT]
    return f'{"..." if before else ""}"{shown}"{"..." if after else ""}'
