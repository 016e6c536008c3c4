"""URLs: read strictly, joined by the RFC, their targets untouched."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.upstream.url import Url


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("https://a.example", ("https", "a.example", 443, "/")),
        ("http://A.Example/x/", ("http", "a.example", 80, "/x/")),
        ("https://a:5000/x?y=%2f&z==#f", ("https", "a", 5000, "/x?y=%2f&z==")),
        ("https://a?y", ("https", "a", 443, "/?y")),
        ("https://[FD00::1]:5000/", ("https", "fd00::1", 5000, "/")),
        ("https://my_registry:5000", ("https", "my_registry", 5000, "/")),
        ("https://10.0.0.1", ("https", "10.0.0.1", 443, "/")),
    ],
)
def test_a_url_is_taken_apart(text: str, parts: tuple[str, str, int, str]) -> None:
    """Scheme and host in lower case, the port always there, the target as it is."""
    url = Url.parse(text)
    assert (url.scheme, url.host, url.port, url.target) == parts


@pytest.mark.parametrize(
    "text",
    [
        "", "a", "/a", "//a/b", "ftp://a/", "https:/a", "https://", "https:///x", "https://user@a/", "https://u:p@a/",
        "https://a:0/", "https://a:65536/", "https://a:x/", "https://a:/", "https://[::1/", "https://[v1.x]/",
        "https://[fe80::1%25eth0]/", "https://a%2eb/", "https://a..b/", "https://.a/", "https://-a/",
        "https://a b/", "https://a/\r\nx", "https://a/ü", "https://ü/", "https://a\\@b/", "https://a\\b/",
        "https://" + "a" * 64 + "/", "https://" + "a." * 127 + "a/", " https://a/", "javascript:x",
    ],
)  # fmt: skip
def test_what_two_parsers_could_read_differently_is_no_url(text: str) -> None:
    """A check of one host must never become a request to another."""
    with pytest.raises(ValueError):
        Url.parse(text)


BASE = "http://a/b/c/d;p?q"


@pytest.mark.parametrize(
    ("reference", "meant"),
    [
        # RFC 3986 section 5.4, what applies here.
        ("g", "http://a/b/c/g"), ("./g", "http://a/b/c/g"), ("g/", "http://a/b/c/g/"), ("/g", "http://a/g"),
        ("//g", "http://g/"), ("?y", "http://a/b/c/d;p?y"), ("g?y", "http://a/b/c/g?y"), ("#s", "http://a/b/c/d;p?q"),
        ("g#s", "http://a/b/c/g"), ("g?y#s", "http://a/b/c/g?y"), (";x", "http://a/b/c/;x"), ("", "http://a/b/c/d;p?q"),
        (".", "http://a/b/c/"), ("./", "http://a/b/c/"), ("..", "http://a/b/"), ("../", "http://a/b/"),
        ("../g", "http://a/b/g"), ("../..", "http://a/"), ("../../g", "http://a/g"), ("../../../g", "http://a/g"),
        ("g/./h", "http://a/b/c/g/h"), ("g/../h", "http://a/b/c/h"), ("g?y/../x", "http://a/b/c/g?y/../x"),
        ("https://z:1/x", "https://z:1/x"),
    ],
)  # fmt: skip
def test_a_reference_means_what_the_rfc_says(reference: str, meant: str) -> None:
    """The examples of RFC 3986 section 5.4."""
    assert bytes(Url.parse(BASE).join(reference)) == meant.encode()


def test_what_is_shown_has_no_query() -> None:
    """The query of a signed URL is a secret."""
    url = Url.parse("https://a:8443/x/y?sig=secret")
    assert url.shown == "https://a:8443/x/y"
    assert "secret" not in repr(url)
    with pytest.raises(ValueError) as caught:
        Url.parse("ftp://user:secret@a/x?sig=secret")
    assert "secret" not in str(caught.value)


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="#"), max_size=60))
def test_a_target_is_kept_byte_for_byte(text: str) -> None:
    """Decoding and encoding again breaks signatures."""
    assert bytes(Url.parse("https://a/" + text)) == b"https://a/" + text.encode()
    assert bytes(Url.parse("https://b/").join("https://a/" + text)) == b"https://a/" + text.encode()


@given(st.text(max_size=40))
def test_no_reference_breaks_out_of_its_url(text: str) -> None:
    """It is refused, or it is a URL that can go onto the wire."""
    try:
        url = Url.parse("https://a/b/").join(text)
    except ValueError:
        return
    assert bytes(url).isascii() and b" " not in bytes(url) and url.target.startswith("/")
