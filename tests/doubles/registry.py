"""
A registry to pull from that does as it is set up, and misbehaves when it is set up to.

L{Registry} is a leaf resource, so it runs behind a real port as well as in memory
(C{treq.testing.RequestTraversalAgent(registry)}). It answers the pull side of the OCI distribution specification for
what was added to it, notes every request in C{requests}, and applies the faults of C{tests/doubles/faults.py} that were
scheduled with C{misbehave}. Time is the injected clock's: with a L{twisted.internet.task.Clock}, bodies that are slowed
down and resets move when the test advances it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlencode

from twisted.internet.interfaces import IReactorTime
from twisted.web.http import HTTPChannel, Request
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from tests.doubles import images
from tests.doubles.answers import Answer, Exchange, Sender, document, error, whole
from tests.doubles.auth import BearerAuth, Guard
from tests.doubles.faults import Fault
from tests.doubles.images import Blob, Content

ROUTE = re.compile(
    r"/v2/(?P<name>.+)/(?:(?P<kind>manifests|blobs|referrers)/(?P<reference>[^/]+)|(?P<tags>tags/list))", re.ASCII
)
SINGLE_RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII)
TLS_HANDSHAKE = 0x16


@dataclass
class Repository:
    """
    What one repository holds.

    @ivar tags: digests by tag.
    @ivar manifests: by digest, as C{blobs} are.
    @ivar unlisted: digests of manifests that the referrers API leaves out, whatever their C{subject}.
    """

    tags: dict[str, str] = field(default_factory=dict)
    manifests: dict[str, Blob] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    unlisted: set[str] = field(default_factory=set)


@dataclass
class Schedule:
    """Faults for the requests that match C{pattern}: the first C{skip} are spared, C{times} are hit."""

    pattern: str
    faults: tuple[Fault, ...]
    times: int | None
    skip: int

    def matches(self, exchange: Exchange) -> bool:
        """Whether this applies; counts the request when it does."""
        if self.times == 0 or not matches(self.pattern, exchange):
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True


def matches(pattern: str, exchange: Exchange) -> bool:
    """Whether C{pattern}, a path with C{*} or a method and a path as in C{"GET /v2/*"}, means this request."""
    subject = exchange.path if pattern.startswith("/") else f"{exchange.method} {exchange.path}"
    return fnmatchcase(subject, pattern)


class Registry(Resource):
    """
    See the module's docstring.

    @ivar repositories: what is held, by name.
    @ivar requests: every request since the start, or since the list was cleared, oldest first.
    @ivar guard: who may ask; C{None}: all.
    @ivar tokens: answers C{/token} on this origin; C{None}: there is no such path.
    @ivar strict_accept: refuse and convert like Debian's docker-registry when the Accept header lacks the stored type.
    @ivar page: most tags in one page of C{tags/list}.
    @ivar has_referrers: whether there is a referrers API; without it is answered what Debian's docker-registry does.
    @ivar referrers_page: most descriptors in one page of it.
    @ivar rate: bytes per second of every response, C{None} for as fast as possible.
    """

    isLeaf = True

    def __init__(self, clock: IReactorTime) -> None:
        super().__init__()
        self._clock = clock
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Exchange] = []
        self.schedules: list[Schedule] = []
        self.guard: Guard | None = None
        self.tokens: BearerAuth | None = None
        self.strict_accept = False
        self.page = 10_000
        self.has_referrers = True
        self.referrers_page = 10_000
        self.rate: float | None = None

    # -- what it holds ----------------------------------------------------------------------------------------------

    def add(self, repository: str, content: Content, tag: str | None = None) -> Content:
        """Hold C{content}, and everything beneath it, under C{tag}; returns it."""
        held = self.repositories.setdefault(repository, Repository())
        for part in content.walk():
            held.manifests[part.digest] = part.manifest
            held.blobs.update({blob.digest: blob.data for blob in part.blobs})
        if tag is not None:
            held.tags[tag] = content.digest
        return content

    def add_image(self, repository: str, tag: str | None = "latest", **options: Any) -> Content:
        """Add an image made by L{images.image}, which takes C{options}."""
        return self.add(repository, images.image(**{"seed": repository, **options}), tag)

    def add_index(self, repository: str, tag: str | None = "latest", **options: Any) -> Content:
        """Add an index of two platforms made by L{images.multi_arch}, which takes C{options}."""
        return self.add(repository, images.multi_arch(**{"seed": repository, **options}), tag)

    def add_artifact(self, repository: str, subject: Content, tag: str | None = None, **options: Any) -> Content:
        """Add a referrer of C{subject}."""
        return self.add(repository, images.artifact(subject, **options), tag)

    def add_fallback(self, repository: str, subject: str, *referrers: Content) -> Content:
        """
        Let the referrers tag of the digest C{subject} list these, and return that list.

        Those that are not held yet are added, and the tag alone knows of them.
        """
        held = self.repositories.setdefault(repository, Repository())
        for each in referrers:
            if each.digest not in held.manifests:
                held.unlisted.add(each.digest)
                self.add(repository, each)
        document = _list([_described(each.manifest) for each in referrers])
        return self.add(repository, Content(Blob(images.OCI.index, document)), subject.replace(":", "-"))

    # -- what it does wrong, and what it was asked -------------------------------------------------------------------

    def misbehave(self, pattern: str, *faults: Fault, times: int | None = None, skip: int = 0) -> None:
        """
        Apply C{faults}, in order, to the next C{times} matching requests (C{None}: all) after the first C{skip}.

        A request takes the oldest schedule that matches and is not used up, and no other.
        """
        self.schedules.append(Schedule(pattern, faults, times, skip))

    def behave(self) -> None:
        """Forget every scheduled fault."""
        self.schedules.clear()

    def seen(self, pattern: str) -> list[Exchange]:
        """The requests that match C{pattern}, oldest first."""
        return [exchange for exchange in self.requests if matches(pattern, exchange)]

    # -- answering ---------------------------------------------------------------------------------------------------

    def render(self, request: Request) -> int:
        """Note the request, answer it, and let the faults have their way."""
        exchange = self._note(request)
        answer = self._answer(exchange)
        answer.rate = self.rate
        for schedule in self.schedules:
            if schedule.matches(exchange):
                for fault in schedule.faults:
                    answer = fault(answer)
                break
        Sender(request, answer, exchange, self._clock).start()
        return NOT_DONE_YET

    def _note(self, request: Request) -> Exchange:
        headers = {
            name.decode("ascii").lower(): [value.decode("latin-1") for value in values]
            for name, values in request.requestHeaders.getAllRawHeaders()
        }
        query = request.uri.partition(b"?")[2].decode("latin-1")
        exchange = Exchange(request.method.decode("ascii"), unquote(request.path.decode("latin-1")), query, headers)
        self.requests.append(exchange)
        return exchange

    def _answer(self, exchange: Exchange) -> Answer:
        if exchange.path == "/token" and self.tokens is not None:
            return self.tokens.token(exchange)
        if exchange.method not in ("GET", "HEAD"):
            return error(405, "UNSUPPORTED")
        route = ROUTE.fullmatch(exchange.path)
        if route is not None and route["kind"] == "referrers" and not self.has_referrers:
            # There is no such route, so no login is asked for.
            return whole(b"404 page not found\n", "text/plain; charset=utf-8", status=404)
        name = route["name"] if route else None
        refusal = self.guard.refusal(exchange, name) if self.guard else None
        if refusal is not None:
            return refusal
        if exchange.path in ("/v2", "/v2/"):
            return document({})
        repository = self.repositories.get(name or "")
        if route is None or repository is None:
            return error(404, "NAME_UNKNOWN", "repository name not known to registry")
        if route["tags"]:
            return self._tags(exchange, route["name"], repository)
        if route["kind"] == "referrers":
            return self._referrers(exchange, repository, route["reference"])
        if route["kind"] == "manifests":
            return self._manifest(exchange, repository, route["reference"])
        return _blob(exchange, repository, route["reference"])

    def _tags(self, exchange: Exchange, name: str, repository: Repository) -> Answer:
        query = parse_qs(exchange.query)
        last = query.get("last", [""])[0]
        tags = [tag for tag in sorted(repository.tags) if tag > last]
        count = min(int(query.get("n", [str(self.page)])[0]), self.page)
        more = {}
        if 0 < count < len(tags):
            more["Link"] = f'</v2/{quote(name)}/tags/list?last={quote(tags[count - 1])}&n={count}>; rel="next"'
        return document({"name": name, "tags": tags[:count]}, more)

    def _referrers(self, exchange: Exchange, repository: Repository, digest: str) -> Answer:
        query = parse_qs(exchange.query)
        wanted, start = query.get("artifactType", []), int(query.get("from", ["0"])[0])
        listed = [held for each, held in repository.manifests.items() if each not in repository.unlisted]
        entries = [_described(held) for held in listed if _subject(held) == digest]
        entries = [entry for entry in entries if not wanted or entry.get("artifactType") in wanted]
        headers = {"OCI-Filters-Applied": "artifactType"} if wanted else {}
        stop = start + self.referrers_page
        if stop < len(entries):
            more = urlencode({"artifactType": wanted, "from": stop}, doseq=True)
            headers["Link"] = f'<{quote(exchange.path, safe="/:")}?{more}>; rel="next"'
        return whole(_list(entries[start:stop]), images.OCI.index, headers)

    def _manifest(self, exchange: Exchange, repository: Repository, reference: str) -> Answer:
        manifest = repository.manifests.get(repository.tags.get(reference, reference))
        if manifest is not None and self.strict_accept:
            manifest = _negotiated(exchange, repository, reference, manifest)
        if manifest is None:
            return error(404, "MANIFEST_UNKNOWN", "manifest unknown")
        headers = {"Docker-Content-Digest": manifest.digest, "ETag": f'"{manifest.digest}"'}
        if exchange.header("If-None-Match") == headers["ETag"]:
            return whole(b"", manifest.media_type, headers, 304)
        return whole(manifest.data, manifest.media_type, headers)


def _negotiated(exchange: Exchange, repository: Repository, reference: str, manifest: Blob) -> Blob | None:
    """What docker-registry 2.8 gives where Accept lacks the type: nothing, or a Docker list's linux/amd64 image."""
    lines = ",".join(exchange.headers.get("accept", []))
    accepted = {part.partition(";")[0].strip() for part in lines.split(",")}
    if manifest.media_type in accepted:
        return manifest
    if manifest.media_type == images.DOCKER.index and reference in repository.tags:
        entries = json.loads(manifest.data)["manifests"]
        return next(repository.manifests[e["digest"]] for e in entries if e["platform"]["architecture"] == "amd64")
    return None if manifest.media_type in (images.OCI.manifest, images.OCI.index) else manifest


def _subject(manifest: Blob) -> str | None:
    subject = json.loads(manifest.data).get("subject") or {}
    return subject.get("digest")


def _described(manifest: Blob) -> dict[str, Any]:
    """The descriptor of a referrer (distribution specification, "Listing Referrers")."""
    parsed = json.loads(manifest.data)
    kind = parsed.get("artifactType") or parsed.get("config", {}).get("mediaType")
    more = {"artifactType": kind, "annotations": parsed.get("annotations")}
    return manifest.descriptor(**{name: value for name, value in more.items() if value})


def _list(entries: list[dict[str, Any]]) -> bytes:
    return images.encode({"schemaVersion": 2, "mediaType": images.OCI.index, "manifests": entries})


def _blob(exchange: Exchange, repository: Repository, digest: str) -> Answer:
    data = repository.blobs.get(digest)
    if data is None:
        return error(404, "BLOB_UNKNOWN", "blob unknown to registry")
    headers = {"Docker-Content-Digest": digest, "ETag": f'"{digest}"', "Accept-Ranges": "bytes"}
    wanted = SINGLE_RANGE.fullmatch(exchange.header("Range") or "")
    validator = exchange.header("If-Range")
    if wanted is None or wanted[0] == "bytes=-" or validator not in (None, headers["ETag"]):
        return whole(data, "application/octet-stream", headers)
    return _part(data, wanted[1], wanted[2], headers)


def _part(data: bytes, first: str, last: str, headers: dict[str, str]) -> Answer:
    """A single range (RFC 9110 section 14.1.2): from C{first} to C{last} inclusive, or the last C{last} bytes."""
    start = int(first) if first else max(0, len(data) - int(last))
    stop = min(int(last) + 1, len(data)) if first and last else len(data)
    if start >= stop:
        return error(416, "RANGE_INVALID", "no such part", {"Content-Range": f"bytes */{len(data)}"})
    headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
    answer = whole(data[start:stop], "application/octet-stream", headers, 206)
    answer.whole, answer.start = data, start
    return answer


class PlainChannel(HTTPChannel):
    """HTTP that closes at once when the first byte begins a TLS handshake: skopeo and podman try that first."""

    _begun = False

    def dataReceived(self, data: bytes) -> None:
        """See L{HTTPChannel}."""
        if not self._begun and data[:1] == bytes([TLS_HANDSHAKE]):
            self.loseConnection()
            return
        self._begun = True
        super().dataReceived(data)


def site(resource: Resource) -> Site:
    """A server factory for a real port."""
    made = Site(resource)
    made.protocol = PlainChannel  # type: ignore[method-assign, assignment]
    return made
