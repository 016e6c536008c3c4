"""The hosts that settings name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.upstream.http.addresses import HostPatterns
from appliance.upstream.url import Url

TABLE = [
    ("auth.example", "https://auth.example", True),
    ("auth.example", "https://auth.example:8443", True),
    ("auth.example", "http://AUTH.example", True),
    ("Auth.Example", "https://auth.example", True),
    ("auth.example", "https://auth.example./", True),
    ("auth.example", "https://x.auth.example", False),
    ("auth.example", "https://xauth.example", False),
    ("auth.example", "https://auth.example.evil.test", False),
    ("auth.example:8443", "https://auth.example:8443", True),
    ("auth.example:8443", "https://auth.example", False),
    ("auth.example:443", "https://auth.example", True),
    ("*.cdn.example", "https://a.cdn.example", True),
    ("*.cdn.example", "https://a.b.cdn.example:99", True),
    ("*.cdn.example", "https://cdn.example", False),
    ("*.cdn.example", "https://xcdn.example", False),
    ("*.cdn.example:99", "https://a.cdn.example", False),
    ("*.cdn.example:99", "https://a.cdn.example:99", True),
    ("10.0.0.1", "https://10.0.0.1", True),
    ("*.0.0.1", "https://10.0.0.1", False),
    ("*.0.1", "https://10.0.1", False),
    ("[::1]", "https://[::1]:5000", True),
    ("[0:0::0001]:5000", "https://[::1]:5000", True),
    ("[::1]:5000", "https://[::1]", False),
]


@pytest.mark.parametrize(("pattern", "url", "covered"), TABLE)
def test_a_pattern_covers_what_it_says(pattern: str, url: str, covered: bool) -> None:
    """A host with or without a port, the subdomains of a domain; never what merely looks like them."""
    assert HostPatterns(("other.example", pattern)).covers(Url.parse(url)) is covered


def test_no_pattern_covers_nothing() -> None:
    """A list without entries names no host."""
    assert not HostPatterns(()).covers(Url.parse("https://auth.example"))


@pytest.mark.parametrize(
    "pattern",
    ["", "*", "*.", "a b", "https://a.example", "a.example/", "user@a.example", "::1", "*.[::1]", "a.*.example",
     "a.example:0", "a.example:99999", "a..example", "[::g]", "*.*.example", ".example"],
)  # fmt: skip
def test_what_is_no_pattern_is_refused_by_name(pattern: str) -> None:
    """A slip in the settings is an error, and not taken for a host that never comes."""
    with pytest.raises(ValueError, match="is no host") as caught:
        HostPatterns((pattern,))
    assert repr(pattern) in str(caught.value)


LABEL = st.from_regex(r"[a-z][a-z0-9-]{0,8}[a-z0-9]", fullmatch=True)
NAME = st.lists(LABEL, min_size=1, max_size=4).map(".".join)


@given(NAME, NAME, st.integers(1, 65535))
def test_a_subdomain_is_covered_by_its_domain_alone(name: str, domain: str, port: int) -> None:
    """Whatever the names."""
    below, itself = Url("https", f"{name}.{domain}", port, "/"), Url("https", domain, port, "/")
    assert HostPatterns((f"*.{domain}",)).covers(below)
    assert not HostPatterns((f"*.{domain}",)).covers(itself)
    assert HostPatterns((f"{domain}:{port}",)).covers(itself)
    assert HostPatterns((domain,)).covers(itself)
    assert not HostPatterns((domain,)).covers(below)
