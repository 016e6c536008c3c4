"""
A registry that means harm, and the running service: its redirects are not followed elsewhere, and nothing of it reaches
a client but bytes that are right.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.plain import ask, get
from tests.doubles.answers import Exchange
from tests.doubles.manifests import CONFIG, descriptor
from tests.doubles.remote import RemoteRegistry
from tests.process.service import Appliance

pytestmark = pytest.mark.process

APP = "/v2/team/app"
FOREIGN_LAYER = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
BASIC = "Basic " + base64.b64encode(b"robot:hunter2").decode()


@pytest.fixture
def elsewhere() -> Iterator[RemoteRegistry]:
    """A registry at another address, which no configuration names."""
    registry = RemoteRegistry("127.0.0.2").start()
    yield registry
    registry.kill()


@pytest.fixture
def known(idle: Appliance, tmp_path: Path) -> Appliance:
    """An appliance that its upstream knows by a password."""
    password = tmp_path / "password"
    password.write_text("hunter2")
    password.chmod(0o600)
    idle.settings["upstreams"]["up.test"] |= {"username": "robot", "password_file": str(password), "private": False}
    idle.write()
    return idle.start()


def wanting(scheme: str) -> tuple[str, dict[str, Any]]:
    """A refusal with this challenge."""
    return ("status", {"code": 401, "WWW_Authenticate": scheme})


def shown(exchanges: list[Exchange]) -> set[str | None]:
    return {exchange.header("Authorization") for exchange in exchanges}


def test_a_token_server_of_its_choice_is_not_asked(
    known: Appliance, upstream: RemoteRegistry, elsewhere: RemoteRegistry
) -> None:
    """The password goes nowhere: not there, not into the log, and clients get no challenge."""
    upstream.add("team/app")
    upstream.misbehave("*", wanting(f'Bearer realm="{elsewhere.url}/token",service="x"'))
    reply = ask(known.authority, f"{APP}/manifests/latest")
    assert reply.status == 502 and "www-authenticate" not in reply.headers
    assert "token realm" in reply.json()["errors"][0]["message"]
    assert elsewhere.seen() == [] and shown(upstream.seen()) == {None}
    assert "hunter2" not in known.log() and BASIC.split()[1] not in known.log()


@pytest.mark.parametrize("port", [False, True], ids=["another host", "another port"])
def test_a_redirect_takes_no_password_along(
    known: Appliance, upstream: RemoteRegistry, elsewhere: RemoteRegistry, port: bool
) -> None:
    """Of a manifest and of a blob; not even to the next port of the same machine."""
    other = RemoteRegistry().start() if port else elsewhere
    try:
        digest, size = upstream.add("team/app")["blobs"][1]
        other.add("team/app")
        upstream.misbehave("*", wanting('Basic realm="x"'), times=1)
        upstream.misbehave(f"GET {APP}/*", ("redirect", {"location": f"{other.url}{APP}/blobs/{digest}?sig=s3cret"}))
        get(known.authority, "/v2/")
        reply = ask(known.authority, f"{APP}/blobs/{digest}")
        assert (reply.status, len(reply.body)) == (200, size)
        assert BASIC in shown(upstream.seen()) and shown(other.seen()) == {None}
        assert "s3cret" not in known.log() and "hunter2" not in known.log()
    finally:
        if port:
            other.kill()


@pytest.mark.parametrize("has_own", [True, False], ids=["with a password of its own", "without"])
def test_a_mirror_is_not_shown_the_password_of_the_registry(
    idle: Appliance, upstream: RemoteRegistry, elsewhere: RemoteRegistry, has_own: bool, tmp_path: Path
) -> None:
    """It is the second URL of the same upstream, and asks for one when the first is down."""
    added = [registry.add("team/app") for registry in (upstream, elsewhere)]
    passwords = {upstream.authority: "robot:hunter2"} | ({elsewhere.authority: "robot:other"} if has_own else {})
    auths = {host: {"auth": base64.b64encode(pair.encode()).decode()} for host, pair in passwords.items()}
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"auths": auths}))
    changed = {"url": [upstream.url, elsewhere.url], "auth_file": str(file), "private": False}
    idle.settings["upstreams"]["up.test"] |= changed
    idle.write()
    idle.start()
    for registry in (upstream, elsewhere):
        registry.misbehave("*", wanting('Basic realm="x"'), times=1)
    get(idle.authority, f"{APP}/manifests/latest")
    assert BASIC in shown(upstream.seen()) and shown(elsewhere.seen()) <= {None}
    upstream.misbehave("*", ("status", {"code": 503}))
    reply = ask(idle.authority, f"{APP}/blobs/{added[0]['blobs'][1][0]}")
    own = "Basic " + base64.b64encode(b"robot:other").decode()
    assert shown(elsewhere.seen()) == ({None, own} if has_own else {None})
    assert reply.status == (200 if has_own else 404)


@pytest.mark.parametrize("kind", ["manifests/latest", "tags/list", "blobs/"])
def test_none_of_its_headers_reaches_a_client(appliance: Appliance, upstream: RemoteRegistry, kind: str) -> None:
    """Whatever it sends along, the response has the fields that ours have, with our values."""
    added = upstream.add("team/app")
    digest, size = added["blobs"][1]
    path = f"{APP}/{kind}" + (digest if kind == "blobs/" else "")
    evil = {
        "Set-Cookie": "a=b",
        "X-Evil": "1",
        "Location": "https://evil.example/",
        "Refresh": "0; url=https://evil.example/",
        "Access-Control-Allow-Origin": "*",
        "Content-Disposition": "inline",
        "Content-Security-Policy": "default-src *",
        "Cache-Control": "public, max-age=99999",
        "ETag": '"evil"',
        "Warning": '299 - "evil"',
        "Docker-Content-Digest": "sha256:" + "0" * 64,
        "OCI-Namespace": "evil.example",
        "OCI-Subject": "evil",
        "Server": "evil",
        "WWW-Authenticate": 'Basic realm="evil"',
    }
    # A wrong digest of a tag is believed to be one, and its manifest is not there.
    left = {"Docker-Content-Digest"} if kind.startswith("manifests") else set()
    faults = [("header", {"name": name, "value": value}) for name, value in evil.items() if name not in left]
    upstream.misbehave("*", *faults)
    for _ in range(2):
        reply = ask(appliance.authority, path)
        assert reply.status == 200
        assert "evil" not in json.dumps(reply.headers) and "a=b" not in json.dumps(reply.headers)
        assert set(reply.headers) <= {
            "server", "date", "content-type", "content-length", "docker-distribution-api-version", "cache-status",
            "docker-content-digest", "etag", "accept-ranges", "cache-control", "content-disposition",
            "content-security-policy", "x-content-type-options",
        }  # fmt: skip
        assert reply.headers["content-disposition"] == "attachment"
        assert reply.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert kind != "blobs/" or (len(reply.body), reply.headers["etag"]) == (size, f'"{digest}"')


def test_no_url_in_a_manifest_is_followed(
    known: Appliance, upstream: RemoteRegistry, elsewhere: RemoteRegistry
) -> None:
    """
    A foreign layer is asked of its upstream and no other server, with a password or without (CVE-2020-15157); the image
    is not made whole by way of it either.
    """
    upstream.add("team/app"), elsewhere.add("team/app")
    layer = descriptor(FOREIGN_LAYER, b"foreign", urls=[f"{elsewhere.url}{APP}/blobs/x", "file:///etc/passwd"])
    config = descriptor("application/vnd.docker.container.image.v1+json", CONFIG, urls=[f"{elsewhere.url}/config"])
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    document = {"schemaVersion": 2, "mediaType": kind, "config": config, "layers": [layer]}
    upstream.misbehave(
        f"*{APP}/manifests/*",
        ("body", {"text": json.dumps(document), "content_type": kind}),
        ("without", {"name": "Docker-Content-Digest"}),
    )
    assert ask(known.authority, f"{APP}/manifests/latest").status == 200
    for wanted in (layer, config):
        reply = ask(known.authority, f"{APP}/blobs/{wanted['digest']}")
        assert (reply.status, reply.json()["errors"][0]["code"]) == (404, "BLOB_UNKNOWN")
    assert len(upstream.seen(f"GET {APP}/blobs/*")) >= 2
    assert elsewhere.seen() == []


def test_a_size_that_is_claimed_takes_no_room(appliance: Appliance, upstream: RemoteRegistry) -> None:
    """A layer of a pebibyte in a manifest: no memory and no disk, and the layer that is there is served."""
    digest, size = upstream.add("team/app")["blobs"][1]
    kind = "application/vnd.oci.image.manifest.v1+json"
    layer = {"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": 2**50}
    document = {"schemaVersion": 2, "mediaType": kind, "config": descriptor("a/b", CONFIG), "layers": [layer]}
    upstream.misbehave(
        f"*{APP}/manifests/*",
        ("body", {"text": json.dumps(document), "content_type": kind}),
        ("without", {"name": "Docker-Content-Digest"}),
    )
    before = appliance.rss()
    assert ask(appliance.authority, f"{APP}/manifests/latest").status == 200
    reply = ask(appliance.authority, f"{APP}/blobs/{digest}")
    assert (reply.status, len(reply.body)) == (200, size)
    assert appliance.rss() - before < 64 * 1024 * 1024
    files = [path.stat() for path in appliance.store.rglob("*") if path.is_file()]
    assert max(each.st_size for each in files) < 1_000_000
