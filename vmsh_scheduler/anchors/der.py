"""As much DER as time stamps need: requests get a policy, replies their certificates in order (RFC 3161, 5652)."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

_CERTIFICATES = 0xA0
_BIT_STRING = 0x03


class Element(NamedTuple):
    """Tag, and where the element begins, its content begins, and both end."""

    tag: int
    start: int
    content: int
    end: int


def element(data: bytes, at: int = 0, end: int | None = None) -> Element:
    """ValueError unless one lies there, wholly before `end`."""
    end = len(data) if end is None else end
    if at + 2 > end:
        raise ValueError("cut short")
    tag, length, content = data[at], data[at + 1], at + 2
    if length & 0x80:
        count = length & 0x7F
        if not 1 <= count <= 4 or content + count > end:
            raise ValueError("length is not DER")
        length = int.from_bytes(data[content : content + count])
        content += count
    if content + length > end:
        raise ValueError("cut short")
    return Element(tag, at, content, content + length)


def inside(data: bytes, outer: Element) -> list[Element]:
    return list(_inside(data, outer))


def _inside(data: bytes, outer: Element) -> Iterator[Element]:
    at = outer.content
    while at < outer.end:
        found = element(data, at, outer.end)
        yield found
        at = found.end


def encode(tag: int, content: bytes) -> bytes:
    if len(content) < 0x80:
        return bytes((tag, len(content))) + content
    length = len(content).to_bytes((len(content).bit_length() + 7) // 8)
    return bytes((tag, 0x80 | len(length))) + length + content


def oid(dotted: str) -> bytes:
    """The whole element of a well-formed OID."""
    numbers = [int(part) for part in dotted.split(".")]
    content = b"".join(_base128(number) for number in [numbers[0] * 40 + numbers[1], *numbers[2:]])
    return encode(0x06, content)


def _base128(number: int) -> bytes:
    digits = [number & 0x7F]
    while number := number >> 7:
        digits.append(number & 0x7F | 0x80)
    return bytes(reversed(digits))


def with_policy(request: bytes, dotted: str) -> bytes:
    """TimeStampReq with reqPolicy, which stands behind version and messageImprint."""
    whole = element(request)
    imprint = inside(request, whole)[1]
    content = request[whole.content : imprint.end] + oid(dotted) + request[imprint.end : whole.end]
    return encode(whole.tag, content)


def failure_info(reply: bytes) -> frozenset[int]:
    """Bits of PKIFailureInfo in the status of a TimeStampResp; empty when there is none."""
    status = inside(reply, element(reply))[0]
    for part in inside(reply, status):
        if part.tag == _BIT_STRING:
            value = reply[part.content + 1 : part.end]
            return frozenset(bit for bit in range(len(value) * 8) if value[bit // 8] >> (7 - bit % 8) & 1)
    return frozenset()


def signer_info(reply: bytes) -> tuple[bytes, bytes]:
    """Of a token's first SignerInfo: content of its digest's OID, and its signed attributes; b"" = none."""
    token = inside(reply, element(reply))[1]
    signed_data = element(reply, inside(reply, token)[1].content)
    info = inside(reply, inside(reply, signed_data)[-1])[0]
    fields = inside(reply, info)  # version, sid, digestAlgorithm, [0] signedAttrs
    digest = inside(reply, fields[2])[0]
    attributes = fields[3] if fields[3].tag == _CERTIFICATES else None
    return reply[digest.content : digest.end], b"" if attributes is None else reply[attributes.content : attributes.end]


def with_certificates(reply: bytes, more: Iterable[bytes] = ()) -> bytes:
    """TimeStampResp with the token's certificates, and `more`, as DER wants a SET: sorted, each once.

    The set is outside the signature. OpenSSL's authorities send it unsorted, and strict parsers refuse that."""
    response = element(reply)
    parts = inside(reply, response)
    if response.end != len(reply) or len(parts) != 2:
        if response.end != len(reply):
            raise ValueError("something follows the reply")
        return reply  # a rejection has no token
    content_info = parts[1]
    explicit = inside(reply, content_info)[1]
    signed_data = element(reply, explicit.content, explicit.end)
    fields = inside(reply, signed_data)
    place = next((index for index, part in enumerate(fields) if part.tag == _CERTIFICATES), None)
    there = [] if place is None else [_bytes(reply, part) for part in inside(reply, fields[place])]
    certificates = sorted({*there, *more})
    if certificates == there or not certificates:
        return reply
    # version, digestAlgorithms, encapContentInfo come first
    before, after = (fields[:3], fields[3:]) if place is None else (fields[:place], fields[place + 1 :])
    body = _join(reply, before) + encode(_CERTIFICATES, b"".join(certificates)) + _join(reply, after)
    wrapped = encode(explicit.tag, encode(signed_data.tag, body))
    token = encode(content_info.tag, reply[content_info.content : explicit.start] + wrapped)
    return encode(response.tag, _bytes(reply, parts[0]) + token)


def _bytes(data: bytes, part: Element) -> bytes:
    return data[part.start : part.end]


def _join(data: bytes, parts: Sequence[Element]) -> bytes:
    return b"".join(_bytes(data, part) for part in parts)
