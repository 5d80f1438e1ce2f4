"""Values near those that a program writes, and far from them, for readers of what others may have written."""

import json
from typing import Any

from hypothesis import strategies as st

from vmsh_scheduler.stores.redis.connect import ANY_BYTES

NUMBERS = st.integers() | st.floats() | st.sampled_from([10**40, -(10**40), 1e308, 0, -1, 1 << 53])
PLAIN = st.none() | st.booleans() | NUMBERS | st.text(max_size=8)
VALUES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
DEEP = "[" * 100_000


@st.composite
def harmed(draw: st.DrawFn, whole: Any) -> Any:
    """A value of ours in which one place, at any depth, holds something else or is missing."""
    if not isinstance(whole, dict) or not whole or draw(st.integers(0, 3)) == 0:
        return draw(VALUES)
    name = draw(st.sampled_from(sorted(whole)))
    rest = {key: value for key, value in whole.items() if key != name}
    return rest if draw(st.integers(0, 5)) == 0 else {**rest, name: draw(harmed(whole[name]))}


def raw(whole: Any) -> st.SearchStrategy[bytes]:
    near = harmed(whole).map(lambda value: json.dumps(value).encode())
    return near | st.binary(max_size=60) | st.just(DEEP.encode())


def texts(whole: Any) -> st.SearchStrategy[str]:
    """As a client of ours decodes them."""
    return raw(whole).map(lambda some: some.decode("utf-8", ANY_BYTES))
