"""The environment's proxies, as Go reads them."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.settings import UpstreamSettings
from appliance.upstream.http.proxy import Exemptions, Proxies, proxies_for

SEVERAL = (
    "corp.example, .inner.example, *.wild.example, 192.0.2.1, 192.0.2.2:81,192.0.2.3:80 ,10.0.0.0/30,"
    "2001:db8::52:0:1, [2001:db8::52:0:2]:443, [2001:db8::52:0:3]:80, 2002:db8:a::45/64,\tTabs.Example"
)

#: No entry of a list, the list itself being C{SEVERAL}; the port is 80.
TOGETHER = [
    ("corp.example", True),
    ("www.corp.example", True),
    ("a.b.corp.example", True),
    ("notcorp.example", False),
    ("corp.example.net", False),
    ("inner.example", False),
    ("a.inner.example", True),
    ("winner.example", False),
    ("wild.example", False),
    ("nested.wild.example", True),
    ("awild.example", False),
    ("tabs.example", True),
    ("192.0.2.1", True),
    ("192.0.2.2", False),
    ("192.0.2.3", True),
    ("192.0.2.4", False),
    ("10.0.0.2", True),
    ("10.0.0.4", False),
    ("2001:db8::52:0:1", True),
    ("2001:db8::52:0:2", False),
    ("2001:db8::52:0:3", True),
    ("2001:db8::52:0:4", False),
    ("2002:db8:a::123", True),
    ("2002:db8:b::123", False),
    ("fe80::1", False),
]

ALONE = [
    # loopback is never proxied
    ("", "localhost", 80, True),
    ("", "127.0.0.1", 80, True),
    ("", "127.9.9.9", 80, True),
    ("", "::1", 80, True),
    ("", "::ffff:127.0.0.1", 80, True),
    ("", "::2", 80, False),
    ("", "localhost.example", 80, False),
    ("", "local.localhost", 80, False),
    # every host
    ("*", "any.example", 443, True),
    ("*", "192.0.2.9", 443, True),
    ("a.example, * , b.example", "c.example", 443, True),
    ("*:80", "any.example", 80, False),
    # ports
    ("a.example:443", "a.example", 443, True),
    ("a.example:443", "a.example", 80, False),
    ("a.example:443", "b.a.example", 443, True),
    (".a.example:443", "b.a.example", 443, True),
    (".a.example:443", "a.example", 443, False),
    ("*.a.example:443", "b.a.example", 80, False),
    ("a.example:", "a.example", 80, True),
    ("a.example:https", "a.example", 443, False),
    ("a.example:0443", "a.example", 443, False),
    # blocks have no port, brackets need one
    ("10.0.0.0/8:80", "10.0.0.1", 80, False),
    ("10.1.2.3/8", "10.9.9.9", 80, True),
    ("10.0.0.0/255.0.0.0", "10.0.0.1", 80, False),
    ("10.0.0.0/33", "10.0.0.1", 80, False),
    ("0.0.0.0/0", "192.0.2.9", 80, True),
    ("0.0.0.0/0", "2001:db8::1", 80, False),
    ("0.0.0.0/0", "a.example", 80, False),
    ("::/0", "2001:db8::1", 80, True),
    ("[2001:db8::1]", "2001:db8::1", 80, False),
    ("[2001:db8::1]:80", "2001:db8::1", 80, True),
    ("2001:DB8::1", "2001:db8::1", 80, True),
    # IPv4 within IPv6
    ("::ffff:10.0.0.1", "10.0.0.1", 80, True),
    ("10.0.0.1", "::ffff:10.0.0.1", 80, True),
    ("::ffff:10.0.0.0/104", "10.9.9.9", 80, True),
    ("10.0.0.0/8", "::ffff:a00:1", 80, True),
    # what is passed over
    (":80", "a.example", 80, False),
    (",, ,", "a.example", 80, False),
    ("[", "a.example", 80, False),
    ("010.0.0.1", "10.0.0.1", 80, False),
    ("https://a.example", "a.example", 443, False),
    # IDNA
    ("münchen.example", "xn--mnchen-3ya.example", 80, True),
    (".münchen.example", "a.xn--mnchen-3ya.example", 80, True),
]  # fmt: skip


@pytest.mark.parametrize(("host", "exempt"), TOGETHER)
def test_the_entries_of_a_list_count_side_by_side(host: str, exempt: bool) -> None:
    """One NO_PROXY for names, subdomains, addresses and blocks."""
    assert Exemptions(SEVERAL).cover(host, 80) is exempt


@pytest.mark.parametrize(("no_proxy", "host", "port", "exempt"), ALONE)
def test_each_kind_of_entry_means_what_it_means_to_go(no_proxy: str, host: str, port: int, exempt: bool) -> None:
    """An environment that serves podman and containerd serves this."""
    assert Exemptions(no_proxy).cover(host, port) is exempt


@pytest.mark.parametrize(("host", "_"), TOGETHER)
def test_an_asterisk_exempts_every_host(host: str, _: bool) -> None:
    """Wherever it stands in the list."""
    assert Exemptions(f"{SEVERAL},*").cover(host, 80)


@given(st.text(), st.text(), st.integers(1, 65535))
def test_no_text_breaks_the_start(no_proxy: str, host: str, port: int) -> None:
    """What cannot be read is passed over."""
    assert Exemptions(no_proxy).cover(host, port) in (True, False)


@given(st.integers(0, 2**32 - 1), st.integers(0, 32), st.integers(0, 2**32 - 1))
def test_a_block_holds_its_addresses(base: int, length: int, other: int) -> None:
    """All of them, and no others."""
    block = f"{IPv4Address(base)}/{length}"
    address = IPv4Address(other)
    expected = address in ip_network(block, strict=False) or address.is_loopback
    assert Exemptions(block).cover(str(address), 443) is expected
    assert Exemptions(block).cover(str(IPv4Address(base)), 443)


def read(environ: dict[str, str]) -> Proxies:
    """What the environment says where the settings say nothing."""
    return proxies_for(UpstreamSettings(name="up.example", urls=("https://up.example",)), environ)


def test_capitals_count_before_small_letters() -> None:
    """As in Go; an empty variable is as good as none, and the other protocol's is not taken instead."""
    environ = {"https_proxy": "small:1", "HTTPS_PROXY": "capital:2", "HTTP_PROXY": "", "http_proxy": "small:3"}
    said = read(environ)
    assert said.https and (said.https.source, said.https.url.authority) == ("HTTPS_PROXY", "capital:2")
    assert said.http and (said.http.source, said.http.url.authority) == ("http_proxy", "small:3")
    assert read({"HTTP_PROXY": "p:1"}).https is None
    assert read({"ALL_PROXY": "p:1"}).http is None


def test_the_exemptions_are_read_from_either_spelling() -> None:
    """NO_PROXY before no_proxy."""
    assert read({"no_proxy": "a.example"}).exempts("a.example", 443)
    both = read({"no_proxy": "a.example", "NO_PROXY": "b.example"})
    assert (both.exempts("a.example", 443), both.exempts("b.example", 443)) == (False, True)


def test_a_variable_is_shown_without_its_value() -> None:
    """It may hold a password."""
    assert "secret" not in repr(read({"HTTPS_PROXY": "http://me:secret@proxy.example"}))
