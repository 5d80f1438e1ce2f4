"""What in Redis cannot be read, for `redis check`: by the same functions that the daemons read it with."""

from collections.abc import Callable, Iterator
from functools import partial
from shlex import quote

from vmsh_scheduler.errors import StoreDown
from vmsh_scheduler.stores.redis.keys import Keys
from vmsh_scheduler.stores.redis.look import Look
from vmsh_scheduler.stores.redis.specs import KINDS, check_agent, number_of_specs, parse_spec
from vmsh_scheduler.stores.redis.states import number_of_writes, parse_head, parse_state
from vmsh_scheduler.stores.redis.values import Unreadable, number, shown

MOST_SHOWN = 20
WAY_OUT = "the job does not start until it is restored or removed, see docs/redis.md"


def foreign(look: Look) -> list[str]:
    """Keys of somebody else's: what wants to write there is refused, mostly all."""
    return [
        f"{key} {what}: another program uses it, see redis.prefix; or remove it: redis-cli DEL {quote(key)}"
        for key, what in look.foreign.items()
    ]


def fence(look: Look, keys: Keys) -> tuple[int, list[str]]:
    """0 with a finding if it is none."""
    try:
        return number(
            look.text(keys.leader_fence), keys.leader_fence, f"remove it: redis-cli DEL {keys.leader_fence}"
        ), []
    except StoreDown as error:
        return 0, [str(error)]


def unreadable(look: Look, keys: Keys) -> list[str]:
    """One line each, of so many. Raises what the client raises."""
    found = [*_counters(look, keys), *_fields(look, keys)]
    more = len(found) - MOST_SHOWN
    return found if more <= 0 else [*found[:MOST_SHOWN], f"{more} more values cannot be read"]


def _counters(look: Look, keys: Keys) -> Iterator[str]:
    readers: tuple[tuple[Callable[[str | None, Keys], int], str | None], ...] = (
        (number_of_writes, look.field(keys.meta, "writes")),
        (number_of_specs, look.text(keys.specs_version)),
    )
    for reader, value in readers:
        try:
            reader(value, keys)
        except StoreDown as error:
            yield str(error)


def _fields(look: Look, keys: Keys) -> Iterator[str]:
    readers: dict[str, Callable[[str, str], object]] = {
        keys.states: lambda _, text: parse_state(text),
        keys.journal_heads: lambda _, text: parse_head(text),
        keys.journal_base: lambda _, text: parse_head(text),
    }
    for kind in KINDS:
        readers[keys.specs(kind)] = partial(parse_spec, kind, check=check_agent)
    for key, reader in readers.items():
        for name, text in look.fields(key):
            why = _why(reader, name, text)
            if why:
                yield f"the field {shown(name)} of {key} cannot be read: {why}; {WAY_OUT}"


def instances(wrong: list[str], keys: Keys) -> list[str]:
    return [f"the entry {shown(id)} of {keys.instances} cannot be read; it goes by itself" for id in wrong[:MOST_SHOWN]]


def _why(reader: Callable[[str, str], object], name: str, text: str) -> str:
    try:
        reader(name, text)
    except Unreadable as why:
        return str(why)
    return ""
