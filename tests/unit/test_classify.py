"""Error classes, row by row of the table they come from."""

import pytest

from vmsh_scheduler.domain.action import ErrorRule
from vmsh_scheduler.domain.classify import TAIL, classify
from vmsh_scheduler.domain.retry import ErrorClass

NETWORK, AUTH, VALIDATION, UNKNOWN = (
    ErrorClass.NETWORK,
    ErrorClass.AUTH,
    ErrorClass.VALIDATION,
    ErrorClass.UNKNOWN,
)


@pytest.mark.parametrize(
    ("code", "error"),
    [(65, VALIDATION), (69, NETWORK), (75, NETWORK), (77, AUTH), (78, VALIDATION), (124, NETWORK), (1, UNKNOWN)],
)
def test_exit_codes(code: int, error: ErrorClass) -> None:
    assert classify(code, None, False, "", ())[0] is error


def test_an_exit_code_goes_before_the_text() -> None:
    assert classify(77, None, False, "ECONNREFUSED", ()) == (AUTH, "exit 77")


def test_killed_by_us_is_a_network_timeout() -> None:
    assert classify(None, 9, True, "invalid", ()) == (NETWORK, "timeout")


def test_another_signal_says_nothing_about_the_class() -> None:
    assert classify(None, 9, False, "", ()) == (UNKNOWN, "signal 9")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("connect ECONNREFUSED 127.0.0.1:8545", NETWORK),
        ("Error: ETIMEDOUT", NETWORK),
        ("read timed out", NETWORK),
        ("requests.exceptions.ConnectTimeout: x", NETWORK),
        ("TimeoutError", NETWORK),
        ("could not detect network (NETWORK_ERROR)", NETWORK),
        ("getaddrinfo ENOTFOUND rpc.example", NETWORK),
        ("getaddrinfo EAI_AGAIN", NETWORK),
        ("Connection reset by peer", NETWORK),
        ("Name or service not known", NETWORK),
        ("Network is unreachable", NETWORK),
        ("HTTP/1.1 503 Service Unavailable", NETWORK),
        ("HTTP Error 429: Too Many Requests", NETWORK),
        ('{"status": 502}', NETWORK),
        ("status code: 504", NETWORK),
        ("Unauthorized", AUTH),
        ("HTTP 403", AUTH),
        ("statusCode=401", AUTH),
        ("Invalid API key", AUTH),
        ("invalid password", AUTH),
        ("open /key: permission denied", AUTH),
        ("invalid block", VALIDATION),
        ("InvalidArgument", VALIDATION),
        ("schema mismatch", VALIDATION),
        ("malformed root", VALIDATION),
        ("execution reverted", VALIDATION),
        ("400 Bad Request", VALIDATION),
        ("root mismatch", VALIDATION),
        ("insufficient funds", UNKNOWN),
        ("nonce too low", UNKNOWN),
        ("something else", UNKNOWN),
        # Look like an error and are none.
        ("network: regtest", UNKNOWN),
        ("block 0x401", UNKNOWN),
        ("502 blocks behind", UNKNOWN),
        ("took 503 ms", UNKNOWN),
        ("timeout=30", UNKNOWN),
        ("deadbeef403cafe", UNKNOWN),
        ("status 4031", UNKNOWN),
    ],
)
def test_text(text: str, error: ErrorClass) -> None:
    assert classify(1, None, False, f"first line\n{text}\nlast line", ())[0] is error


def test_known_texts_name_themselves() -> None:
    assert classify(1, None, False, "x: Insufficient Funds", ()) == (UNKNOWN, "insufficient funds")


def test_only_the_tail_counts() -> None:
    assert classify(1, None, False, "ECONNREFUSED" + "." * TAIL, ())[0] is UNKNOWN


class TestRules:
    def test_come_first_and_the_first_wins(self) -> None:
        rules = (
            ErrorRule(VALIDATION, exit_code=2),
            ErrorRule(AUTH, pattern="key .* expired"),
            ErrorRule(NETWORK, pattern="key"),
        )
        assert classify(77, None, False, "the key has expired", rules) == (AUTH, "rule 2")
        assert classify(2, None, True, "the key has expired", rules) == (VALIDATION, "rule 1")

    def test_both_conditions_must_hold(self) -> None:
        rules = (ErrorRule(AUTH, exit_code=3, pattern="no"),)
        assert classify(3, None, False, "no", rules)[0] is AUTH
        assert classify(3, None, False, "yes", rules)[0] is UNKNOWN
        assert classify(4, None, False, "no", rules)[0] is UNKNOWN

    @pytest.mark.parametrize("rule", [ErrorRule(AUTH), ErrorRule(AUTH, pattern="(")])
    def test_an_empty_or_broken_rule_never_applies(self, rule: ErrorRule) -> None:
        assert classify(1, None, False, "(", (rule,))[0] is UNKNOWN

    def test_see_the_tail_only(self) -> None:
        rules = (ErrorRule(AUTH, pattern="early"),)
        assert classify(1, None, False, "early" + "." * TAIL, rules)[0] is UNKNOWN
