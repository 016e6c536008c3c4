"""What a browser may make of the registry's responses: nothing; and what its pages may ask for: neither."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import succeed
from twisted.internet.testing import StringTransport

from appliance.config import parse
from appliance.errors import UpstreamUnavailable
from appliance.oci.digest import Digest
from appliance.registry.login import Peer
from appliance.settings import ListenSettings
from appliance.store.memory import MemoryReader
from tests.wire.line import IMAGE, LARGE, LAYER, Answer, Fields, Line, Shop, blob, manifest, request

HERE = Peer(StringTransport())
POLICY = "default-src 'none'; sandbox"
SUBJECT = f"/v2/app/referrers/{Digest.of(IMAGE)}"

#: What came from an upstream, each with a status that a browser may show.
FOREIGN: list[tuple[str, Fields, int]] = [
    (manifest(), (), 200),
    (manifest(Digest.of(IMAGE)), (), 200),
    (blob(LAYER), (), 200),
    (blob(LARGE), (), 200),
    (blob(LAYER), [("Range", "bytes=0-9")], 206),
    (blob(LAYER), [("Range", "bytes=0-9,20-29")], 206),
    ("/v2/app/tags/list", (), 200),
    (SUBJECT, (), 200),
]

#: What we say ourselves.
OWN: list[tuple[str, Fields, int]] = [
    ("/v2/", (), 200),
    (manifest("absent"), (), 404),
    (manifest("-bad"), (), 400),
    ("/v2/none.test/a/manifests/b", (), 404),
    (blob(LAYER), [("Range", "bytes=99999999-")], 416),
    ("/nothing", (), 404),
]


def protected(answer: Answer) -> bool:
    return answer["Content-Security-Policy"] == POLICY and answer["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(("path", "fields", "status"), FOREIGN + OWN)
def test_every_response_forbids_a_browser_to_make_anything_of_it(
    method: str, path: str, fields: Fields, status: int
) -> None:
    """Nothing an image holds is run or loaded in the cache's origin; what an upstream sent is saved, not shown."""
    answer = Shop().ask(method, path, fields)
    assert protected(answer), answer.raw[:400]
    # HEAD has no ranges (RFC 9110 section 14.2).
    assert answer.status == (status if method == "GET" or status in (200, 400, 404) else 200)
    from_outside = answer.status < 400 and path != "/v2/"
    assert answer["Content-Disposition"] == ("attachment" if from_outside else None)


def test_what_is_not_modified_is_protected_as_well() -> None:
    """A browser takes the fields of a 304 over to what it has stored."""
    shop = Shop()
    for path in (manifest(), blob(LAYER)):
        etag = shop.get(path)["ETag"]
        assert etag is not None
        answer = shop.get(path, ("If-None-Match", etag))
        assert answer.status == 304 and protected(answer) and answer["Content-Disposition"] == "attachment"


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE", "OPTIONS", "TRACE"])
def test_refused_methods_are_protected_as_well(method: str) -> None:
    """With a body or without, and asked of the server as a whole."""
    assert protected(Shop().ask(method, manifest()))
    line = Line(Shop().listener).send(request(method, manifest(), [("Content-Length", "99999999")]))
    assert protected(line.answers(method)[0])
    answer = Shop().ask(method, "*")
    assert protected(answer) and answer.status == 405


@pytest.mark.parametrize("data", [b"NONSENSE\r\n\r\n", b"GET /v2/ HTTP/1.1\r\nContent-Length: x\r\n\r\n"])
def test_what_is_not_http_gets_a_protected_answer(data: bytes) -> None:
    """The channel's own refusals bypass all routes."""
    assert protected(Line(Shop().listener).send(data).answers("GET")[0])


def test_an_error_is_no_attachment(monkeypatch: pytest.MonkeyPatch, logged_errors: list[dict[str, Any]]) -> None:
    """A user who opens an address in a browser reads why; also where a blob was promised a moment before."""
    shop = Shop()
    shop.get(blob(LAYER)), shop.listener.forget_answers()
    monkeypatch.setattr(MemoryReader, "read", lambda *_: succeed(b""))
    shop.ghcr.fail(UpstreamUnavailable("ghcr.io", "down"))
    for path in (blob(LAYER), blob(LAYER, "ghcr.io/team/app")):
        answer = shop.get(path)
        assert answer.status >= 500 and protected(answer) and answer["Content-Disposition"] is None
    assert len(logged_errors) == 1
    logged_errors.clear()


# -- pages ----------------------------------------------------------------------------------------------------------

PAGES: list[Fields] = [
    [("Origin", "http://evil.example")],
    [("Origin", "null")],
    [("Referer", "http://evil.example/page")],
    [("Sec-Fetch-Site", "cross-site")],
    [("sec-fetch-site", "same-site"), ("Sec-Fetch-Mode", "no-cors")],
]


@pytest.mark.parametrize("fields", PAGES)
@pytest.mark.parametrize("path", ["/v2/", manifest(), manifest("v2"), blob(LAYER), "/v2/app/tags/list", "/nothing"])
def test_a_page_of_another_origin_gets_nothing(path: str, fields: Fields) -> None:
    """Neither does it make us pull, nor learn what we hold, whether the answer is prepared or not."""
    shop = Shop()
    shop.get(path), shop.get(path)
    asked = shop.calls()
    for method in ("GET", "HEAD"):
        answer = shop.ask(method, path, fields)
        assert answer.status == 403 and protected(answer)
        assert method == "HEAD" or answer.error["code"] == "DENIED"
    assert shop.ask("OPTIONS", path, fields).status == 403
    assert shop.calls() == asked


def test_an_address_typed_by_hand_is_answered() -> None:
    """No page of another origin sent it; a page of our own may, too."""
    shop = Shop()
    for fields in ([("Sec-Fetch-Site", "none")], [("Origin", "http://cache.test"), ("Sec-Fetch-Site", "same-origin")]):
        assert shop.ask("GET", manifest(), fields).status == 200


@pytest.mark.parametrize(
    "host",
    [b"a..b", b"a b", b"\xff\xfe", b"a" * 300, b"x:y", b"a/b", b"[::1", b"a\r\nHost: a", b"a\r\nX: y\r\nhOST: b"],
)
def test_a_host_that_is_none_is_refused(host: bytes) -> None:
    """400 as OCI JSON, whether the answer is prepared or not, and no traceback in the log; two are none either."""
    shop = Shop()
    for path in ("/v2/", manifest(), blob(LAYER)):
        shop.get(path), shop.get(path)
        for head in (b"Accept: */*\r\n", b""):
            data = b"GET %b HTTP/1.1\r\n%bHost: %b\r\n\r\n" % (path.encode(), head, host)
            answer = Line(shop.listener).send(data).answers("GET")[0]
            assert (answer.status, answer.error["code"]) == (400, "UNSUPPORTED")


@pytest.mark.parametrize("host", ["cache", "cache:", "cache.test:5000", "[fd00::1]:5000", "[::1]", "10.0.0.5:80", ""])
def test_prepared_answers_are_given_by_whatever_name_is_used(host: str) -> None:
    """A listener without names is as hot for one as for another; a port may be empty (RFC 3986 section 3.2.3)."""
    shop = Shop()
    first = [status(shop, raw(manifest(), host)) for _ in range(2)]
    assert first == [200, 200]
    data = raw(manifest(), host)
    assert shop.listener._lane.serve(Line(shop.listener).transport, data, HERE) == (len(data) if host else 0)


def test_made_up_names_do_not_cool_it() -> None:
    """However many there were: what is remembered of them is bounded, and the next one is served all the same."""
    shop = Shop()
    shop.get(manifest()), shop.get(manifest())
    lane = shop.listener._lane
    for number in range(300):
        assert lane.serve(Line(shop.listener).transport, raw(manifest(), f"n{number}.example"), HERE)
    assert len(lane._hosts_known) <= 64


# -- names ----------------------------------------------------------------------------------------------------------


def raw(path: str, *hosts: str, version: str = "HTTP/1.1") -> bytes:
    """A request with these values of Host."""
    lines = [f"GET {path} {version}", *(f"hOsT: {host}" for host in hosts)]
    return "\r\n".join([*lines, "", ""]).encode()


def named(*hosts: str) -> Shop:
    """A shop whose listener goes by these names, with everything held and prepared."""
    shop = Shop()
    shop.listen = ListenSettings(default_upstream=shop.listen.default_upstream, hosts=hosts)
    shop.listener.configure(shop.settings, shop.listen)
    return shop


def status(shop: Shop, data: bytes) -> int:
    line = Line(shop.listener).send(data)
    answer = line.answers("GET")[0]
    assert protected(answer)
    if answer.status != 200:
        assert "hosts" in answer.error["message"] or answer.status == 400
    return answer.status


NAMES = ["cache.example", "cache.example:5000", "CACHE.example.", "a.site.example", "[fd00::1]:5000"]
OTHERS = ["evil.example", "site.example", "10.0.0.5", "localhost", "cache.example.evil", "[fd00::2]"]


def test_a_listener_that_has_names_answers_to_no_other() -> None:
    """A page whose own name was made to mean our address sees nothing, whether the answer is prepared or not."""
    shop = named("cache.example", "*.site.example", "[fd00::1]")
    for path in (manifest(), blob(LAYER), "/v2/"):
        for _ in range(3):
            assert [status(shop, raw(path, name)) for name in NAMES] == [200] * len(NAMES)
            assert [status(shop, raw(path, name)) for name in OTHERS] == [421] * len(OTHERS)
        assert status(shop, raw(path)) == 421
        assert status(shop, raw(path, version="HTTP/1.0")) == 421
        assert status(shop, raw(path, "cache.example", "evil.example")) == 400
        assert status(shop, raw(path, "cache.example", "cache.example")) == 400


def test_prepared_answers_are_given_to_its_names() -> None:
    """The hot lane looks at the name, and is as hot as ever."""
    shop = named("cache.example")
    status(shop, raw(manifest(), "cache.example")), status(shop, raw(manifest(), "cache.example"))
    lane = shop.listener._lane
    transport = Line(shop.listener).transport
    assert lane.serve(transport, raw(manifest(), "cache.example:5000"), HERE)
    assert not lane.serve(transport, raw(manifest(), "evil.example"), HERE)
    assert not lane.serve(transport, raw(manifest(), "cache.example", "evil.example"), HERE)
    assert not lane.serve(transport, raw(manifest(), "a..b"), HERE)


def test_other_names_are_configured_while_it_runs() -> None:
    """SIGHUP: the new ones count from the next request on."""
    shop = named("cache.example")
    assert status(shop, raw(manifest(), "cache.example")) == status(shop, raw(manifest(), "cache.example")) == 200
    shop.listener.configure(shop.settings, ListenSettings(default_upstream="docker.io", hosts=("new.example",)))
    assert (status(shop, raw(manifest(), "cache.example")), status(shop, raw(manifest(), "new.example"))) == (421, 200)
    shop.listener.configure(shop.settings, ListenSettings(default_upstream="docker.io"))
    assert status(shop, raw(manifest(), "anything.example")) == 200


def test_the_names_are_those_of_the_configuration() -> None:
    """One spelling for each; each listener has its own."""
    found = parse("listen: [{endpoint: 'tcp:1', hosts: [Cache.Example, '*.b.example', '[FD00::0:1]']}]", "x")
    shop = named(*found.listen[0].hosts)
    assert status(shop, raw("/v2/", "cache.example")) == status(shop, raw("/v2/", "[fd00::1]:1")) == 200
