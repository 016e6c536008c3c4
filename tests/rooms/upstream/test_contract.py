"""RegistryClient keeps the promises of IUpstream, over a small registry in memory."""

from __future__ import annotations

import json
import re

import pytest

from appliance.errors import RangeUnsatisfiable
from appliance.oci import mediatypes
from appliance.oci.digest import Digest
from appliance.oci.ranges import parse_ranges
from appliance.oci.referrer import fallback_tag
from appliance.upstream.client import RegistryClient
from appliance.upstream.kinds.dockerhub import DockerHub
from tests.contracts.upstream import REPOSITORY, Held, UpstreamContract
from tests.rooms.upstream.net import CDN, REGISTRY, Asked, Net, Reply, upstream


class SmallRegistry:
    """The pull side of the distribution specification in as few lines as it takes."""

    def __init__(self, held: Held, framing: str) -> None:
        self.manifests = {str(Digest.of(data)): (data, media_type) for data, media_type in held.manifests.items()}
        self.blobs = {str(Digest.of(data)): data for data in held.blobs}
        self.lists = {Digest.of(subject): listing(listed) for subject, listed in held.referrers.items()}
        self.tags = held.tags | {fallback_tag(subject): data for subject, data in self.lists.items()}
        self.manifests |= {str(Digest.of(data)): (data, mediatypes.OCI_INDEX) for data in self.lists.values()}
        self.framing = framing

    def __call__(self, asked: Asked) -> Reply:
        match = re.fullmatch(r"/v2/(.+)/(manifests|blobs|tags|referrers)/([^/]+)", asked.target)
        assert match is not None
        if match[1] != REPOSITORY:
            return missing("NAME_UNKNOWN")
        answers = {"manifests": self.manifest, "blobs": self.blob, "tags": self.list, "referrers": self.referrers}
        return answers[match[2]](match[3], asked)

    def manifest(self, reference: str, asked: Asked) -> Reply:
        digest = str(Digest.of(self.tags[reference])) if reference in self.tags else reference
        if digest not in self.manifests:
            return missing("MANIFEST_UNKNOWN")
        data, media_type = self.manifests[digest]
        return Reply(200, {"Content-Type": media_type, "Docker-Content-Digest": digest}, data, self.framing)

    def blob(self, digest: str, asked: Asked) -> Reply:
        if digest not in self.blobs:
            return missing("BLOB_UNKNOWN")
        data, tag = self.blobs[digest], f'"{digest}"'
        spans = parse_ranges(asked.one("range"), len(data)) if asked.one("if-range") in (None, tag) else None
        if spans is None:
            return Reply(200, {"ETag": tag}, data, self.framing)
        span = spans[0]
        where = {"Content-Range": f"bytes {span.start}-{span.stop - 1}/{len(data)}", "ETag": tag}
        return Reply(206, {**where}, data[span.start : span.stop], self.framing)

    def list(self, reference: str, asked: Asked) -> Reply:
        tags = [tag for tag in self.tags if not tag.startswith("sha256-")]
        return Reply(200, {}, json.dumps({"name": REPOSITORY, "tags": tags}).encode(), self.framing)

    def referrers(self, subject: str, asked: Asked) -> Reply:
        data = self.lists.get(Digest.parse(subject), listing([]))
        return Reply(200, {"Content-Type": mediatypes.OCI_INDEX}, data, self.framing)


def listing(descriptors: list[bytes]) -> bytes:
    return b'{"schemaVersion":2,"manifests":[' + b",".join(descriptors) + b"]}"


def missing(code: str) -> Reply:
    return Reply(404, {}, json.dumps({"errors": [{"code": code, "message": "x"}]}).encode())


class OverHTTP(UpstreamContract):
    """Made of a network in memory."""

    framing = "length"

    @pytest.fixture(autouse=True)
    def network(self) -> None:
        self.net = Net()

    def server(self, held: Held) -> SmallRegistry:
        small = SmallRegistry(held, self.framing)

        def serve(asked: Asked) -> Reply:
            try:
                return small(asked)
            except RangeUnsatisfiable as reason:
                return Reply(416, {"Content-Range": f"bytes */{reason.size}"})

        self.net.servers[REGISTRY] = serve
        return small

    def upstream_holding(self, held: Held) -> RegistryClient:
        self.server(held)
        return upstream(self.net, adapter=DockerHub())

    def settle(self) -> None:
        self.net.settle()


class TestWithLengths(OverHTTP):
    """Bodies with Content-Length."""


class TestInChunks(OverHTTP):
    """Chunked bodies."""

    framing = "chunked"


class TestUntilTheEnd(OverHTTP):
    """Bodies that end with their connection."""

    framing = "close"


class TestBehindRedirects(OverHTTP):
    """Everything lives at a CDN; what refers to a manifest is not asked for elsewhere, so the tag has to tell."""

    def upstream_holding(self, held: Held) -> RegistryClient:
        self.server(held)
        self.net.servers[CDN] = self.net.servers[REGISTRY]
        self.net.servers[REGISTRY] = lambda asked: Reply(307, {"Location": CDN + asked.target}, b"moved")
        return upstream(self.net, adapter=DockerHub())
