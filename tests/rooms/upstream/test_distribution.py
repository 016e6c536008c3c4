"""What is asked of a registry, and what its answers become."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from zope.interface.verify import verifyObject

from appliance import errors
from appliance.oci import mediatypes
from appliance.oci.digest import Digest
from appliance.oci.manifest import MAX_MANIFEST_BYTES
from appliance.upstream.http.identity import USER_AGENT
from appliance.upstream.interfaces import FetchedManifest, IBlobResponse, IUpstream, ManifestHead
from appliance.upstream.kinds.dockerhub import DockerHub
from tests.doubles.deferreds import pending
from tests.rooms.upstream.net import REGISTRY, Asked, Counting, Net, Reply, Sink, upstream

MANIFEST = b'{"schemaVersion": 2}\n'
DIGEST = Digest.of(MANIFEST)
BLOB = bytes(range(256)) * 40
BLOB_DIGEST = Digest.of(BLOB)
JSON = {"Content-Type": "application/json"}


def serving(*replies: Reply | None) -> Net:
    """A network whose registry gives these replies one after the other, the last one for ever."""
    net = Net()
    left = list(replies)
    net.servers[REGISTRY] = lambda asked: left.pop(0) if len(left) > 1 else left[0]
    return net


def oci_error(code: str, message: str = "no") -> bytes:
    return json.dumps({"errors": [{"code": code, "message": message}]}).encode()


# -- what is asked --------------------------------------------------------------------------------------------------


def test_a_manifest_is_asked_for_with_every_type_we_can_keep_and_without_encodings() -> None:
    """The registry must send the stored bytes: nothing converted for us, nothing compressed."""
    net = serving(Reply(body=MANIFEST))
    net.result(upstream(net).manifest("library/nginx", "1.27"))
    asked = net.asked[0]
    assert (asked.method, asked.url) == ("GET", "https://registry.example/v2/library/nginx/manifests/1.27")
    assert asked.one("accept") == mediatypes.ACCEPT
    assert asked.one("accept-encoding") == "identity"
    assert asked.one("user-agent") == USER_AGENT
    assert asked.one("authorization") is None


def test_a_manifest_can_be_asked_for_by_digest() -> None:
    """A reference by digest goes into the path as it is."""
    net = serving(Reply(body=MANIFEST))
    net.result(upstream(net).manifest("a/b", DIGEST))
    assert net.asked[0].target == f"/v2/a/b/manifests/{DIGEST}"


def test_a_registry_may_live_below_a_path() -> None:
    """C{url: https://host/some/path} puts its path before /v2/."""
    net = serving(Reply(body=MANIFEST))
    net.result(upstream(net, [REGISTRY + "/docker/remote/"]).manifest("a", "t"))
    assert net.asked[0].target == "/docker/remote/v2/a/manifests/t"


@pytest.mark.parametrize(
    ("start", "stop", "expected"), [(0, None, None), (5, None, "bytes=5-"), (0, 10, "bytes=0-9"), (5, 10, "bytes=5-9")]
)
def test_a_blob_is_asked_for_from_where_it_is_wanted(start: int, stop: int | None, expected: str | None) -> None:
    """No byte is asked for twice: a resumption names its offset, and the validator of what it has."""
    net = serving(Reply(206 if expected else 200, {"Content-Range": f"bytes {start}-9/100"}, b"x" * (10 - start)))
    net.result(upstream(net).blob("a", BLOB_DIGEST, start, stop, '"v1"')).abandon()
    assert net.asked[0].one("range") == expected
    assert net.asked[0].one("if-range") == ('"v1"' if expected else None)


def test_docker_hub_names_its_official_images() -> None:
    """C{nginx} at Docker Hub is C{library/nginx}; elsewhere a name is what it is."""
    net = Net()
    assert upstream(net, adapter=DockerHub()).repository("nginx") == "library/nginx"
    assert upstream(net, adapter=DockerHub()).repository("grafana/grafana") == "grafana/grafana"
    assert upstream(net).repository("nginx") == "nginx"


# -- manifests ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_a_manifest_comes_as_it_was_sent(framing: str) -> None:
    """Bit for bit and with its claimed type, however the registry frames the body."""
    net = serving(Reply(200, {"Content-Type": mediatypes.OCI_MANIFEST + "; charset=utf-8"}, MANIFEST, framing))
    fetched = net.result(upstream(net).manifest("a", "t"))
    assert fetched == FetchedManifest(MANIFEST, mediatypes.OCI_MANIFEST + "; charset=utf-8")


def test_a_manifest_of_the_largest_size_is_taken() -> None:
    """4 MiB are allowed, by the specification's word."""
    net = serving(Reply(body=b"x" * MAX_MANIFEST_BYTES))
    assert len(net.result(upstream(net).manifest("a", "t")).data) == MAX_MANIFEST_BYTES


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (Reply(body=b"x" * (5 * 1024 * 1024)), "more than 4194304 bytes"),
        (Reply(body=b"x" * (5 * 1024 * 1024), framing="chunked", stall=True), "more than 4194304 bytes"),
        (Reply(200, {"Content-Type": "text/html; charset=UTF-8"}, b"<html>Log in"), "HTML"),
        (Reply(200, {"Content-Encoding": "gzip"}, b"\x1f\x8b"), "Content-Encoding 'gzip'"),
        (Reply(200, {"Content-Encoding": "identity, ZSTD"}, b"x"), "Content-Encoding"),
        (Reply(206, {"Content-Range": "bytes 0-0/5"}, b"x"), "206"),
        (Reply(204), "204"),
        (Reply(304), "304"),
    ],
    ids=["5 MiB", "endless", "HTML", "gzip", "two encodings", "unasked part", "204", "304"],
)
def test_what_is_no_manifest_is_refused(reply: Reply, words: str) -> None:
    """A manifest of 5 MiB, an endless one, a login page, a compressed body: a clear error, nothing stored."""
    net = serving(reply)
    fault = net.fault(upstream(net).manifest("a", "t"))
    assert type(fault) is errors.UpstreamInvalid
    assert words in str(fault)
    assert fault.kind == "unavailable"


def test_an_endless_manifest_is_not_read_to_its_end() -> None:
    """The line is dropped as soon as it is too much."""
    net = serving(Reply(body=b"x" * (5 * 1024 * 1024), framing="chunked", stall=True))
    net.fault(upstream(net).manifest("a", "t"))
    assert net.wires[0].dropped


def test_an_identity_encoding_is_no_encoding() -> None:
    """Some servers say it without being asked."""
    net = serving(Reply(200, {"Content-Encoding": "identity"}, MANIFEST))
    assert net.result(upstream(net).manifest("a", "t")).data == MANIFEST


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_manifest_cut_on_its_way_is_the_lines_fault(framing: str) -> None:
    """Half a manifest is never passed on where the framing tells."""
    net = serving(Reply(200, {}, MANIFEST, framing, claim=10))
    fault = net.fault(upstream(net).manifest("a", "t"))
    assert type(fault) is errors.UpstreamUnavailable
    assert f"cut after {len(MANIFEST)} bytes" in str(fault)


def test_a_manifest_that_stops_coming_is_given_up() -> None:
    """A stalled body holds no client for ever: 30 seconds of silence end it."""
    net = serving(Reply(200, {}, MANIFEST, "chunked", stall=True))
    fetching = upstream(net).manifest("a", "t")
    net.settle()
    net.clock.pump([1.0] * 29)
    assert pending(fetching)
    net.clock.pump([1.0] * 2)
    assert type(net.fault(fetching)) is errors.UpstreamTimeout
    assert net.wires[0].dropped


# -- HEAD -----------------------------------------------------------------------------------------------------------


def test_head_tells_digest_size_and_type() -> None:
    """What a fresh check needs, without a counted pull."""
    said = {"Docker-Content-Digest": str(DIGEST), "Content-Length": "21"}
    net = serving(Reply(200, {"Content-Type": mediatypes.OCI_INDEX + "; x=y", **said}))
    assert net.result(upstream(net).head("a", "t")) == ManifestHead(DIGEST, 21, mediatypes.OCI_INDEX)
    assert net.asked[0].method == "HEAD"
    assert net.asked[0].one("accept") == mediatypes.ACCEPT


@pytest.mark.parametrize(
    "digest", ["", "sha256:abc", "sha256:" + "A" * 64, "md5:0123", "../../etc/passwd", "sha256:" + "a" * 65]
)
def test_a_digest_header_that_is_none_is_as_good_as_absent(digest: str) -> None:
    """A header never becomes a path or a key without being a digest."""
    net = serving(Reply(200, {"Docker-Content-Digest": digest, "Content-Type": "a/b", "Content-Length": "7"}))
    assert net.result(upstream(net).head("a", "t")) == ManifestHead(None, 7, "a/b")


@pytest.mark.parametrize("status", [400, 405, 406, 418, 501])
def test_a_registry_without_head_says_nothing(status: int) -> None:
    """Then the manifest itself has to be asked for; it is no failure."""
    net = serving(Reply(status))
    assert net.result(upstream(net).head("a", "t")) == ManifestHead(None, None, None)


def test_a_login_page_says_nothing_of_a_manifest() -> None:
    """A portal's 200 to HEAD is no answer of a registry."""
    net = serving(Reply(200, {"Content-Type": "text/html", "Docker-Content-Digest": str(DIGEST)}))
    assert net.result(upstream(net).head("a", "t")) == ManifestHead(None, None, None)


# -- statuses -------------------------------------------------------------------------------------------------------

STATUSES = [
    (404, oci_error("MANIFEST_UNKNOWN"), errors.UpstreamMissing, "missing"),
    (404, b"", errors.UpstreamMissing, "missing"),
    (410, b"gone", errors.UpstreamMissing, "missing"),
    (401, oci_error("UNAUTHORIZED"), errors.UpstreamDenied, "denied"),
    (403, oci_error("DENIED"), errors.UpstreamDenied, "denied"),
    (429, oci_error("TOOMANYREQUESTS"), errors.UpstreamRateLimited, "rate_limited"),
    (400, b"", errors.UpstreamInvalid, "unavailable"),
    (405, b"", errors.UpstreamInvalid, "unavailable"),
    (418, b"", errors.UpstreamInvalid, "unavailable"),
    (500, b"", errors.UpstreamUnavailable, "unavailable"),
    (502, b"<html>", errors.UpstreamUnavailable, "unavailable"),
    (503, b"", errors.UpstreamUnavailable, "unavailable"),
]


@pytest.mark.parametrize("question", ["manifest", "blob", "tags"])
@pytest.mark.parametrize(("status", "body", "expected", "kind"), STATUSES)
def test_every_refusal_has_its_own_name(
    question: str, status: int, body: bytes, expected: type[errors.UpstreamError], kind: str
) -> None:
    """What the upstream did is never hidden: the error says which answer it was, to which URL."""
    net = serving(Reply(status, {}, body))
    observer = Counting()
    asking = upstream(net, observer=observer)
    asked: dict[str, Callable[[], Deferred[Any]]] = {
        "manifest": lambda: asking.manifest("a", "t"),
        "blob": lambda: asking.blob("a", BLOB_DIGEST),
        "tags": lambda: asking.tags("a"),
    }
    fault = net.fault(asked[question]())
    assert type(fault) is expected
    assert isinstance(fault, errors.UpstreamError)
    assert fault.kind == kind
    assert f"answered {status}" in str(fault)
    assert "GET https://registry.example/v2/a/" in str(fault)
    assert observer.kinds == [kind]


@pytest.mark.parametrize(("code", "unknown"), [("NAME_UNKNOWN", True), ("MANIFEST_UNKNOWN", False)])
def test_a_whole_repository_can_be_missing(code: str, unknown: bool) -> None:
    """NAME_UNKNOWN is about the repository, not about the tag."""
    net = serving(Reply(404, {}, oci_error(code)))
    fault = net.fault(upstream(net).manifest("a", "t"))
    assert isinstance(fault, errors.UpstreamMissing)
    assert fault.repository_unknown is unknown


def test_the_upstreams_own_words_are_passed_on_cleaned() -> None:
    """Its message helps; its control characters and its length do not."""
    net = serving(Reply(403, {}, oci_error("DENIED", "pay\r\nX-Evil: 1\x1b[31m " + "x" * 5000)))
    text = str(net.fault(upstream(net).manifest("a", "t")))
    assert "DENIED: pay X-Evil: 1 [31m xxx" in text
    assert text.isprintable()
    assert len(text) < 500


def test_an_endless_error_body_does_not_hide_the_error() -> None:
    """Its first bytes are enough, and the line is dropped."""
    net = serving(Reply(403, {}, b"x" * 200_000, "chunked", stall=True))
    assert type(net.fault(upstream(net).manifest("a", "t"))) is errors.UpstreamDenied
    assert net.wires[0].dropped


def test_a_stalled_error_body_does_not_hide_the_error() -> None:
    """After the silence limit the status alone is reported."""
    net = serving(Reply(403, {}, b"x", "chunked", stall=True))
    fetching = upstream(net).manifest("a", "t")
    net.settle()
    net.clock.pump([1.0] * 31)
    assert type(net.fault(fetching)) is errors.UpstreamDenied


DATE = "Sat, 21 Nov 2026 08:00:00 GMT"


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": " 120 "}, 120.0),
        ({"Retry-After": "86400"}, 3600.0),
        ({"Retry-After": "9" * 400}, 3600.0),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "Sat, 21 Nov 2026 08:01:30 GMT", "Date": DATE}, 90.0),
        ({"Retry-After": "Sat, 21 Nov 2026 07:00:00 GMT", "Date": DATE}, 0.0),
        ({"Retry-After": "Sat, 21 Nov 2027 08:01:30 GMT", "Date": DATE}, 3600.0),
        ({"Retry-After": "Sat, 21 Nov 2026 08:01:30 GMT"}, None),
    ],
)
def test_how_long_to_wait_is_passed_on(fields: dict[str, str], seconds: float | None) -> None:
    """429 keeps its Retry-After, in seconds and at most an hour, whichever way it was said."""
    net = serving(Reply(429, dict(fields)))
    fault = net.fault(upstream(net).manifest("a", "t"))
    assert isinstance(fault, errors.UpstreamRateLimited)
    assert fault.retry_after == seconds


# -- the line -------------------------------------------------------------------------------------------------------


def test_a_host_that_does_not_exist_is_named() -> None:
    """DNS trouble is said to be that."""
    net = Net()
    fault = net.fault(upstream(net).manifest("a", "t"))
    assert type(fault) is errors.UpstreamUnavailable
    assert "GET https://registry.example/v2/a/manifests/t: the host's name cannot be resolved" in str(fault)


def test_a_refused_connection_is_unavailable() -> None:
    """So is a registry that is switched off."""
    net = Net()
    net.refusing.add(REGISTRY)
    fault = net.fault(upstream(net).manifest("a", "t"))
    assert type(fault) is errors.UpstreamUnavailable
    assert "cannot connect" in str(fault)


@pytest.mark.parametrize("hole", [True, False], ids=["no connection", "no answer"])
def test_a_black_hole_is_given_up(hole: bool) -> None:
    """Neither a host that drops our packets nor one that accepts and stays silent holds a client: 30 seconds."""
    net = serving(None)
    if hole:
        net.holes.add(REGISTRY)
    fetching = upstream(net).manifest("a", "t")
    net.settle()
    net.clock.advance(29)
    assert pending(fetching)
    net.clock.advance(1)
    fault = net.fault(fetching)
    assert type(fault) is errors.UpstreamTimeout
    assert "no answer within 30 seconds" in str(fault)
    assert all(wire.dropped for wire in net.wires)


def test_an_answer_cut_in_its_head_is_unavailable() -> None:
    """A line that goes before anything was said."""
    net = serving(None)
    fetching = upstream(net).manifest("a", "t")
    net.settle()
    net.wires[0].send(b"HTTP/1.1 200 OK\r\nContent-Le")
    net.wires[0].cut()
    assert type(net.fault(fetching)) is errors.UpstreamUnavailable


def test_an_answer_that_is_no_http_is_unavailable() -> None:
    """Some other service on that port."""
    net = serving(None)
    fetching = upstream(net).manifest("a", "t")
    net.settle()
    net.wires[0].send(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
    assert type(net.fault(fetching)) is errors.UpstreamUnavailable


def test_an_unknown_transfer_coding_is_unavailable() -> None:
    """It cannot be read, and it is not guessed at."""
    net = serving(Reply(200, {"Transfer-Encoding": "gzip"}, b"x", "close"))
    assert isinstance(net.fault(upstream(net).manifest("a", "t")), errors.UpstreamUnavailable)


@pytest.mark.parametrize("hole", [True, False], ids=["connecting", "waiting"])
def test_a_question_can_be_dropped(hole: bool) -> None:
    """Who cancels gets a cancellation, not a failure of the upstream, and the connection goes."""
    net = serving(None)
    if hole:
        net.holes.add(REGISTRY)
    observer = Counting()
    fetching = upstream(net, [REGISTRY, "https://second.example"], observer=observer).manifest("a", "t")
    net.settle()
    fetching.cancel()
    assert type(net.fault(fetching)) is CancelledError
    assert all(wire.dropped for wire in net.wires)
    assert net.timers() == []
    assert observer.kinds == []


# -- several URLs ---------------------------------------------------------------------------------------------------

SECOND = "https://second.example"


@pytest.mark.parametrize("trouble", ["refused", "500", "silent", "unknown host"])
def test_the_next_url_is_tried_when_one_is_unavailable(trouble: str) -> None:
    """A list of URLs is a list of ways to one registry."""
    net = Net()
    net.servers[SECOND] = lambda asked: Reply(body=MANIFEST)
    if trouble != "unknown host":
        net.servers[REGISTRY] = lambda asked: Reply(500) if trouble == "500" else None
    if trouble == "refused":
        net.refusing.add(REGISTRY)
    fetching = upstream(net, [REGISTRY, SECOND]).manifest("a", "t")
    net.settle()
    if trouble == "silent":
        net.clock.advance(30)
    assert net.result(fetching).data == MANIFEST


def test_an_answer_is_an_answer() -> None:
    """404 of the first URL is not argued with at the second."""
    net = Net()
    net.servers[REGISTRY] = lambda asked: Reply(404)
    net.servers[SECOND] = lambda asked: Reply(body=MANIFEST)
    assert type(net.fault(upstream(net, [REGISTRY, SECOND]).manifest("a", "t"))) is errors.UpstreamMissing


def test_when_every_url_fails_one_failure_is_counted() -> None:
    """The counter counts questions, not attempts."""
    net = Net()
    observer = Counting()
    net.fault(upstream(net, [REGISTRY, SECOND], observer=observer).manifest("a", "t"))
    assert observer.kinds == ["unavailable"]


# -- blobs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_a_blob_comes_whole(framing: str) -> None:
    """Its size is known before its bytes where the registry says it."""
    net = serving(Reply(200, {"ETag": '"v1"', "Content-Type": "text/html"}, BLOB, framing))
    observer = Counting()
    response = net.result(upstream(net, observer=observer).blob("a", BLOB_DIGEST))
    assert verifyObject(IBlobResponse, response)
    assert (response.start, response.validator) == (0, '"v1"')
    assert response.size == (len(BLOB) if framing == "length" else None)
    sink = Sink()
    net.result(response.deliver(sink))
    assert sink.data == BLOB
    assert sink.producer is None
    assert sink.streaming is True
    assert observer.octets == len(BLOB)
    assert observer.answers == [("GET", 200)]


def test_a_resumption_gets_the_rest() -> None:
    """A 206 that begins where we stopped; the size is the whole's."""
    net = serving(Reply(206, {"Content-Range": f"bytes 100-{len(BLOB) - 1}/{len(BLOB)}"}, BLOB[100:]))
    response = net.result(upstream(net).blob("a", BLOB_DIGEST, 100))
    assert (response.start, response.size) == (100, len(BLOB))
    sink = Sink()
    net.result(response.deliver(sink))
    assert sink.data == BLOB[100:]


def test_a_range_that_was_ignored_starts_at_nought() -> None:
    """A registry without ranges, or one whose blob's validator changed, sends the whole: the caller skips."""
    net = serving(Reply(200, {}, BLOB))
    response = net.result(upstream(net).blob("a", BLOB_DIGEST, 100, 200))
    assert (response.start, response.size) == (0, len(BLOB))
    response.abandon()


@pytest.mark.parametrize(
    ("status", "content_range"),
    [
        (206, "bytes 0-99/10240"),
        (206, "bytes 101-10239/10240"),
        (206, ""),
        (206, "bytes */10240"),
        (206, "bytes 100-50/10240"),
        (206, "bytes 100-20000/10240"),
        (206, "pages 100-200/10240"),
        (416, "bytes */50"),
    ],
)
def test_another_range_than_asked_for_is_refused(status: int, content_range: str) -> None:
    """Bytes of unknown place in the blob are never taken for those we lack."""
    net = serving(Reply(status, {"Content-Range": content_range}, BLOB))
    assert type(net.fault(upstream(net).blob("a", BLOB_DIGEST, 100))) is errors.RangeIgnored
    assert net.wires[0].dropped


def test_a_part_that_was_not_requested_is_refused() -> None:
    """206 to a request without Range is no whole."""
    net = serving(Reply(206, {"Content-Range": "bytes 0-9/10240"}, BLOB[:10]))
    assert type(net.fault(upstream(net).blob("a", BLOB_DIGEST))) is errors.UpstreamInvalid


@pytest.mark.parametrize("tag", ['W/"weak"', "bare", '"', "", '"é"', '"a\tb"'])
def test_only_a_strong_entity_tag_can_guard_a_resumption(tag: str) -> None:
    """RFC 9110 section 13.1.5: If-Range needs a strong comparison."""
    net = serving(Reply(200, {"ETag": tag}, BLOB))
    response = net.result(upstream(net).blob("a", BLOB_DIGEST))
    assert response.validator is None
    response.abandon()


def test_a_compressed_blob_is_refused() -> None:
    """Encoded bytes have another digest; they are neither decoded nor stored."""
    net = serving(Reply(200, {"Content-Encoding": "zstd"}, BLOB))
    assert type(net.fault(upstream(net).blob("a", BLOB_DIGEST))) is errors.UpstreamInvalid


def test_the_next_request_uses_the_same_connection() -> None:
    """Errors and redirects are read to their end so that the connection can serve again."""
    net = serving(Reply(404, {}, oci_error("BLOB_UNKNOWN")), Reply(body=MANIFEST), Reply(body=MANIFEST))
    asking = upstream(net)
    net.fault(asking.blob("a", BLOB_DIGEST))
    net.result(asking.manifest("a", "t"))
    net.result(asking.manifest("a", "t"))
    assert len(net.wires) == 1


# -- a blob's size --------------------------------------------------------------------------------------------------


def test_a_blobs_size_is_asked_for_without_its_bytes() -> None:
    """HEAD, where the registry has it."""
    net = serving(Reply(200, {"Content-Length": "123456"}))
    assert net.result(upstream(net).blob_size("a", BLOB_DIGEST)) == 123456
    assert [asked.method for asked in net.asked] == ["HEAD"]


@pytest.mark.parametrize("status", [400, 405, 501])
def test_a_registry_without_head_for_blobs_is_asked_for_one_byte(status: int) -> None:
    """The size stands in the Content-Range of a one-byte part."""

    def server(asked: Asked) -> Reply:
        if asked.method == "HEAD":
            return Reply(status)
        assert asked.one("range") == "bytes=0-0"
        return Reply(206, {"Content-Range": "bytes 0-0/777"}, b"x")

    net = Net()
    net.servers[REGISTRY] = server
    assert net.result(upstream(net).blob_size("a", BLOB_DIGEST)) == 777


def test_a_size_that_is_not_said_is_none() -> None:
    """The blob is there, its size is not."""
    net = serving(Reply(200, {"Content-Length": "many"}, framing="close"))
    assert net.result(upstream(net).blob_size("a", BLOB_DIGEST)) is None


def test_a_blob_that_is_not_there_is_missing() -> None:
    """HEAD's 404 counts."""
    net = serving(Reply(404))
    assert type(net.fault(upstream(net).blob_size("a", BLOB_DIGEST))) is errors.UpstreamMissing


def test_it_provides_the_interface() -> None:
    """Every method of IUpstream is there."""
    assert verifyObject(IUpstream, upstream(Net()))
