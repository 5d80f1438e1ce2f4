"""Which addresses an outgoing call may reach, and which URLs may be written down (forge-os D10, decision 30).

`ipaddress.is_global` is not used: what it says differs by Python version, and it calls NAT64 and multicast global.
The tables are the IANA special-purpose registries (RFC 6890) with the metadata services of the clouds added."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

LONGEST_URL = 500
"""forge-os section 5: longer ones were cut; ours are refused."""

_TABLE: tuple[tuple[str, str], ...] = (
    # metadata stands first: its addresses lie in ranges below, or in public ones (168.63.129.16)
    ("metadata", "169.254.169.254 169.254.170.2 169.254.170.23 100.100.100.200 192.0.0.192 168.63.129.16"),
    ("metadata", "fd00:ec2::254 fd00:ec2::23 fd20:ce::254 fe80::a9fe:a9fe"),
    ("unspecified", "0.0.0.0/8 ::/128"),
    ("loopback", "127.0.0.0/8 ::1/128"),
    ("link-local", "169.254.0.0/16 fe80::/10"),
    ("private", "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 100.64.0.0/10 fc00::/7 fec0::/10 64:ff9b:1::/48"),
    ("multicast", "224.0.0.0/4 ff00::/8"),
    ("reserved", "192.0.0.0/24 192.0.2.0/24 192.88.99.0/24 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 240.0.0.0/4"),
    ("reserved", "2001:2::/48 2001:10::/28 2001:20::/28 2001:db8::/32 3fff::/20"),
)
_REFUSED: tuple[tuple[str, Network], ...] = tuple(
    (why, ip_network(text)) for why, texts in _TABLE for text in texts.split()
)
_MAPPED = IPv6Network("::ffff:0:0/96")
_TRAILING_V4 = (
    IPv6Network("::ffff:0:0:0/96"),  # translated, RFC 2765
    IPv6Network("64:ff9b::/96"),  # NAT64, RFC 6052
)
_COMPATIBLE = IPv6Network("::/96")
_GLOBAL = IPv6Network("2000::/3")

_URL = re.compile(r"[a-zA-Z]+://(?P<host>\[[0-9A-Fa-f:.]*\]|[A-Za-z0-9._-]+)(:(?P<port>[0-9]{1,5}))?([/?#].*)?")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?\.?")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
_PRINTABLE = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True)
class AllowList:
    """What may be reached although it is refused by default. Port None = every port."""

    networks: tuple[tuple[Network, int | None], ...] = ()
    hosts: frozenset[tuple[str, int | None]] = frozenset()

    @classmethod
    def parse(cls, entries: Sequence[str]) -> "AllowList":
        """`host`, `host:port`, `10.0.0.0/8`, `10.0.0.1:3001`, `[::1]:3001`. A host is trusted whatever it
        resolves to. Raises ValueError naming the bad entry."""
        parsed = [_entry(entry.strip()) for entry in entries]
        return cls(
            tuple((what, port) for what, port in parsed if not isinstance(what, str)),
            frozenset((what, port) for what, port in parsed if isinstance(what, str)),
        )

    def allows(self, address: Address, port: int, host: str) -> bool:
        name = host.lower().removesuffix(".")
        if (name, None) in self.hosts or (name, port) in self.hosts:
            return True
        return any(
            only in (None, port) and address.version == network.version and address in network
            for network, only in self.networks
        )


def refused(address: str, port: int, host: str, allow: AllowList, *, loopback_ok: bool) -> str:
    """ "" = allowed, else why not: `loopback`, `private`, `metadata`, ... `host` is the name that led here.

    IPv4 inside IPv6 is judged as the IPv4 it stands for; only the mapped form is also allowed as such."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return "no address"
    if isinstance(parsed, IPv6Address) and parsed in _MAPPED:
        parsed = _last_32(parsed)
    if allow.allows(parsed, port, host):
        return ""
    why = _why(parsed)
    return "" if why == "loopback" and loopback_ok else why


def literal_refused(host: str, port: int, allow: AllowList, *, loopback_ok: bool) -> str:
    """`refused` for a host that is an address itself; "" for a name, about which only resolving it can tell."""
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return ""
    return refused(str(address), port, host, allow, loopback_ok=loopback_ok)


def url_problem(url: str) -> str:
    """ "" = may be registered. Refuses every spelling that two parsers could read differently."""
    if len(url) > LONGEST_URL:
        return f"longer than {LONGEST_URL} characters"
    if not _PRINTABLE.fullmatch(url):
        return "empty, or holds a space, a control character or one outside ASCII: percent-encode it"
    if not url.lower().startswith(("http://", "https://")):
        return "does not begin with http:// or https://"
    found = _URL.fullmatch(url)
    if found is None:
        return "what follows the // is no plain host and port (user information, a backslash, ...)"
    host, port = found["host"], found["port"]
    if port is not None and not 0 < int(port) < 65536:
        return "the port in it is not between 1 and 65535"
    return _host_problem(host)


def _host_problem(host: str) -> str:
    if host.startswith("["):
        return "" if _is_address(host[1:-1], IPv6Address) else "the IPv6 address in it cannot be read"
    if not _HOST.fullmatch(host) or ".." in host:
        return "no host, or one with characters that no host has"
    last = host.removesuffix(".").rpartition(".")[2]
    if _NUMBER.fullmatch(last) and not _is_address(host, IPv4Address):
        return "an IPv4 address is written as four decimal numbers"  # 127.1 and 0x7f.1 are addresses to a resolver
    return ""


def _is_address(text: str, kind: type[IPv4Address] | type[IPv6Address]) -> bool:
    try:
        kind(text)
    except ValueError:
        return False
    return True


def _why(address: Address) -> str:
    for why, network in _REFUSED:
        if address.version == network.version and address in network:
            return why
    if isinstance(address, IPv4Address):
        return ""
    for inner in _inside(address):
        if why := _why(inner):
            return why
    if address in _COMPATIBLE:
        return "reserved"
    return "" if address in _GLOBAL or any(address in network for network in _TRAILING_V4) else "reserved"


def _inside(address: IPv6Address) -> Iterable[IPv4Address]:
    """The IPv4 addresses a packet to this one may end at: a gateway unwraps them after we have looked."""
    if address in _COMPATIBLE or any(address in network for network in _TRAILING_V4):
        yield _last_32(address)
    if address.sixtofour is not None:
        yield address.sixtofour
    if address.teredo is not None:
        yield from address.teredo


def _last_32(address: IPv6Address) -> IPv4Address:
    return IPv4Address(int(address) & 0xFFFFFFFF)


def _entry(entry: str) -> tuple[Network | str, int | None]:
    """A network or a host in lower case, and its port."""
    if (network := _network(entry)) is not None:
        return network, None
    name, colon, digits = entry.rpartition(":")
    if not colon or entry.endswith("]"):
        name, colon, digits = entry, "", ""
    port = _port(digits, entry) if colon else None
    if (network := _network(name.removeprefix("[").removesuffix("]"))) is not None and "/" not in name:
        return network, port
    if _host_problem(name):
        raise ValueError(f"{entry!a} is no host, host:port, address or CIDR range")
    return name.lower().removesuffix("."), port


def _network(text: str) -> Network | None:
    try:
        return ip_network(text)
    except ValueError:
        return None


def _port(digits: str, entry: str) -> int:
    if not (digits.isascii() and digits.isdigit() and 0 < int(digits) < 65536):
        raise ValueError(f"{entry!a} is no host, host:port, address or CIDR range: the port is not 1 to 65535")
    return int(digits)
