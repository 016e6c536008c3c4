"""The simulated registry answers like a registry, and every fault does what its name says."""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import dataclass

import pytest
from treq.testing import RequestTraversalAgent
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.client import PartialDownloadError, ResponseFailed, readBody
from twisted.web.http_headers import Headers
from twisted.web.iweb import IResponse

from tests.doubles import faults, images
from tests.doubles.auth import BasicAuth, BearerAuth
from tests.doubles.registry import Registry

EVERY_TYPE = f"{images.OCI.manifest}, {images.OCI.index}, {images.DOCKER.manifest}, {images.DOCKER.index}"


@dataclass
class Got:
    """A response as a client of L{Lab} got it; C{failure} where the body broke off."""

    status: int
    headers: Headers
    body: bytes = b""
    failure: Failure | None = None

    def header(self, name: str) -> str | None:
        values = self.headers.getRawHeaders(name)
        return values[0] if values else None


class Lab:
    """A registry in memory and an agent in front of it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.registry = Registry(self.clock)
        self._agent = RequestTraversalAgent(self.registry)

    def ask(self, path: str, method: str = "GET", seconds: float = 1.0, **headers: str) -> Got | None:
        """Ask, let C{seconds} go by, and return what came; C{None} when no status line came."""
        got: list[Got] = []
        raw = Headers({name.replace("_", "-"): [value] for name, value in headers.items()})
        answered = self._agent.request(method.encode(), b"http://up.test" + path.encode(), raw)
        answered.addCallback(self._read, got).addErrback(lambda failure: None)
        for _ in range(int(seconds / 0.05)):
            self._agent.flush()
            self.clock.advance(0.05)
        self._agent.flush()
        return got[0] if got else None

    @staticmethod
    def _read(response: IResponse, got: list[Got]) -> None:
        arrived = Got(response.code, response.headers)
        got.append(arrived)
        body: Deferred[bytes] = readBody(response)
        body.addCallbacks(lambda data: setattr(arrived, "body", data), lambda why: setattr(arrived, "failure", why))


@pytest.fixture
def lab() -> Lab:
    return Lab()


def fetch(lab: Lab, path: str, method: str = "GET", seconds: float = 1.0, **headers: str) -> Got:
    got = lab.ask(path, method, seconds, **headers)
    assert got is not None, "no answer"
    return got


def test_a_manifest_comes_bit_for_bit_by_tag_and_by_digest(lab: Lab) -> None:
    """What was added is what is served, with its media type and digest."""
    image = lab.registry.add_image("library/tiny")
    for reference in ("latest", image.digest):
        got = fetch(lab, f"/v2/library/tiny/manifests/{reference}")
        assert got.body == image.manifest.data
        assert got.header("Content-Type") == images.OCI.manifest
        assert got.header("Docker-Content-Digest") == image.digest


def test_head_says_what_get_says_without_the_body(lab: Lab) -> None:
    """HEAD has the lengths and digests of GET."""
    image = lab.registry.add_image("library/tiny")
    got = fetch(lab, "/v2/library/tiny/manifests/latest", "HEAD")
    assert got.body == b""
    assert got.header("Content-Length") == str(len(image.manifest.data))


@pytest.mark.parametrize(
    ("asked", "start", "stop"), [("bytes=10-19", 10, 20), ("bytes=100-", 100, None), ("bytes=-7", -7, None)]
)
def test_a_range_of_a_blob_comes_alone(lab: Lab, asked: str, start: int, stop: int | None) -> None:
    """206 carries the part that was asked for, and says which it is."""
    layer = lab.registry.add_image("library/tiny").layers[0]
    got = fetch(lab, f"/v2/library/tiny/blobs/{layer.digest}", Range=asked)
    assert got.status == 206
    assert got.body == layer.data[start:stop]


def test_if_range_with_another_validator_gets_everything(lab: Lab) -> None:
    """RFC 9110 section 13.1.5."""
    layer = lab.registry.add_image("library/tiny").layers[0]
    got = fetch(lab, f"/v2/library/tiny/blobs/{layer.digest}", Range="bytes=5-", If_Range='"other"')
    assert (got.status, got.body) == (200, layer.data)


def test_a_blob_is_not_served_from_another_repository(lab: Lab) -> None:
    """Blobs belong to repositories."""
    layer = lab.registry.add_image("library/tiny").layers[0]
    lab.registry.add_image("library/other")
    assert fetch(lab, f"/v2/library/other/blobs/{layer.digest}").status == 404


def test_tags_come_in_pages(lab: Lab) -> None:
    """Following Link from page to page gives every tag once."""
    for tag in ("a", "b", "c", "d", "e"):
        lab.registry.add_image("library/tiny", tag)
    path, tags = "/v2/library/tiny/tags/list?n=2", []
    while path:
        got = fetch(lab, path)
        tags += json.loads(got.body)["tags"]
        path = (got.header("Link") or "").partition(">")[0].removeprefix("<")
    assert tags == ["a", "b", "c", "d", "e"]


def test_strict_accept_hides_and_converts_like_docker_registry(lab: Lab) -> None:
    """Without the right Accept an OCI manifest is unknown, and a Docker list comes as its amd64 image."""
    lab.registry.strict_accept = True
    lab.registry.add_image("library/tiny")
    lists = lab.registry.add_index("library/multi", flavour=images.DOCKER)
    assert fetch(lab, "/v2/library/tiny/manifests/latest").status == 404
    assert fetch(lab, "/v2/library/tiny/manifests/latest", Accept=EVERY_TYPE).status == 200
    got = fetch(lab, "/v2/library/multi/manifests/latest", Accept=images.DOCKER.manifest)
    assert got.header("Docker-Content-Digest") == lists.children[0].digest


def test_referrers_lists_what_has_the_subject(lab: Lab) -> None:
    """An artifact is found from its subject."""
    image = lab.registry.add_image("library/tiny")
    artifact = lab.registry.add_artifact("library/tiny", image)
    listed = json.loads(fetch(lab, f"/v2/library/tiny/referrers/{image.digest}").body)["manifests"]
    assert [entry["digest"] for entry in listed] == [artifact.digest]


def test_referrers_come_in_pages_and_of_one_type(lab: Lab) -> None:
    """Each page leads to the next, with the filter, and says that it was filtered."""
    image = lab.registry.add_image("library/tiny")
    wanted = [lab.registry.add_artifact("library/tiny", image, artifact_type=f"text/{kind}") for kind in "abc"]
    lab.registry.referrers_page = 1
    path, found = f"/v2/library/tiny/referrers/{image.digest}?artifactType=text/a&artifactType=text/c", []
    while path:
        got = fetch(lab, path)
        assert got.header("OCI-Filters-Applied") == "artifactType"
        found += [entry["digest"] for entry in json.loads(got.body)["manifests"]]
        path = (got.header("Link") or "<>")[1:].partition(">")[0]
    assert found == [wanted[0].digest, wanted[2].digest]


def test_a_registry_without_referrers_says_what_docker_registry_says(lab: Lab) -> None:
    """No OCI error: there is no such route; the tag is all there is."""
    image = lab.registry.add_image("library/tiny")
    lab.registry.has_referrers = False
    listing = lab.registry.add_fallback("library/tiny", image.digest, images.artifact(image))
    got = fetch(lab, f"/v2/library/tiny/referrers/{image.digest}")
    assert (got.status, got.header("Content-Type")) == (404, "text/plain; charset=utf-8")
    tagged = fetch(lab, f"/v2/library/tiny/manifests/{image.digest.replace(':', '-')}")
    assert (tagged.body, tagged.header("Content-Type")) == (listing.manifest.data, images.OCI.index)


def test_the_tag_knows_what_the_api_does_not(lab: Lab) -> None:
    """A registry that got its API after the first signatures."""
    image = lab.registry.add_image("library/tiny")
    artifact = lab.registry.add_artifact("library/tiny", image)
    old = images.artifact(image, "text/old")
    lab.registry.add_fallback("library/tiny", image.digest, artifact, old)
    listed = json.loads(fetch(lab, f"/v2/library/tiny/referrers/{image.digest}").body)["manifests"]
    assert [entry["digest"] for entry in listed] == [artifact.digest]


def test_every_request_is_noted_with_what_was_sent(lab: Lab) -> None:
    """Method, path, headers and bytes stand in the log."""
    image = lab.registry.add_image("library/tiny")
    fetch(lab, "/v2/library/tiny/manifests/latest", User_Agent="me")
    (noted,) = lab.registry.seen("GET /v2/*/manifests/*")
    assert (noted.header("User-Agent"), noted.sent) == ("me", len(image.manifest.data))
    assert (noted.status, noted.ended) == (200, "done")


def test_a_fault_strikes_as_often_as_it_is_to(lab: Lab) -> None:
    """The first is spared, two are hit, the fourth is well again."""
    lab.registry.misbehave("/v2/", faults.status(503), times=2, skip=1)
    assert [fetch(lab, "/v2/").status for _ in range(4)] == [200, 503, 503, 200]


def test_a_cut_breaks_the_line_after_so_many_bytes(lab: Lab) -> None:
    """The client sees an error, and the log says how much went out."""
    layer = lab.registry.add_image("library/tiny").layers[0]
    lab.registry.misbehave("/v2/*/blobs/*", faults.cut(1000), times=1)
    path = f"/v2/library/tiny/blobs/{layer.digest}"
    got = fetch(lab, path)
    assert got.failure is not None and got.failure.check(ResponseFailed, PartialDownloadError)
    assert (lab.registry.requests[0].sent, lab.registry.requests[0].ended) == (1000, "cut")
    assert fetch(lab, path).body == layer.data


def test_a_stalled_body_stays_open(lab: Lab) -> None:
    """Neither an end nor an error comes, however long one waits."""
    layer = lab.registry.add_image("library/tiny").layers[0]
    lab.registry.misbehave("/v2/*/blobs/*", faults.stall(1000))
    got = fetch(lab, f"/v2/library/tiny/blobs/{layer.digest}", seconds=60)
    assert (got.body, got.failure) == (b"", None)
    assert (lab.registry.requests[0].sent, lab.registry.requests[0].ended) == (1000, "open")


def test_never_answering_means_never(lab: Lab) -> None:
    """Not even a status line."""
    lab.registry.misbehave("/v2/", faults.never())
    assert lab.ask("/v2/", seconds=60) is None


def test_a_trickle_takes_as_long_as_its_rate_says(lab: Lab) -> None:
    """A body of 20 kB at 10 kB/s is not there after one second, and is after three."""
    layer = lab.registry.add_image("library/tiny", sizes=[20_000]).layers[0]
    lab.registry.misbehave("/v2/*/blobs/*", faults.trickle(10_000))
    path = f"/v2/library/tiny/blobs/{layer.digest}"
    assert fetch(lab, path, seconds=1).body == b""
    assert fetch(lab, path, seconds=3).body == layer.data


def test_a_flipped_byte_stays_at_its_offset_in_a_range(lab: Lab) -> None:
    """Resuming behind the bad byte gets good bytes."""
    layer = lab.registry.add_image("library/tiny").layers[0]
    path = f"/v2/library/tiny/blobs/{layer.digest}"
    lab.registry.misbehave("/v2/*/blobs/*", faults.flipped(100))
    assert fetch(lab, path, Range="bytes=101-").body == layer.data[101:]
    assert fetch(lab, path, Range="bytes=90-").body[10] == layer.data[100] ^ 0xFF


def test_faults_compose(lab: Lab) -> None:
    """A gzip body without a length and with a wrong digest header, all in one answer."""
    image = lab.registry.add_image("library/tiny")
    wrong = faults.gzipped(), faults.no_length("close"), faults.wrong_digest_header()
    lab.registry.misbehave("/v2/*/manifests/*", *wrong)
    got = fetch(lab, "/v2/library/tiny/manifests/latest")
    assert got.failure is not None and isinstance(got.failure.value, PartialDownloadError)
    body = got.failure.value.response or b""
    assert gzip.decompress(body) == image.manifest.data
    assert got.header("Content-Length") is None
    assert got.header("Docker-Content-Digest") == "sha256:" + "0" * 64


@pytest.mark.parametrize("fault", [faults.chunked_truncated(500), faults.cut(500, polite=True)])
def test_a_truncated_body_is_an_error_for_the_client(lab: Lab, fault: faults.Fault) -> None:
    """With chunks or with a length, the client can tell."""
    layer = lab.registry.add_image("library/tiny").layers[0]
    lab.registry.misbehave("/v2/*/blobs/*", fault)
    got = fetch(lab, f"/v2/library/tiny/blobs/{layer.digest}")
    assert got.failure is not None


def test_a_short_length_hides_the_end_of_the_body(lab: Lab) -> None:
    """The client believes the length, and gets bytes with another digest."""
    image = lab.registry.add_image("library/tiny")
    lab.registry.misbehave("/v2/*/manifests/*", faults.short_length(7))
    assert fetch(lab, "/v2/library/tiny/manifests/latest").body == image.manifest.data[:-7]


def test_an_ignored_range_gets_200_and_everything(lab: Lab) -> None:
    """As upstreams without range support do."""
    layer = lab.registry.add_image("library/tiny").layers[0]
    lab.registry.misbehave("/v2/*/blobs/*", faults.range_ignored())
    got = fetch(lab, f"/v2/library/tiny/blobs/{layer.digest}", Range="bytes=100-")
    assert (got.status, got.body, got.header("Content-Range")) == (200, layer.data, None)


def test_a_redirect_goes_where_it_is_to(lab: Lab) -> None:
    """The location goes out verbatim, its signature included."""
    lab.registry.misbehave("/v2/*", faults.redirect("http://cdn.test/x?signature=a%2Fb=", 307))
    got = fetch(lab, "/v2/library/tiny/manifests/latest")
    assert (got.status, got.header("Location")) == (307, "http://cdn.test/x?signature=a%2Fb=")


def test_bearer_tokens_are_needed_and_expire(lab: Lab) -> None:
    """401 with a challenge, a token for that scope, and 401 again when its time is up."""
    lab.registry.add_image("library/tiny")
    auth = BearerAuth(lab.clock, lifetime=300)
    lab.registry.guard = lab.registry.tokens = auth
    path = "/v2/library/tiny/manifests/latest"
    refused = fetch(lab, path)
    challenge = 'Bearer realm="http://up.test/token",service="simulated",scope="repository:library/tiny:pull"'
    assert (refused.status, refused.header("WWW-Authenticate")) == (401, challenge)
    token = json.loads(fetch(lab, "/token?service=simulated&scope=repository:library/tiny:pull").body)["token"]
    assert fetch(lab, path, Authorization=f"Bearer {token}").status == 200
    assert fetch(lab, "/v2/library/other/tags/list", Authorization=f"Bearer {token}").status == 401
    lab.clock.advance(300)
    assert fetch(lab, path, Authorization=f"Bearer {token}").status == 401


def test_basic_logins_are_checked(lab: Lab) -> None:
    """The right password opens, the wrong one does not."""
    lab.registry.guard = BasicAuth({"me": "right"})
    assert fetch(lab, "/v2/").header("WWW-Authenticate") == 'Basic realm="simulated"'
    for password, status in (("right", 200), ("wrong", 401)):
        login = base64.b64encode(f"me:{password}".encode()).decode()
        assert fetch(lab, "/v2/", Authorization=f"Basic {login}").status == status


def test_an_endless_body_has_no_end(lab: Lab) -> None:
    """It stops where the reader stops taking, never by itself."""
    lab.registry.add_image("library/tiny")
    lab.registry.misbehave("/v2/*/manifests/*", faults.endless(), faults.trickle(1_000_000))
    fetch(lab, "/v2/library/tiny/manifests/latest", seconds=2)
    (noted,) = lab.registry.requests
    assert noted.ended == "open"
    assert noted.sent > 1_000_000


def test_the_same_seed_makes_the_same_image() -> None:
    """Digests may be compared between processes."""
    assert images.multi_arch("x") == images.multi_arch("x")
    assert images.multi_arch("x").digest != images.multi_arch("y").digest
