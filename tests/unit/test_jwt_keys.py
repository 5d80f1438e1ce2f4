"""Which of an issuer's published keys are used."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.support.tokens import claims, ec_jwk, private_part, rs256, rsa_jwk
from vmsh_scheduler.api.jwt_keys import parse_keys, signed_payload


@pytest.mark.parametrize(
    ("keys", "usable"),
    [
        ([rsa_jwk()], True),
        ([rsa_jwk(alg="RS256", use="sig", key_ops=["verify"])], True),
        (["junk", None, {}, {"kid": "one"}, {"kid": "one", "kty": "RSA"}, rsa_jwk()], True),
        ([rsa_jwk(f"k{n}") for n in range(99)] + [rsa_jwk()], True),
        ([rsa_jwk(f"k{n}") for n in range(100)] + [rsa_jwk()], False),
        ([rsa_jwk(alg="RS512")], False),
        ([rsa_jwk(alg="HS256")], False),
        ([rsa_jwk(use="enc")], False),
        ([rsa_jwk(key_ops=["encrypt"])], False),
        ([rsa_jwk(kty="oct", k="AAAA")], False),
        ([rsa_jwk(d=private_part())], False),
        ([rsa_jwk(bits=1024)], False),
        ([rsa_jwk(kid="")], False),
        ([rsa_jwk(kid=None)], False),
    ],
)
def test_which_published_keys_are_used(keys: list[Any], *, usable: bool) -> None:
    body = json.dumps({"keys": keys}).encode()
    try:
        found = parse_keys(body)
    except ValueError:
        found = {}
    assert (("one", "RS256") in found) == usable


def test_of_two_keys_of_one_name_the_first_is_used() -> None:
    found = parse_keys(json.dumps({"keys": [rsa_jwk(), rsa_jwk(key=1)]}).encode())["one", "RS256"]
    assert signed_payload(rs256(claims()), found, "RS256") is not None
    assert signed_payload(rs256(claims(), key=1), found, "RS256") is None


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.text(max_size=8), st.sampled_from(["RSA", "EC", "P-256", "AQAB"])
)
NAMES = st.sampled_from(["kty", "kid", "n", "e", "x", "y", "crv", "alg", "use", "key_ops"])


@hypothesis_settings(max_examples=200, deadline=None)
@given(base=st.sampled_from([rsa_jwk(), ec_jwk()]), changes=st.dictionaries(NAMES, VALUES, max_size=4))
def test_junk_in_a_key_spoils_that_key_alone(base: dict[str, Any], changes: dict[str, Any]) -> None:
    found = parse_keys(json.dumps({"keys": [base | changes, rsa_jwk("good")]}).encode())
    assert ("good", "RS256") in found
