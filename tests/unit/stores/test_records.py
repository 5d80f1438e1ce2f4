"""Lines of the log."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmsh_scheduler.errors import StateUnreadable
from vmsh_scheduler.stores.local.records import NOWHERE, frame, header, parse_log

LOG = header(7, NOWHERE) + b"".join(frame(f'{{"n":{n}}}', 7) for n in range(5))


@given(st.integers(0, len(LOG) - 1), st.integers(1, 255))
def test_no_flipped_byte_is_taken_for_truth(offset: int, mask: int) -> None:
    log = parse_log(LOG[:offset] + bytes([LOG[offset] ^ mask]) + LOG[offset + 1 :], 7)
    numbers = [record["n"] for _, record in log.lines]
    assert set(numbers) < set(range(5)) or log.after is None
    assert log.damaged or log.torn
    assert numbers == sorted(numbers)


@given(st.integers(0, len(LOG)))
def test_a_cut_log_is_torn_never_damaged(size: int) -> None:
    log = parse_log(LOG[:size], 7)
    assert not log.damaged
    assert [record["n"] for _, record in log.lines] == list(range(len(log.lines)))


def test_lines_of_another_generation_do_not_verify() -> None:
    assert parse_log(LOG, 8).lines == []
    assert len(parse_log(LOG + frame('{"n":9}', 6), 7).lines) == 5


def test_lines_that_are_no_objects_are_bad() -> None:
    assert parse_log(LOG + frame("[]", 7) + frame("{", 7), 7).torn


def test_a_newer_format_is_refused() -> None:
    with pytest.raises(StateUnreadable, match="newer version"):
        parse_log(frame('{"wal":2,"gen":7}', 7), 7)
