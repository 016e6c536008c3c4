"""Bytes that a disk has lost, below a running appliance: found, set aside, fetched again, or brought by a bundle."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.clients.plain import ask, pull
from tests.doubles.remote import RemoteRegistry
from tests.process.crossing import command, imported
from tests.process.service import UPSTREAM, Appliance, until

pytestmark = pytest.mark.process

REPOSITORY = "team/app"


def flip(appliance: Appliance, digest: str) -> None:
    """Change one byte in the middle of a blob's file."""
    path = appliance.blob(digest)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def scrubbed(appliance: Appliance, status: int = 0) -> dict[str, str]:
    """What a scrub found damaged, and what became of it."""
    ended = command(appliance, "--json", "scrub", "--rate", "500MB/s", status=status)
    return {each["digest"]: each["outcome"] for each in json.loads(ended.stdout)["damaged"]}


def wanted(appliance: Appliance, path: Path) -> list[dict[str, Any]]:
    command(appliance, "wants", "-o", path)
    found: list[dict[str, Any]] = json.loads(path.read_bytes())["wants"]
    return found


def aside(appliance: Appliance, digest: str) -> bool:
    return (appliance.store / "damaged" / digest.replace(":", "-")).exists()


def largest(appliance: Appliance, manifest: str) -> str:
    """The digest of the largest layer of an image that is held."""
    layers = json.loads(appliance.blob(manifest).read_bytes())["layers"]
    digest: str = max(layers, key=lambda layer: layer["size"])["digest"]
    return digest


def pulled(appliance: Appliance, upstream: RemoteRegistry) -> tuple[str, str]:
    """Digests of an image that was pulled, and of its large layer."""
    image = upstream.add(REPOSITORY, "1", sizes=[400_000, 5000])
    found = pull(appliance.authority, REPOSITORY, "1")
    assert found.digest == image["digest"]
    layer = largest(appliance, found.digest)
    # A client may have a layer a moment before it has its name on the disk.
    until(appliance.blob(layer).exists, "stored")
    return found.digest, layer


def test_a_scrub_finds_flipped_bytes_and_fetches_again(appliance: Appliance, upstream: RemoteRegistry) -> None:
    """A layer and a manifest; the bytes that were there lie in damaged/, and the next pull is right."""
    manifest, layer = pulled(appliance, upstream)
    for digest in (manifest, layer):
        flip(appliance, digest)
    assert scrubbed(appliance) == {manifest: "fetched", layer: "fetched"}
    assert aside(appliance, manifest) and aside(appliance, layer)
    upstream.kill()
    assert pull(appliance.authority, REPOSITORY, manifest).digest == manifest
    assert scrubbed(appliance) == {}


def test_a_pull_finds_a_layer_that_was_cut(appliance: Appliance, upstream: RemoteRegistry) -> None:
    """Before a byte of it is sent: this client has it whole already."""
    manifest, layer = pulled(appliance, upstream)
    path = appliance.blob(layer)
    path.write_bytes(path.read_bytes()[:100_000])
    assert pull(appliance.authority, REPOSITORY, "1").digest == manifest
    until(lambda: aside(appliance, layer), "set aside")
    assert scrubbed(appliance) == {}


def test_a_blob_that_is_cut_while_it_is_sent_is_whole_for_the_next_client(
    appliance: Appliance, upstream: RemoteRegistry
) -> None:
    """A file that ends early cuts the connection; then it is looked at, and fetched again."""
    image = upstream.add(REPOSITORY, "big", sizes=[30_000_000])
    layer = largest(appliance, pull(appliance.authority, REPOSITORY, "big").digest)
    until(appliance.blob(layer).exists, "stored")
    host, port = appliance.authority.split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(f"GET /v2/{REPOSITORY}/blobs/{layer} HTTP/1.1\r\nHost: {appliance.authority}\r\n\r\n".encode())
        client.recv(1000)
        with open(appliance.blob(layer), "r+b") as file:
            file.truncate(25_000_000)
        received = 0
        try:
            while data := client.recv(1 << 20):
                received += len(data)
        except ConnectionError:
            pass
    assert received < 30_000_000
    until(lambda: aside(appliance, layer), "set aside")
    assert pull(appliance.authority, REPOSITORY, "big").digest == image["digest"]


def test_without_an_upstream_the_next_bundle_for_the_wants_mends_it(
    appliance: Appliance, sealed: Appliance, upstream: RemoteRegistry, tmp_path: Path
) -> None:
    """Named by their digests in the wants, brought by an export for these, and right again after the import."""
    manifest, layer = pulled(appliance, upstream)
    command(appliance, "export", "--all", "-o", tmp_path / "all.tar")
    imported(sealed, tmp_path / "all.tar")
    for digest in (manifest, layer):
        flip(sealed, digest)
    assert scrubbed(sealed, 1) == {manifest: "wanted", layer: "wanted"}
    found = wanted(sealed, tmp_path / "wants.json")
    assert {(each["upstream"], each["repository"], each["reference"], each["reason"]) for each in found} == {
        (UPSTREAM, REPOSITORY, digest, "damaged") for digest in (manifest, layer)
    }
    assert ask(sealed.authority, f"/v2/{REPOSITORY}/manifests/1").status == 404
    assert scrubbed(sealed, 1) == {manifest: "wanted", layer: "wanted"}
    command(sealed, "inventory", "-o", tmp_path / "inventory.json")

    line = ("--want", tmp_path / "wants.json", "--have", tmp_path / "inventory.json", "-o", tmp_path / "more.tar")
    command(appliance, "export", *line)
    imported(sealed, tmp_path / "more.tar")
    assert pull(sealed.authority, REPOSITORY, "1").digest == manifest
    assert scrubbed(sealed) == {} and wanted(sealed, tmp_path / "wants.json") == []


def test_the_store_of_a_stopped_appliance_is_scrubbed(appliance: Appliance, upstream: RemoteRegistry) -> None:
    """Refused while it runs; then what is damaged is wanted, and the next start fetches it by itself."""
    manifest, layer = pulled(appliance, upstream)
    line = ("scrub", "--store", appliance.store)
    assert "owned by another process" in command(appliance, *line, status=1).stderr
    appliance.stop()
    assert "0 damaged" in command(appliance, *line).stdout
    flip(appliance, layer)
    assert layer in command(appliance, *line, status=1).stdout
    assert aside(appliance, layer) and not appliance.blob(layer).exists()
    [want] = json.loads((appliance.store / "state" / "wants.json").read_bytes())
    assert (want["reference"], want["reason"]) == (layer, "damaged")
    appliance.start()
    until(appliance.blob(layer).exists, "fetched again")
    assert scrubbed(appliance) == {} and pull(appliance.authority, REPOSITORY, "1").digest == manifest
