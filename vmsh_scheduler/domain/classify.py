"""Which class of error a failed command belongs to, and by which rule (spec vaultmesh section 9)."""

import re
from collections.abc import Mapping, Sequence

from vmsh_scheduler.domain.action import ErrorRule
from vmsh_scheduler.domain.retry import ErrorClass

TAIL = 4096
"""Characters of output that are looked at."""

EXIT_CODES: Mapping[int, ErrorClass] = {
    65: ErrorClass.VALIDATION,
    69: ErrorClass.NETWORK,
    75: ErrorClass.NETWORK,
    77: ErrorClass.AUTH,
    78: ErrorClass.VALIDATION,
    124: ErrorClass.NETWORK,
}

# A bare "502" also stands in hashes and block numbers: a status counts only after the word HTTP or status.
_STATUS = (
    r"\b(?:http(?:/\d(?:\.\d)?)?(?:[\s_-]*(?:error|status|code))*|status(?:[\s_-]*code)?)"
    r"""["']?\s*[:=]?\s*["']?(?:%s)\b"""
)

# "timeout=30" is an option that somebody printed, and "network: regtest" a setting: neither is a failure.
_NETWORK = "|".join(
    (
        r"\be?timed ?out\b",
        r"\b\w*timeout(?:error|exception|expired)?\b(?!\s*[=:]\s*\d)",
        r"\beconnrefused\b|\beconnreset\b|\beconnaborted\b|\behostunreach\b|\benetunreach\b|\benotfound\b|\beai_again\b",
        r"\bconnection (?:was |has been )?(?:refused|reset|aborted|closed)\b|\bsocket hang up\b",
        r"\bunreachable\b|\bno route to host\b",
        r"\bname or service\b|\bname resolution\b|\bcould not resolve\b",
        r"\bnetwork[ _-](?:error|failure|timeout|problem|is down|down|request failed|connection)\b",
        _STATUS % "429|502|503|504",
    )
)
_AUTH = "|".join(
    (
        r"\bunauthori[sz]ed\b|\bforbidden\b|\bbad credentials\b|\bpermission denied\b|\baccess denied\b",
        r"\binvalid (?:api[ _-]?key|password|credentials?|(?:access |auth |bearer )?token)\b",
        r"\bapi[ _-]?key (?:is )?invalid\b|\bauthentication failed\b",
        _STATUS % "401|403",
    )
)
_VALIDATION = "|".join(
    (
        r"\binvalid\w*|\bschema\b|\bmalformed\b|\brejected\b|\brevert(?:ed)?\b|\bbad request\b|\broot mismatch\b",
        _STATUS % "400|422",
    )
)
_KNOWN = r"\binsufficient funds\b|\bnonce too low\b"

_TEXTS = (
    (ErrorClass.NETWORK, re.compile(_NETWORK, re.IGNORECASE)),
    (ErrorClass.AUTH, re.compile(_AUTH, re.IGNORECASE)),
    (ErrorClass.VALIDATION, re.compile(_VALIDATION, re.IGNORECASE)),
    (ErrorClass.UNKNOWN, re.compile(_KNOWN, re.IGNORECASE)),
)


def classify(
    exit_code: int | None, signal: int | None, timed_out: bool, text: str, rules: Sequence[ErrorRule]
) -> tuple[ErrorClass, str]:
    """The class, and what decided: `rule <n>`, `timeout`, `exit <code>`, the matched words, `signal <n>` or ""."""
    tail = text[-TAIL:]
    for number, rule in enumerate(rules, 1):
        if _applies(rule, exit_code, tail):
            return rule.error, f"rule {number}"
    if timed_out:
        return ErrorClass.NETWORK, "timeout"
    if exit_code is not None and exit_code in EXIT_CODES:
        return EXIT_CODES[exit_code], f"exit {exit_code}"
    for error, pattern in _TEXTS:
        if found := pattern.search(tail):
            return error, " ".join(found.group().lower().split())
    return ErrorClass.UNKNOWN, "" if signal is None else f"signal {signal}"


def _applies(rule: ErrorRule, exit_code: int | None, tail: str) -> bool:
    """Both conditions, where both are given; a rule without any, or with a broken regex, never applies."""
    if rule.exit_code is None and rule.pattern is None:
        return False
    if rule.exit_code is not None and rule.exit_code != exit_code:
        return False
    if rule.pattern is None:
        return True
    try:
        return re.search(rule.pattern, tail) is not None
    except re.error:
        return False
