"""
The simulated registry as a process: C{python -m tests.doubles.serve --port 0 --image library/tiny:latest=20000}.

The first line on standard output is the port. The process that started it drives it over C{/_control/}, in JSON:

  - C{GET requests}: the log; C{DELETE requests}: a new one.
  - C{POST faults} with C{{"pattern", "faults": [[NAME, {ARGUMENTS}], ...], "times", "skip"}}; C{DELETE faults}.
  - C{POST contents} with C{{"repository", "tag", "kind", "options"}}: adds what L{KINDS} makes; answers with its digest
    and its blobs. The kind C{artifact} has a C{subject} among its options, the digest of a manifest held there.
  - C{POST fallback} with C{{"repository", "subject", "artifact_types", "listed"}}: a referrers tag that lists new
    artifacts of these types, which it alone knows, and those whose digests are C{listed}; answers with the new digests.
  - C{POST tags} with C{{"repository", "tag", "digest"}}: moves a tag, or without a digest removes it.
  - C{POST settings} with C{{"rate", "strict_accept", "page", "has_referrers", "referrers_page"}}, each where it is to
    change.

What registries do instead of listing referrers are faults of C{GET /v2/*/referrers/*}: C{redirect} with 303 to another
host (GHCR), C{status} 200 with JSON (a false 200), C{header} with a C{Link} to elsewhere, C{oci_error} 404.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.interfaces import IListeningPort
from twisted.web.http import Request
from twisted.web.resource import Resource

from tests.doubles import images
from tests.doubles.faults import BY_NAME
from tests.doubles.images import Content
from tests.doubles.registry import Registry, Repository, site

KINDS: dict[str, Callable[..., Content]] = {
    "image": images.image,
    "docker": lambda **options: images.image(flavour=images.DOCKER, **options),
    "index": images.multi_arch,
    "docker-index": lambda **options: images.multi_arch(flavour=images.DOCKER, **options),
    "nested": images.nested,
    "large": images.large_manifest,
    "confused": images.confused,
    "busybox": images.busybox,
    "artifact": images.artifact,
}


def summary(content: Content) -> dict[str, Any]:
    """What a client would have to see: digest, media type, and the blobs of each image beneath, config first."""
    blobs = [[blob.digest, len(blob.data)] for part in content.walk() for blob in part.blobs]
    children = [child.digest for child in content.children]
    media_type = content.manifest.media_type
    return {"digest": content.digest, "media_type": media_type, "blobs": blobs, "children": children}


class Control(Resource):
    """One path of C{/_control/}: C{routes} gives what each method does with the JSON it was sent."""

    isLeaf = True

    def __init__(self, routes: dict[bytes, Callable[[dict[str, Any]], Any]]) -> None:
        super().__init__()
        self._routes = routes

    def render(self, request: Request) -> bytes:
        """Run the route, answer with what it returned."""
        text = request.content.read() if request.content else b""
        result = self._routes[request.method](json.loads(text) if text else {})
        request.responseHeaders.setRawHeaders("Content-Type", ["application/json"])
        return json.dumps(result).encode()


class Root(Resource):
    """C{/_control/} for the process that started this one, the registry for all others."""

    def __init__(self, registry: Registry) -> None:
        super().__init__()
        self._registry = registry
        control = Resource()
        routes: dict[bytes, dict[bytes, Callable[[dict[str, Any]], Any]]] = {
            b"requests": {b"GET": self._requests, b"DELETE": self._forget},
            b"faults": {b"POST": self._misbehave, b"DELETE": self._behave},
            b"contents": {b"POST": self._add},
            b"fallback": {b"POST": self._list},
            b"tags": {b"POST": self._tag},
            b"settings": {b"POST": self._set},
        }
        for path, methods in routes.items():
            control.putChild(path, Control(methods))
        self.putChild(b"_control", control)

    def getChild(self, path: bytes, request: Request) -> Resource:
        """See L{Resource}."""
        return self._registry

    def _requests(self, _: dict[str, Any]) -> list[dict[str, Any]]:
        return [asdict(exchange) for exchange in self._registry.requests]

    def _forget(self, _: dict[str, Any]) -> None:
        self._registry.requests.clear()

    def _misbehave(self, wanted: dict[str, Any]) -> None:
        faults = [BY_NAME[name](**arguments) for name, arguments in wanted["faults"]]
        self._registry.misbehave(wanted["pattern"], *faults, times=wanted.get("times"), skip=wanted.get("skip", 0))

    def _behave(self, _: dict[str, Any]) -> None:
        self._registry.behave()

    def _add(self, wanted: dict[str, Any]) -> dict[str, Any]:
        options = wanted.get("options", {})
        if wanted["kind"] == "artifact":
            options["subject"] = self._held(wanted["repository"], options["subject"])
        content = KINDS[wanted["kind"]](**options)
        return summary(self._registry.add(wanted["repository"], content, wanted.get("tag")))

    def _list(self, wanted: dict[str, Any]) -> list[str]:
        repository, subject = wanted["repository"], self._held(wanted["repository"], wanted["subject"])
        new = [images.artifact(subject, kind) for kind in wanted.get("artifact_types", [])]
        listed = [self._held(repository, digest) for digest in wanted.get("listed", [])]
        self._registry.add_fallback(repository, subject.digest, *listed, *new)
        return [each.digest for each in new]

    def _held(self, repository: str, digest: str) -> Content:
        return Content(self._registry.repositories[repository].manifests[digest])

    def _tag(self, wanted: dict[str, Any]) -> None:
        tags = self._registry.repositories.setdefault(wanted["repository"], Repository()).tags
        tags.pop(wanted["tag"], None)
        if wanted.get("digest"):
            tags[wanted["tag"]] = wanted["digest"]

    def _set(self, wanted: dict[str, Any]) -> None:
        for name in ("rate", "strict_accept", "page", "has_referrers", "referrers_page"):
            if name in wanted:
                setattr(self._registry, name, wanted[name])


def _arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.doubles.serve", description="A simulated registry.")
    parser.add_argument("--port", type=int, default=0, help="TCP port; 0 takes a free one")
    parser.add_argument("--interface", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--image", action="append", default=[], metavar="REPOSITORY:TAG[=BYTES]", help="add an image")
    parser.add_argument("--index", action="append", default=[], metavar="REPOSITORY:TAG[=BYTES]", help="two platforms")
    parser.add_argument("--busybox", type=Path, metavar="BINARY", help="add local/busybox:latest around this program")
    return parser.parse_args(argv)


def _fill(registry: Registry, arguments: argparse.Namespace) -> None:
    for made, names in ((registry.add_image, arguments.image), (registry.add_index, arguments.index)):
        for name in names:
            reference, _, size = name.partition("=")
            repository, _, tag = reference.rpartition(":")
            made(repository, tag, sizes=[int(size or 20_000)])
    if arguments.busybox:
        registry.add("local/busybox", images.busybox(arguments.busybox), "latest")


def _announce(port: IListeningPort) -> None:
    address = port.getHost()
    assert isinstance(address, IPv4Address)
    sys.stdout.write(f"{address.port}\n")
    sys.stdout.flush()


def main(argv: list[str]) -> None:
    """Serve until killed."""
    from twisted.internet import reactor

    arguments = _arguments(argv)
    registry = Registry(reactor)
    _fill(registry, arguments)
    endpoint = TCP4ServerEndpoint(reactor, arguments.port, interface=arguments.interface)
    endpoint.listen(site(Root(registry))).addCallback(_announce)
    reactor.run()


if __name__ == "__main__":
    main(sys.argv[1:])
