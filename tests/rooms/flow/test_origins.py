"""Whose requests are answered, by what they say of themselves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.web.http_headers import Headers

from appliance.errors import ForeignPage, HostUnknown, RequestInvalid
from appliance.flow.origins import Host, host_of, parse_host, refuse_foreign_page, refuse_other_host

GO = "containerd/1.7"
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


@pytest.mark.parametrize(
    ("text", "name", "port"),
    [
        ("cache", "cache", ""),
        ("Cache.Example:5000", "cache.example", "5000"),
        ("cache.example:", "cache.example", ""),
        ("[::1]:", "::1", ""),
        ("cache.example.", "cache.example", ""),
        ("127.0.0.1:5001", "127.0.0.1", "5001"),
        ("[::1]:5001", "::1", "5001"),
        ("[0:0:0:0:0:0:0:1]", "::1", ""),
        ("[::ffff:127.0.0.1]", "127.0.0.1", ""),
        ("a_b-c", "a_b-c", ""),
    ],
)
def test_a_host_has_one_spelling(text: str, name: str, port: str) -> None:
    """Case, a dot at the end and longer forms of an address make no other host of it."""
    assert parse_host(text) == Host(name, port)


@pytest.mark.parametrize(
    "text",
    ["", "a..b", ".a", "a b", "a/b", "a?b", "user@a", "a:b", "a:123456", ":80", "[::1", "::1", "[]", "[::g]", "\xff"]
    + ["a" * 64, ".".join(["a" * 60] * 5), "-a", "a,b", "http://a"],
)
def test_what_is_no_host_is_refused(text: str) -> None:
    """400 instead of a mistake of ours further on."""
    with pytest.raises(RequestInvalid):
        parse_host(text)


@given(st.text())
def test_any_text_is_a_host_or_refused(text: str) -> None:
    """And a host can be looked up and joined to a URL: nothing in it means anything there."""
    try:
        host = parse_host(text)
    except RequestInvalid:
        return
    assert host.name and not set(host.name) & set("/?#@[] ,\\") and host.name.isascii()
    host.name.encode("idna")


def test_two_hosts_are_none() -> None:
    """RFC 9112 section 3.2: what stands behind us may see the other one."""
    assert host_of(Headers({})) is None
    assert host_of(Headers({"Host": [" cache:5000 "]})) == Host("cache", "5000")
    with pytest.raises(RequestInvalid):
        host_of(Headers({"Host": ["cache", "cache"]}))


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:1", "LOCALHOST.", "app.localhost", "127.0.0.1", "127.9.9.9:80", "[::1]:5", "10.0.0.5:5001"]
    + ["[fe80::1]", "console.example", "x.sub.example:1", "port.example:81"],
)
def test_loopback_names_our_address_and_our_names_are_answered_to(host: str) -> None:
    """However they are written."""
    hosts = ("console.example", "*.sub.example", "port.example:81")
    for address in ("10.0.0.5", "fe80::1%eth0", "::ffff:10.0.0.5"):
        if host in ("10.0.0.5:5001", "[fe80::1]") and not parse_host(host).is_at(address):
            continue
        refuse_other_host(parse_host(host), hosts, "admin: hosts", address)


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.6", "sub.example", "xsub.example"]
    + ["port.example", "port.example:82", "console.example.evil", "0.0.0.0", "2130706433", "127.1", "[::2]"],
)
def test_other_names_are_not(host: str) -> None:
    """A name that was made to mean our address (DNS rebinding) is still another name; the message says what to do."""
    hosts = ("console.example", "*.sub.example", "port.example:81")
    with pytest.raises(HostUnknown, match="admin: hosts"):
        refuse_other_host(parse_host(host), hosts, "admin: hosts", "10.0.0.5")


def test_a_listener_with_names_answers_to_no_other() -> None:
    """Its own address is refused as well, and so is a request without Host."""
    for host in (Host("localhost"), Host("10.0.0.5"), None):
        with pytest.raises(HostUnknown):
            refuse_other_host(host, ("cache.example",), "hosts of this listener")
    refuse_other_host(Host("cache.example", "5000"), ("cache.example",), "hosts of this listener")


HOST = Host("cache.example", "5000")
HARMLESS: list[dict[str, str]] = [
    {},
    {"User-Agent": GO},
    {"Sec-Fetch-Site": "none", "User-Agent": FIREFOX},
    {"Sec-Fetch-Site": "same-origin", "Origin": "http://cache.example:5000"},
    {"Origin": "http://CACHE.example:5000"},
    {"Referer": "http://cache.example:5000/ui/?x=1"},
    # A proxy between replaced the Host; the browser saw the name that it used itself.
    {"Sec-Fetch-Site": "same-origin", "Referer": "https://registry.example/ui"},
    # Go's client was redirected here by another registry, which may live below a path.
    {"Referer": "https://mirror.example/docker/v2/library/nginx/manifests/latest", "User-Agent": GO},
    {"Referer": "https://registry.example/v2/library/nginx/blobs/sha256:a", "User-Agent": GO},
]
FOREIGN: list[dict[str, str]] = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "nonsense"},
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://cache.example"},
    {"Origin": "http://cache.example:5001"},
    {"Origin": "http://cache.example:5000.evil.example"},
    {"Origin": "http://user@cache.example:5000"},
    {"Origin": "chrome-extension://cache.example:5000"},
    {"Origin": ""},
    {"Origin": "http://[::1"},
    {"Sec-Fetch-Site": "same-origin", "Origin": "http://evil.example"},
    {"Sec-Fetch-Site": "none", "Referer": "http://evil.example/"},
    {"Referer": "http://evil.example/"},
    {"Referer": "http://evil.example/page", "User-Agent": GO},
    {"Referer": "http://evil.example/v2/", "User-Agent": FIREFOX},
    {"Referer": "http://evil.example/a/v2/b", "User-Agent": FIREFOX},
    {"Referer": "http://[/v2/"},
]


@pytest.mark.parametrize("fields", HARMLESS)
def test_programs_and_people_are_let_in(fields: dict[str, str]) -> None:
    """A client, an address typed by hand, a page of our own, also behind a proxy."""
    refuse_foreign_page(Headers({name: [value] for name, value in fields.items()}), HOST)


@pytest.mark.parametrize("fields", FOREIGN)
def test_other_pages_are_not(fields: dict[str, str]) -> None:
    """Whatever one of these says, and whatever the others say."""
    with pytest.raises(ForeignPage):
        refuse_foreign_page(Headers({name: [value] for name, value in fields.items()}), HOST)


@pytest.mark.parametrize(
    ("origin", "host"),
    [("https://a.example", "a.example"), ("https://a.example:443", "a.example"), ("http://a.example", "a.example:80")],
)
def test_a_default_port_goes_without_saying(origin: str, host: str) -> None:
    """In front of a proxy that ends TLS, the page's origin has a scheme that we do not see."""
    refuse_foreign_page(Headers({"Origin": [origin]}), parse_host(host))
