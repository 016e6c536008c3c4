"""What a client sees of trouble, and that no response is completed with wrong bytes."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail

from appliance import errors
from appliance.flow.body import BlobBody
from appliance.interfaces import IBlobReader
from appliance.oci.digest import Digest
from appliance.registry.app import RegistryApp
from appliance.store.memory import MemoryBlobStore, MemoryReader
from tests.wire.held import IMAGE_DIGEST, warm
from tests.wire.line import HUB, IMAGE, LARGE, LAYER, Line, Shop, blob, manifest, request

# -- trouble ---------------------------------------------------------------------------------------------------------


SECRET = 'realm="https://evil.example/token" <b>\r\nSet-Cookie: a=b'
TROUBLE = [
    (errors.UpstreamMissing(HUB, "x"), 404, "MANIFEST_UNKNOWN", "BLOB_UNKNOWN"),
    (errors.UpstreamMissing(HUB, "x", True), 404, "NAME_UNKNOWN", "NAME_UNKNOWN"),
    (errors.UpstreamDenied(HUB, SECRET), 404, "NAME_UNKNOWN", "NAME_UNKNOWN"),
    (errors.UpstreamRateLimited(HUB, "x", 7.2), 429, "TOOMANYREQUESTS", "TOOMANYREQUESTS"),
    (errors.UpstreamUnavailable(HUB, "x"), 502, "UNAVAILABLE", "UNAVAILABLE"),
    (errors.UpstreamTimeout(HUB, "x"), 504, "UNAVAILABLE", "UNAVAILABLE"),
    (errors.UpstreamInvalid(HUB, SECRET), 502, "UNAVAILABLE", "UNAVAILABLE"),
    (errors.UpstreamRefused(HUB, "x"), 502, "UNAVAILABLE", "UNAVAILABLE"),
]


@pytest.mark.parametrize(("error", "status", "manifests", "blobs"), TROUBLE, ids=lambda each: type(each).__name__)
def test_the_upstreams_trouble_is_reported_as_what_it_is(
    error: errors.UpstreamError, status: int, manifests: str, blobs: str
) -> None:
    """With nothing cached: the right status and code, the upstream named, no challenge and no header of its."""
    shop = Shop()
    shop.hub.fail(error)
    for path, code in ((manifest(), manifests), (manifest(IMAGE_DIGEST), manifests), (blob(LAYER), blobs)):
        for method in ("GET", "HEAD"):
            answer = shop.ask(method, path)
            assert answer.status == status
            assert answer["WWW-Authenticate"] is None and answer["Set-Cookie"] is None
            assert answer["Retry-After"] == ("8" if status == 429 else None)
            if method == "GET":
                assert answer.error["code"] == code
                assert answer.error["detail"] == {"upstream": HUB, "fault": error.kind}


def test_too_many_requests_always_says_when_to_come_back() -> None:
    """containerd would otherwise ask five times at once."""
    shop = Shop()
    shop.hub.fail(errors.UpstreamRateLimited(HUB, "x"))
    assert shop.get(manifest())["Retry-After"] == "60"


def test_a_stale_answer_says_so_in_words_that_break_nothing() -> None:
    """Warning 299 in one quoted string, whatever the upstream wrote; Cache-Status says why."""
    shop = warm()
    shop.clock.advance(100.0)
    shop.hub.fail(errors.UpstreamUnavailable(HUB, 'a "quote" \\ \r\nX-Evil: 1 \x00 \u00fc ' + "x" * 5000))
    for path in (manifest(), "/v2/app/tags/list"):
        answer = shop.get(path)
        warning = answer["Warning"]
        assert answer.status == 200 and answer["X-Evil"] is None
        assert warning is not None and warning.startswith('299 - "stale: ') and warning.endswith('"')
        assert warning.count('"') == 2 and "\\" not in warning and warning.isprintable() and len(warning) < 4096
        assert answer["Cache-Status"] == "pullcache; hit; detail=stale-unavailable"


def test_everything_held_is_served_with_the_upstream_gone_and_after_a_restart() -> None:
    """Tag, digest, blobs, list: 200, and offline without one question."""
    shop = warm()
    shop.get("/v2/app/tags/list")
    shop.clock.advance(1e6)
    shop.hub.fail(errors.UpstreamUnavailable(HUB, "gone"))
    paths = [manifest(), manifest("multi"), manifest(IMAGE_DIGEST), blob(LAYER), blob(LARGE), "/v2/app/tags/list"]
    for each in (shop, Shop(before=shop)):
        assert [each.get(path).status for path in paths] == [200] * len(paths)
    shop.hub.calls.clear()
    offline = Shop(before=shop, offline=True)
    assert [offline.get(path).status for path in paths] == [200] * len(paths)
    missing = offline.get(manifest("other"))
    assert (missing.status, missing.error["code"]) == (404, "MANIFEST_UNKNOWN")
    assert offline.get(blob(b"other")).error["code"] == "BLOB_UNKNOWN"
    assert shop.hub.calls == []


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("prefix", ["", "library/", "docker.io/", "index.docker.io/library/"])
@pytest.mark.parametrize(
    "rest",
    [f"manifests/{IMAGE_DIGEST}", "manifests/latest", "blobs/" + str(Digest.of(LAYER)), "tags/list"]
    + [f"referrers/{IMAGE_DIGEST}"],
)
def test_what_may_not_be_pulled_is_denied(rest: str, prefix: str, method: str) -> None:
    """403, and no upstream is asked; by every name of it, and though all of it is held."""
    before = Shop()
    for held in (manifest(), manifest(IMAGE_DIGEST), blob(LAYER), "/v2/app/tags/list"):
        assert before.get(held).status == 200
    for shop in (Shop(deny=("library/app",)), Shop(before=before, deny=("library/app",))):
        shop.hub.calls.clear()
        answer = shop.ask(method, f"/v2/{prefix}app/{rest}")
        assert (answer.status, shop.calls()) == (403, 0)
        assert method == "HEAD" or answer.error["code"] == "DENIED"


# -- cut off ---------------------------------------------------------------------------------------------------------


def cold_line() -> tuple[Shop, Line]:
    """A client that has begun to read a cold blob."""
    shop = Shop()
    shop.get(manifest())
    shop.hub.by_hand = True
    line = Line(shop.listener)
    line.send(request("GET", blob(LARGE)))
    return shop, line


def test_a_cold_blob_is_streamed_as_it_comes() -> None:
    """Headers at once, every byte as it arrives, the last one when all are known to be right."""
    shop, line = cold_line()
    head = line.received()
    assert head.startswith(b"HTTP/1.1 200 ") and head.endswith(b"\r\n\r\n")
    shop.hub.bodies[0].feed(1000)
    assert line.received() == LARGE[:1000]
    shop.hub.bodies[0].feed(len(LARGE) - 1000)
    assert line.received() == LARGE[1000:-1]
    shop.hub.bodies[0].end()
    assert line.received() == LARGE[-1:]
    assert line.ask("GET", "/v2/").status == 200


def test_wrong_bytes_cut_the_connection_and_are_never_completed() -> None:
    """Promised and not kept: abort, no error body, and no other response after the cut."""
    shop, line = cold_line()
    line.received()
    shop.hub.bodies[0].feed(b"x" * 1000)
    line.send(request("GET", "/v2/"))
    shop.hub.bodies[0].feed(len(LARGE))
    assert line.aborted
    sent = line.received()
    assert len(sent) < len(LARGE) and b"HTTP/1.1" not in sent


def test_the_connection_of_a_failed_flight_is_cut_in_every_reader() -> None:
    """Ten readers, one upstream that gives up: ten aborted connections, none finished."""
    shop, line = cold_line()
    lines = [line] + [Line(shop.listener).send(request("GET", blob(LARGE))) for _ in range(9)]
    shop.hub.bodies[0].feed(1000)
    shop.hub.fail(errors.UpstreamDenied(HUB, "no more"))
    shop.hub.bodies[0].cut()
    shop.clock.advance(1.0)
    assert all(each.aborted for each in lines)
    assert len(shop.hub.asked("blob")) == 2


def test_the_first_client_leaves_and_the_second_gets_everything() -> None:
    """At ten per cent; the upstream was asked once."""
    shop, first = cold_line()
    second = Line(shop.listener).send(request("GET", blob(LARGE)))
    shop.hub.bodies[0].feed(len(LARGE) // 10)
    first.lose()
    shop.hub.bodies[0].complete()
    assert second.answers("GET")[0].body == LARGE
    assert len(shop.hub.asked("blob")) == 1


class CutReader(MemoryReader):
    """Of bytes whose end was lost after their size was read."""

    def read(self, start: int, stop: int) -> Deferred[bytes]:
        return super().read(min(start, 100), min(stop, 100))


class CutStore(MemoryBlobStore):
    """Every blob has lost its end."""

    def open(self, digest: Digest) -> IBlobReader:
        return CutReader(self._blobs[digest])


@pytest.mark.parametrize("data", [LAYER, LARGE], ids=["small", "large"])
def test_a_file_that_lost_its_end_cuts_the_connection(data: bytes, logged_errors: list[dict[str, Any]]) -> None:
    """The disk has less than was promised: no response of a wrong length, neither now nor from the hot lane."""
    shop = warm()
    store = CutStore()
    store._blobs = shop.cache.store._blobs
    again = Shop(before=shop, store=store)
    for _ in range(2):
        line = Line(again.listener).send(request("GET", blob(data)))
        head, _, body = line.received().partition(b"\r\n\r\n")
        if data is LARGE:
            assert line.aborted and head.startswith(b"HTTP/1.1 200 ") and body == data[:100]
        else:
            assert head.startswith(b"HTTP/1.1 500 ") and b"has lost its end on disk" in body
    logged_errors.clear()


def test_a_mistake_of_ours_in_the_middle_of_a_body_cuts_the_connection(
    logged_errors: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error document would be taken for the blob's bytes; it is logged."""
    shop = warm()
    monkeypatch.setattr(BlobBody, "send", lambda body: fail(ValueError("a detail for the log")))
    line = Line(shop.listener).send(request("GET", blob(LARGE)))
    head, _, body = line.received().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ") and body == b""
    assert line.aborted
    assert [str(event["log_failure"].value) for event in logged_errors] == ["a detail for the log"]
    logged_errors.clear()


@pytest.mark.parametrize("error", [ZeroDivisionError(), CancelledError()], ids=["a mistake", "given up elsewhere"])
def test_nobody_waits_for_an_answer_that_cannot_be_made(
    error: Exception, monkeypatch: pytest.MonkeyPatch, logged_errors: list[dict[str, Any]]
) -> None:
    """Where an error cannot be answered either, the connection is broken off, at once, and the next is served."""

    def failing(*_: object) -> None:
        raise error

    shop = Shop()
    with monkeypatch.context() as patched:
        patched.setattr(RegistryApp, "respond", failing)
        patched.setattr(RegistryApp, "refuse", failing)
        shop.line.send(request("GET", "/v2/"))
    assert shop.line.aborted and shop.line.received() == b""
    assert [each["log_failure"].value for each in logged_errors] == [error]
    logged_errors.clear()
    shop.line.lose()
    assert [told[4] for told in shop.accounts.told] == ["other"]
    assert shop.get("/v2/").status == 200


def test_a_client_that_leaves_while_it_waits_is_no_error(logged_errors: list[dict[str, Any]]) -> None:
    """Nothing is logged of it but its line, and nothing waits for it any more."""
    shop = Shop()
    shop.hub.hang("head")
    shop.line.send(request("GET", manifest()))
    shop.line.lose()
    assert not shop.line.aborted and logged_errors == [] and len(shop.accounts.told) == 1


def test_a_manifest_that_is_damaged_on_disk_is_not_served(logged_errors: list[dict[str, Any]]) -> None:
    """After a restart, by tag and by digest: none of its bytes, but those of the upstream; offline 404, and a want."""
    for reference in ("latest", IMAGE_DIGEST):
        shop = warm()
        shop.cache.store._blobs[Digest.of(IMAGE)] = IMAGE[:-1] + b" "
        offline = Shop(before=shop, offline=True)
        answer = offline.get(manifest(reference))
        assert (answer.status, answer.error["code"]) == (404, "MANIFEST_UNKNOWN")
        assert IMAGE_DIGEST in [want.reference for want in offline.cache.services.wants.snapshot()]
        answer = Shop(before=shop).get(manifest(reference))
        assert (answer.status, answer.body) == (200, IMAGE)
    logged_errors.clear()


class Scratched(MemoryBlobStore):
    """A store on a disk that has lost the end of what is damaged: reading it there fails."""

    def open(self, digest: Digest) -> IBlobReader:
        data = self._blobs[digest]
        return super().open(digest) if digest.matches(data) else ScratchedReader(data)


class ScratchedReader(MemoryReader):
    """See L{Scratched}."""

    def read(self, start: int, stop: int) -> Deferred[bytes]:
        return super().read(start, min(stop, 100)) if start < 100 else fail(OSError(5, "Input/output error"))


def test_a_blob_that_cannot_be_read_is_whole_for_the_next_client(logged_errors: list[dict[str, Any]]) -> None:
    """The first one is cut off: it was promised bytes that are not there. The next one gets all of them, and a hit."""
    shop = warm()
    store = Scratched()
    store._blobs = shop.cache.store._blobs
    store._blobs[Digest.of(LARGE)] = bytes(len(LARGE))
    again = Shop(before=shop, store=store)
    line = Line(again.listener).send(request("GET", blob(LARGE)))
    assert len(line.received()) < len(LARGE) and line.aborted
    answer = again.get(blob(LARGE))
    assert (answer.body, answer["Cache-Status"]) == (LARGE, "pullcache; hit")
    logged_errors.clear()


def test_a_small_blob_is_never_served_damaged(logged_errors: list[dict[str, Any]]) -> None:
    """A config goes through memory, where it would stay: it is looked at, and the same client gets the right one."""
    shop = warm()
    shop.cache.store._blobs[Digest.of(LAYER)] = bytes(len(LAYER))
    again = Shop(before=shop)
    for _ in range(2):
        assert again.get(blob(LAYER)).body == LAYER
    shop.cache.store._blobs[Digest.of(LAYER)] = bytes(len(LAYER))
    assert Shop(before=shop, offline=True).get(blob(LAYER)).status == 404
    logged_errors.clear()


def test_clients_see_no_path_no_proxy_and_no_address_of_ours() -> None:
    """Neither in an error nor in a Warning, from the hot lane neither; the fault itself is named."""
    secrets = ("squid.corp", "/etc/pullcache", "10.0.0.7")
    detail = "proxy http://squid.corp:3128: 10.0.0.7: the token from /etc/pullcache/t is refused"
    fault = errors.UpstreamDenied("docker.io", detail)
    shop = Shop()
    shop.get(manifest())
    shop.clock.advance(100.0)
    shop.hub.fail(fault)
    for path in (manifest(), manifest("v1"), blob(LARGE), "/v2/app/tags/list", f"/v2/app/referrers/{Digest.of(IMAGE)}"):
        for _ in range(2):
            answer = shop.get(path)
            assert not any(secret.encode() in answer.raw for secret in secrets), answer.raw
    warning = shop.get(manifest())["Warning"]
    assert warning == '299 - "stale: docker.io: the proxy: [private address]: the token from [file] is refused"'
