"""Time-stamp requests and replies (RFC 3161), by the library of the extra `tsa`; nothing here is sent or stored."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from vmsh_scheduler.anchors import der
from vmsh_scheduler.anchors.failures import Invalid
from vmsh_scheduler.anchors.trust import Bundle
from vmsh_scheduler.errors import Busy, ConfigError, SchedulerError

INSTALL = "pip install 'vmsh-scheduler[tsa]'"
_GRANTED, _GRANTED_WITH_MODS, _WAITING = 0, 1, 3
_REASONS = {
    0: "unrecognised algorithm",
    2: "bad request",
    5: "bad data format",
    14: "its clock is not available",
    15: "unaccepted policy",
    16: "unaccepted extension",
    17: "additional information is not available",
    25: "system failure",
}
"""PKIFailureInfo, RFC 3161 section 2.4.2."""
_MAY_PASS = frozenset({14, 25})


_SHA = bytes.fromhex("6086480165030402")
_GOOD_DIGESTS = frozenset(_SHA + bytes((each,)) for each in (1, 2, 3, 8, 9, 10))
"""Content of 2.16.840.1.101.3.4.2.x: SHA-256, 384, 512, and SHA3-256, 384, 512."""
_SIGNING_CERTIFICATE = (der.oid("1.2.840.113549.1.9.16.2.12"), der.oid("1.2.840.113549.1.9.16.2.47"))
"""ESS attributes, RFC 2634 and RFC 5035."""


class BadToken(Invalid):
    """A reply that proves nothing: not for us, not signed by whom we believe, or not a token at all."""

    code = "bad_token"


@dataclass(frozen=True, slots=True)
class Question:
    """A request, and what its reply has to match."""

    body: bytes
    imprint: bytes
    nonce: int | None = None
    """None: not known any more, as in a verification years later."""
    policy: str = ""


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a sound token says."""

    gen_time: int
    """Seconds, rounded down."""
    serial: int
    policy: str
    signer: bytes
    """Hash of the key that signed."""
    anchor: bytes
    """Hash of the key of the root that it leads to."""


def library() -> Any:
    """ConfigError with the install line when the extra is missing."""
    try:
        import rfc3161_client
    except ImportError:
        raise ConfigError("time stamps cannot be read: rfc3161-client is not installed", hint=INSTALL) from None
    return rfc3161_client


def imprint(root: bytes) -> bytes:
    """The root is data to the authority: it stamps a hash of it."""
    return sha256(root).digest()


def question(root: bytes, policy: str = "") -> Question:
    """For the 32 bytes of a batch's root; asks for the certificate, with a fresh nonce."""
    client = library()
    made = client.TimestampRequestBuilder().data(root).hash_algorithm(client.HashAlgorithm.SHA256).build()
    body = der.with_policy(made.as_bytes(), policy) if policy else made.as_bytes()
    return Question(body, imprint(root), made.nonce, policy)


def checked(reply: bytes, asked: Question, bundle: Bundle) -> Stamp:
    """Status, imprint, nonce, policy, certificates, signature and chain, all at the token's own time.

    Raises BadToken; Busy for a refusal that may pass."""
    client = library()
    with _as_bad_token("the reply is no time stamp"):
        response = client.decode_timestamp_response(der.with_certificates(reply, bundle.others))
        status, said = response.status, response.status_string
        reasons = der.failure_info(reply)
    if status != _GRANTED:
        raise _rejected(status, said, reasons)
    with _as_bad_token("the token does not verify"):
        _check_content(client, response, asked)
        certificates = [x509.load_der_x509_certificate(each) for each in response.signed_data.certificates]
        _check_certificates(certificates, bundle.roots)
        signer = _signer(response, certificates)
        _check_attributes(reply, signer)
        root = _root(client, response, asked, bundle.roots)
        info = response.tst_info
        seconds = int(info.gen_time.timestamp())
        return Stamp(seconds, info.serial_number, info.policy.dotted_string, _key_hash(signer), _key_hash(root))


@contextmanager
def _as_bad_token(what: str) -> Iterator[None]:
    """Whatever a hostile reply makes the parsers raise."""
    try:
        yield
    except SchedulerError:
        raise
    except Exception as error:
        raise BadToken(f"{what}: {_words(error)}") from None


def _words(error: Exception) -> str:
    """OpenSSL's own reason out of the stack that the library shows."""
    reasons = re.findall(r'reason: "([^"]{1,100})"', str(error))
    text = ", ".join(reasons) or str(error) or type(error).__name__
    return "".join(letter if letter.isprintable() else " " for letter in text)[:200]


def _rejected(status: int, said: Iterable[str] | None, reasons: frozenset[int]) -> SchedulerError:
    told = [_REASONS.get(bit, f"failure {bit}") for bit in sorted(reasons)]
    told += [_words(ValueError(text)) for text in (said or ())][:3]
    words = f" ({'; '.join(told)})" if told else ""
    if status == _GRANTED_WITH_MODS:
        return BadToken(f"the authority granted something else than was asked for{words}")
    if status == _WAITING or reasons & _MAY_PASS:
        return Busy(f"the authority cannot stamp now{words}")
    return BadToken(f"the authority rejected the request, status {status}{words}")


def _check_content(client: Any, response: Any, asked: Question) -> None:
    """Told apart before the library, which knows one text for each, looks again."""
    info = response.tst_info
    if info.message_imprint.message != asked.imprint:
        raise BadToken("the token is for another root")
    if asked.nonce is not None and info.nonce != asked.nonce:
        raise BadToken("the token has another nonce: it answers somebody else's request, or an old one of ours")
    if asked.policy and info.policy.dotted_string != asked.policy:
        raise BadToken(f"the token is under policy {info.policy.dotted_string}, not {asked.policy}")
    signers = response.signed_data.signer_infos
    if len(signers) != 1:
        raise BadToken("the token must have one signer")
    if (response.signed_data.version, next(iter(signers)).version) != (3, 1):  # RFC 5652 sections 5.1, 5.3
        raise BadToken("the token is in no version of its format that is known")


def _check_certificates(certificates: list[x509.Certificate], roots: tuple[x509.Certificate, ...]) -> None:
    """Each must be signed by its issuer, where that is known: those that the chain does not need are not looked at
    by anybody else."""
    for certificate in certificates:
        issuers = [each for each in (*certificates, *roots) if each.subject == certificate.issuer]
        if issuers and not any(_is_issued_by(certificate, issuer) for issuer in issuers):
            raise BadToken("a certificate in the token was changed, or is not its issuer's")


def _is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return True


def _root(client: Any, response: Any, asked: Question, roots: tuple[x509.Certificate, ...]) -> x509.Certificate:
    """The one that the token leads to. The library takes whatever it is given for a root, so it is given no other."""
    refusal = "no root certificate to believe"
    for root in roots:
        try:
            client.VerifierBuilder(roots=[root]).build().verify(response, asked.imprint)
            return root
        except client.VerificationError as error:
            refusal = _words(error)
    raise BadToken(f"the token leads to no certificate of the trust bundle: {refusal}")


def _signer(response: Any, certificates: list[x509.Certificate]) -> x509.Certificate:
    """RFC 3161 section 2.3: its key is for time stamps and nothing else, which the library alone does not insist on."""
    (info,) = response.signed_data.signer_infos
    named = (info.issuer, info.serial_number)
    signer = next((each for each in certificates if (each.issuer, each.serial_number) == named), None)
    if signer is None:
        raise BadToken("the signer's certificate is neither in the token nor in the trust bundle")
    usage = signer.extensions.get_extension_for_class(x509.ExtendedKeyUsage)
    if not usage.critical or list(usage.value) != [ExtendedKeyUsageOID.TIME_STAMPING]:
        raise BadToken("the signer's certificate is not for time stamps alone")
    return signer


def _check_attributes(reply: bytes, signer: x509.Certificate) -> None:
    """RFC 5652 section 5.3 and RFC 3161 section 2.4.2: what is signed names the signer's certificate by its hash. The
    library asks for neither, nor for a hash that is still good."""
    digest, attributes = der.signer_info(reply)
    if digest not in _GOOD_DIGESTS:
        raise BadToken("the token is signed over a hash that is no SHA-2 or SHA-3")
    named = [encoded for encoded in _SIGNING_CERTIFICATE if encoded in attributes]
    whole = signer.public_bytes(Encoding.DER)
    hashes = [hashlib.new(name, whole).digest() for name in ("sha1", "sha256", "sha384", "sha512")]
    if not named or not any(bytes((4, len(each))) + each in attributes for each in hashes):
        raise BadToken("the token does not name the certificate that signed it")


def _key_hash(certificate: x509.Certificate) -> bytes:
    key = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return sha256(key).digest()
