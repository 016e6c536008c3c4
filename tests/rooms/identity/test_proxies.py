"""Who the client is behind balancers: what they say counts, what anybody else says does not."""

from __future__ import annotations

from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.errors import RequestInvalid
from appliance.identity.proxies import is_loopback, origin, plain_address, was_encrypted

PROXIES = (ip_network("10.0.0.0/24"), ip_network("2001:db8::/64"))
OUTSIDE = "192.0.2.7"


@pytest.mark.parametrize(
    ("peer", "said", "client"),
    [
        ("10.0.0.1", [OUTSIDE], OUTSIDE),
        ("10.0.0.1", [f"{OUTSIDE}:4711"], OUTSIDE),
        ("10.0.0.1", ["[2001:db9::7]:4711"], "2001:db9::7"),
        ("10.0.0.1", ["2001:db9::7"], "2001:db9::7"),
        ("2001:db8::1", [OUTSIDE], OUTSIDE),
        ("::ffff:10.0.0.1", [f"::ffff:{OUTSIDE}"], OUTSIDE),
        # Two proxies: each appended where it was connected from.
        ("10.0.0.1", [f"{OUTSIDE}, 10.0.0.2"], OUTSIDE),
        ("10.0.0.1", [OUTSIDE, "10.0.0.2"], OUTSIDE),
        # The balancer itself asks, to see whether we are alive.
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["10.0.0.9"], "10.0.0.9"),
    ],
)
def test_a_trusted_proxy_says_who_its_client_is(peer: str, said: list[str], client: str) -> None:
    """However it writes the address."""
    assert origin(peer, said, PROXIES) == client


@pytest.mark.parametrize("forged", ["10.9.9.9", "127.0.0.1", "nonsense", "10.0.0.1, 10.0.0.1", ""])
def test_what_a_client_wrote_itself_is_not_looked_at(forged: str) -> None:
    """Neither sent to us at once, nor through a proxy, which appends the truth to it."""
    assert origin(OUTSIDE, [forged], PROXIES) == OUTSIDE
    assert origin("10.0.0.1", [f"{forged}, {OUTSIDE}"], PROXIES) == OUTSIDE
    assert origin("10.0.0.1", [forged, OUTSIDE], PROXIES) == OUTSIDE
    assert origin("10.0.0.1", [forged], ()) == "10.0.0.1"


@pytest.mark.parametrize("said", ["unknown", "", "10.0.0.2, ", "10.0.0.300", "_hidden"])
def test_a_proxy_that_writes_nonsense_is_told(said: str) -> None:
    """Its client is neither taken for the proxy nor for anybody else."""
    with pytest.raises(RequestInvalid, match=r"the proxy 10\.0\.0\."):
        origin("10.0.0.1", [said], PROXIES)


@given(st.lists(st.ip_addresses().map(str) | st.text(max_size=20)), st.ip_addresses(v=4))
def test_nothing_that_is_sent_makes_an_outsider_somebody_else(said: list[str], peer: object) -> None:
    """Who is not trusted is what it is connected from."""
    if not any(peer in network for network in PROXIES):
        assert origin(str(peer), said, PROXIES) == str(peer)


def test_tls_to_the_balancer_is_what_all_proxies_say() -> None:
    """One that was reached in the clear is enough for no."""
    assert was_encrypted([]) is None
    assert was_encrypted(["https"]) is True
    assert was_encrypted(["HTTPS, https"]) is True
    assert was_encrypted(["https", "http"]) is False
    assert was_encrypted([""]) is False


def test_an_address_has_one_form() -> None:
    """IPv4 over an IPv6 socket is IPv4; what is no address stays."""
    assert plain_address("::ffff:10.0.0.1") == "10.0.0.1"
    assert plain_address("fe80::1%eth0") == "fe80::1"
    assert plain_address("-") == "-"
    assert is_loopback("127.9.9.9") and is_loopback("::1") and is_loopback("::ffff:127.0.0.1")
    assert not is_loopback("10.0.0.1") and not is_loopback("-")
