"""Which addresses and URLs are let out: the corpus of family W1 and D10, and what an operator may list."""

from collections.abc import Callable

import pytest

from vmsh_scheduler.net.guard import AllowList, literal_refused, refused, url_problem

NOBODY = AllowList()

REFUSED = {
    "loopback": "127.0.0.1 127.0.0.2 127.255.255.254 ::1 ::ffff:127.0.0.1 ::ffff:7f00:1 64:ff9b::7f00:1 2002:7f00:1::",
    "metadata": "169.254.169.254 169.254.170.2 169.254.170.23 100.100.100.200 192.0.0.192 168.63.129.16 fd00:ec2::254"
    " fd20:ce::254 ::ffff:a9fe:a9fe ::ffff:169.254.169.254 64:ff9b::a9fe:a9fe 2002:a9fe:a9fe:: ::a9fe:a9fe"
    " ::ffff:0:a9fe:a9fe",
    "link-local": "169.254.0.1 169.254.255.255 fe80::1 fe80::1%eth0 febf::1 2002:a9fe:1::",
    "private": "10.0.0.1 10.255.255.255 172.16.0.1 172.31.255.255 192.168.0.1 100.64.0.1 100.127.255.255 fc00::1"
    " fdff::1 fec0::1 64:ff9b:1::1 ::ffff:10.0.0.1 64:ff9b::10.0.0.1 2002:c0a8:101::1 ::10.0.0.1",
    "unspecified": "0.0.0.0 0.1.2.3 :: ::ffff:0.0.0.0",
    "multicast": "224.0.0.1 239.255.255.255 ff02::1 ff0e::1 ::ffff:224.0.0.1",
    "reserved": "192.0.0.1 192.0.2.1 192.88.99.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.9 240.0.0.1"
    " 255.255.255.255 2001:db8::1 3fff::1 100::1 4000::1 ::8.8.8.8 2001:20::1 5f00::1",
}
PUBLIC = (
    "1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.1 169.253.255.255"
    " 169.255.0.0 172.15.255.255 172.32.0.0 192.0.1.1 192.167.255.255 192.169.0.0 223.255.255.255 2606:4700::1111"
    " 2a00:1450::1 ::ffff:8.8.8.8 64:ff9b::808:808 2002:808:808::1"
)
BAD_ENTRIES = (
    *("", "*", "*.example.com", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/8:80", "a:0", "a:65536", "a:b", "a:1:2", "a b"),
    *("http://a", "u@h", "[::1", "127.1", "0x7f.1", "h:٣", "é.com"),
)
BAD_SCHEMES = """example.com //example.com file:///etc/passwd data:,x gopher://h/ ftp://h/ http:h http:/h
    javascript:alert(1) http+unix://x/"""
BAD_HOSTS = r"""http:// http:///x http://:80/ http://?x https://#x http://u@h/ http://u:p@h/ http://h@/
    http://good.example\@evil.example/ http://a\b/ http://h:0/ http://h:65536/ http://h:/ http://h:8O/ http://a..b/
    http://.a/ http://-a/ http://a-/ http://[::1/ http://::1/ http://[::1]evil/ http://[fe80::1%25eth0]/
    http://[::1%eth0]/ http://[]/ http://[v1.x]/"""
ODD_ADDRESSES = """http://127.1/ http://0x7f.1/ http://2130706433/ http://0/ http://0177.0.0.1/ http://0x7f000001/
    http://127.0.0.1./ http://127.0.0.01/ http://127.0.0.256/ http://1.2.3.4.5/ http://a.0x/ http://127%2e0.0.1/
    http://%31%32%37.0.0.1/ http://１２７.0.0.1/ http://127。0。0。1/ http://ⓛocalhost/"""
ODD_CHARACTERS = (
    *("http://a b/", "http://a\tb/", " http://a/", "http://a/ ", "http://a/\n", "http://a/\r\nX: y", "http://a/\x00"),
    *("http://a/é", "http://a/\x7f", "", "http://h/" + "x" * 492),
)
BAD_URLS = (*BAD_SCHEMES.split(), *BAD_HOSTS.split(), *ODD_ADDRESSES.split(), *ODD_CHARACTERS)
CASES = [(address, why) for why, addresses in REFUSED.items() for address in addresses.split()]


@pytest.mark.parametrize(("address", "why"), CASES)
def test_w1_an_address_that_is_not_public_is_refused(address: str, why: str) -> None:
    assert refused(address, 80, "example.com", NOBODY, loopback_ok=False) == why


@pytest.mark.parametrize("address", PUBLIC.split())
@pytest.mark.parametrize("port", [1, 80, 65535])
def test_a_public_address_is_let_through_at_any_port(address: str, port: int) -> None:
    assert refused(address, port, "example.com", NOBODY, loopback_ok=False) == ""


def test_w1_the_corpus_is_as_large_as_it_says(record_property: Callable[[str, object], None]) -> None:
    assert len({address for address, _ in CASES}) >= 60
    record_property("W1", f"{len(CASES)} addresses and {len(BAD_URLS)} spellings of URLs: each refused")


def test_teredo_is_judged_by_its_server_and_by_its_client() -> None:
    """RFC 4380: the server stands after the prefix, the client, inverted, at the end."""
    assert refused("2001:0:7f00:1::", 80, "h", NOBODY, loopback_ok=False) == "loopback"
    assert refused("2001:0:808:808::f5ff:fffe", 80, "h", NOBODY, loopback_ok=False) == "private"
    assert refused("2001:0:808:808::f7f7:f7f7", 80, "h", NOBODY, loopback_ok=False) == ""


@pytest.mark.parametrize("text", ["", "localhost", "127.1", "0x7f000001", "2130706433", "1.2.3.4.5", "017.0.0.1"])
def test_what_is_no_address_is_refused(text: str) -> None:
    assert refused(text, 80, "h", NOBODY, loopback_ok=True) == "no address"


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("127.0.0.1", ""),
        ("::1", ""),
        ("::ffff:127.0.0.1", ""),
        ("0.0.0.0", "unspecified"),
        ("10.0.0.1", "private"),
        ("169.254.169.254", "metadata"),
    ],
)
def test_a_loopback_listener_may_call_its_own_machine_only(address: str, why: str) -> None:
    assert refused(address, 80, "h", NOBODY, loopback_ok=True) == why


@pytest.mark.parametrize(
    ("entry", "address", "port", "host", "passes"),
    [
        ("10.0.0.0/8", "10.1.2.3", 1, "h", True),
        ("10.0.0.0/8", "::ffff:10.1.2.3", 1, "h", True),
        ("10.0.0.0/8", "64:ff9b::10.1.2.3", 1, "h", False),
        ("10.0.0.0/8", "192.168.0.1", 1, "h", False),
        ("127.0.0.1:3001", "127.0.0.1", 3001, "h", True),
        ("127.0.0.1:3001", "127.0.0.1", 3002, "h", False),
        ("127.0.0.1:3001", "127.0.0.2", 3001, "h", False),
        ("[::1]:3001", "::1", 3001, "h", True),
        ("[::1]:3001", "::1", 3002, "h", False),
        ("[::1]", "::1", 9, "h", True),
        ("fc00::/7", "fd12::1", 9, "h", True),
        ("Hook.Internal", "10.0.0.9", 9, "hook.internal", True),
        ("hook.internal", "10.0.0.9", 9, "HOOK.internal.", True),
        ("hook.internal", "10.0.0.9", 9, "evil-hook.internal", False),
        ("hook.internal:80", "10.0.0.9", 80, "hook.internal", True),
        ("hook.internal:80", "10.0.0.9", 81, "hook.internal", False),
        (" 10.0.0.9 ", "10.0.0.9", 81, "h", True),
    ],
)
def test_the_allow_list(entry: str, address: str, port: int, host: str, passes: bool) -> None:
    found = refused(address, port, host, AllowList.parse([entry]), loopback_ok=False)
    assert (found == "") == passes


@pytest.mark.parametrize("entry", BAD_ENTRIES)
def test_a_bad_entry_is_named(entry: str) -> None:
    with pytest.raises(ValueError, match=r"is no host") as raised:
        AllowList.parse(["fine.example", entry])
    assert ascii(entry) in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com",
        "https://example.com/",
        "HTTPS://Example.COM:8443/cycle?x=1&token=a%2Fb#f",
        "http://example.com./a@b",
        "http://example.com?x=1",
        "http://a_b.c-d.example:1",
        "http://localhost:3001/v1/scheduler/cycle",
        "http://127.0.0.1:3001/",
        "http://[::1]:3001/",
        "http://[2606:4700::1111]",
        "http://1.1.1.1.example.com/",
        "http://xn--bcher-kva.example/",
        "http://h/" + "x" * 491,
    ],
)
def test_a_plain_url_may_be_registered(url: str) -> None:
    assert url_problem(url) == ""


@pytest.mark.parametrize("url", BAD_URLS)
def test_w1_a_url_that_can_be_read_in_two_ways_is_refused(url: str) -> None:
    assert url_problem(url) != ""


def test_a_problem_does_not_repeat_the_url() -> None:
    """It may hold a token, and goes to logs and answers."""
    assert "s3cret" not in url_problem("http://u:s3cret@h/?token=s3cret")


def test_a_host_that_is_an_address_is_judged_at_once_a_name_is_not() -> None:
    assert literal_refused("10.0.0.1", 80, NOBODY, loopback_ok=False) == "private"
    assert literal_refused("[::1]", 80, NOBODY, loopback_ok=False) == "loopback"
    assert literal_refused("::1", 80, NOBODY, loopback_ok=True) == ""
    assert literal_refused("10.0.0.1", 80, AllowList.parse(["10.0.0.1:80"]), loopback_ok=False) == ""
    assert literal_refused("localhost", 80, NOBODY, loopback_ok=False) == ""
