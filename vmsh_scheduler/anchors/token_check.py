"""The attestation of a time stamp, checked offline, at the token's own time, by whoever has the root certificates."""

import base64
import binascii
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from vmsh_scheduler.anchors import timestamp
from vmsh_scheduler.anchors.timestamp import BadToken, Question, Stamp
from vmsh_scheduler.anchors.trust import Bundle, Trust
from vmsh_scheduler.domain.batch import hash_bytes
from vmsh_scheduler.errors import SchedulerError

_TX, _MEMO = "tsr:sha256:", "tsaPolicyOID="


def name_of(reply: bytes) -> str:
    """What `tx` of an attestation says of its reply."""
    return _TX + sha256(reply).hexdigest()


def token_fault(trust: Trust, anchor: Mapping[str, Any], root: str) -> str:
    """Why the attestation does not prove that `root` was there at its `ts`; "" if it does. Never a silent pass:
    what cannot be checked here is a fault too."""
    chain = anchor["chain"]
    try:
        stamp_of(anchor, root, trust.of(chain.partition(":")[2]))
    except BadToken as error:
        return f"{chain}: {error}"
    except SchedulerError as error:
        return f"{chain}: cannot be checked: {error}"
    return ""


def stamp_of(anchor: Mapping[str, Any], root: str, bundle: Bundle) -> Stamp:
    """Raises BadToken, ConfigError. The `tx` of VaultMesh's own attestations is a constant that names nothing."""
    reply = _reply(anchor)
    if anchor["tx"].startswith("tsr:") and anchor["tx"] != name_of(reply):
        raise BadToken("the reply is not the one that tx names")
    memo = anchor.get("memo") or ""
    if not isinstance(memo, str) or (memo and not memo.startswith(_MEMO)):
        raise BadToken("memo is no policy")
    asked = Question(b"", timestamp.imprint(hash_bytes(root)), None, memo.removeprefix(_MEMO))
    stamp = timestamp.checked(reply, asked, bundle)
    if (anchor["ts"], anchor["block"]) != (stamp.gen_time, 0):
        raise BadToken(f"ts is {anchor['ts']}, the token says {stamp.gen_time}")
    if anchor.get("serial", f"{stamp.serial:x}") != f"{stamp.serial:x}":
        raise BadToken("serial is not the token's")
    return stamp


def _reply(anchor: Mapping[str, Any]) -> bytes:
    sig = anchor.get("sig")
    if not isinstance(sig, str) or not sig:
        raise BadToken("there is no token in it")
    try:
        return base64.b64decode(sig, validate=True)
    except (binascii.Error, ValueError):
        raise BadToken("sig is not base64") from None
