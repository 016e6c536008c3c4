"""A registry in memory whose answers about referrers a test chooses."""

from __future__ import annotations

import json
from typing import Any

from appliance import errors
from appliance.oci import mediatypes
from appliance.oci.digest import Digest
from appliance.upstream.interfaces import Referrers
from tests.rooms.upstream.net import REGISTRY, Asked, Net, Reply, upstream

SUBJECT = Digest.of(b"image")
TAG = SUBJECT.file_name
LOGIN = "https://login.example"
SECOND = "https://second.example"
INDEX: dict[str, str | list[str]] = {"Content-Type": mediatypes.OCI_INDEX}
HTML = Reply(200, {"Content-Type": "text/html; charset=utf-8"}, b"<html>Log in")


def descriptor(name: str, **more: object) -> bytes:
    """Of an artifact with a name of its own; the blanks are its own."""
    digest = Digest.of(name.encode())
    return json.dumps(
        {"digest": str(digest), "mediaType": mediatypes.OCI_MANIFEST, "size": 5, **more}, indent=1
    ).encode()


def listing(*descriptors: bytes) -> bytes:
    head = b'{"schemaVersion": 2, "mediaType": "%b", "manifests": [' % mediatypes.OCI_INDEX.encode()
    return head + b", ".join(descriptors) + b"]}"


def page(*descriptors: bytes, link: str | None = None) -> Reply:
    return Reply(200, INDEX if link is None else {**INDEX, "Link": f'<{link}>; rel="next"'}, listing(*descriptors))


def oci_error(status: int, code: str) -> Reply:
    return Reply(status, {"Content-Type": "application/json"}, json.dumps({"errors": [{"code": code}]}).encode())


def redirect(status: int, location: str) -> Reply:
    return Reply(status, {"Location": location, "Content-Type": "text/html"}, b"<a>elsewhere</a>")


SIGNATURE, SBOM, OLD = (
    descriptor("signature"),
    descriptor("sbom", artifactType="text/x", strange=[1, 2.50]),
    descriptor("old"),
)
MISSING = oci_error(404, "MANIFEST_UNKNOWN")


class Rig:
    """
    A registry in a network, and an upstream that asks it.

    @ivar api: answers to C{/referrers/} by target below the repository; C{"*"} for all others.
    @ivar manifests: answers by tag or digest.
    @ivar before: changes an answer to HEAD.
    """

    def __init__(self, *urls: str, **more: Any) -> None:
        self.net = Net()
        self.net.clock.rightNow = 1_700_000_000.0
        self.api: dict[str, Reply | None] = {}
        self.manifests: dict[str, Reply] = {}
        self.heads: dict[str, Reply] = {}
        for url in urls or (REGISTRY,):
            self.net.servers[url] = self.answer
        self.upstream = upstream(self.net, urls or (REGISTRY,), **more)

    def answer(self, asked: Asked) -> Reply | None:
        path = asked.target.removeprefix("/v2/a/")
        if "/referrers/" in asked.target:
            return self.api.get(path, self.api.get("*", Reply(404)))
        reference = path.rpartition("/")[2]
        found = self.manifests.get(reference, MISSING)
        return self.heads.get(reference, found) if asked.method == "HEAD" else found

    def tag(
        self, *descriptors: bytes, data: bytes | None = None, kind: str = mediatypes.OCI_INDEX, tag: str = TAG
    ) -> None:
        """Let the fallback tag mean a list of these, or just C{data}."""
        body = listing(*descriptors) if data is None else data
        digest = str(Digest.of(body))
        fields: dict[str, str | list[str]] = {"Content-Type": kind, "Docker-Content-Digest": digest}
        self.manifests[tag] = self.manifests[digest] = Reply(200, fields, body)

    def ask(self, repository: str = "a", subject: Digest = SUBJECT) -> Referrers:
        return self.net.result(self.upstream.referrers(repository, subject))

    def fault(self, repository: str = "a") -> BaseException:
        return self.net.fault(self.upstream.referrers(repository, SUBJECT))

    def forget(self) -> None:
        self.net.asked.clear()

    @property
    def asked(self) -> list[str]:
        return [
            f"{asked.method} {asked.url.removeprefix(REGISTRY).replace(str(SUBJECT), 'S')}" for asked in self.net.asked
        ]

    @property
    def asked_api(self) -> bool:
        return any("/referrers/" in asked.target for asked in self.net.asked)


API, HEAD = "GET /v2/a/referrers/S", f"HEAD /v2/a/manifests/{TAG}"
FAILURES: list[tuple[Reply, type[errors.UpstreamError]]] = [
    (Reply(401), errors.UpstreamDenied),
    (Reply(403), errors.UpstreamDenied),
    (Reply(429, {"Retry-After": "7"}), errors.UpstreamRateLimited),
    (Reply(500), errors.UpstreamUnavailable),
    (Reply(502), errors.UpstreamUnavailable),
    (Reply(503, {"Retry-After": "7"}), errors.UpstreamRateLimited),
    (Reply(200, INDEX, listing(SIGNATURE), claim=5), errors.UpstreamUnavailable),
]
