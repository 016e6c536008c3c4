"""Imports that are killed, and imports beside pulls of the same blobs: what is served stays whole."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import random
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients import plain
from tests.clients.plain import ask, pull
from tests.doubles.remote import RemoteRegistry
from tests.process.crossing import Images, command, imported, pull_all
from tests.process.service import UPSTREAM, Appliance

pytestmark = pytest.mark.process


ROUNDS = int(os.environ.get("PULLCACHE_IMPORT_KILL_ROUNDS", "5"))
LONGEST = 0.1
"""Seconds from the order to the latest kill; an import of one round takes about as long."""
LARGE = 3_000_000
"""Bytes of a layer that is not pulled in one go."""


def add_round(upstream: RemoteRegistry, number: int) -> Images:
    """Images of one round, 24 MB together."""
    sizes = [4_000_000, 4_000_000]
    return {
        (f"round{number}/{name}", "1"): upstream.add(f"round{number}/{name}", "1", sizes=sizes, seed=f"{number}{name}")
        for name in ("a", "b", "c")
    }


def post_import(appliance: Appliance, file: Path, refusals: list[bytes]) -> None:
    """Import until the appliance dies; what it says instead is added to C{refusals}."""
    connection = http.client.HTTPConnection(appliance.admin, timeout=plain.PATIENCE)
    order, headers = json.dumps({"files": [str(file)]}), {"Content-Type": "application/json"}
    try:
        connection.request("POST", "/api/v1/imports", order, headers)
        body = connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return
    finally:
        connection.close()
    if b'{"receipt":' not in body:
        refusals.append(body)


def served(appliance: Appliance, images: Images) -> list[bool]:
    """Of each image whether its tag is known."""
    paths = [f"/v2/{repository}/manifests/{tag}" for repository, tag in images]
    return [ask(appliance.authority, path).status == 200 for path in paths]


def test_an_import_that_is_killed_publishes_all_or_nothing(
    appliance: Appliance, sealed: Appliance, upstream: RemoteRegistry, tmp_path: Path
) -> None:
    """After kill -9 at any moment: what was served is served, nothing is half there, a second import ends it."""
    moments = random.Random(3)
    refusals: list[bytes] = []
    known: Images = {}
    for number in range(ROUNDS):
        images = add_round(upstream, number)
        pull_all(appliance, images)
        bundle = tmp_path / f"{number}.tar"
        command(appliance, "export", f"{UPSTREAM}/round{number}/**", "-o", bundle)
        client = threading.Thread(target=post_import, args=(sealed, bundle, refusals))
        client.start()
        threading.Event().wait(moments.uniform(0, LONGEST))
        sealed.kill()
        client.join(plain.PATIENCE)
        assert refusals == []
        sealed.start()
        pull_all(sealed, known)
        published = served(sealed, images)
        assert len(set(published)) == 1, "a part of the bundle was published"
        if all(published):
            pull_all(sealed, images)
        imported(sealed, bundle)
        known |= images
        pull_all(sealed, known)


def bundle_of(appliance: Appliance, upstream: RemoteRegistry, path: Path) -> tuple[str, int]:
    """A bundle with one image of a large layer; that layer's digest and size."""
    digest, size = upstream.add("team/app", sizes=[LARGE])["blobs"][1]
    pull(appliance.authority, "team/app", "latest")
    command(appliance, "export", "--all", "-o", path)
    return digest, size


@pytest.fixture
def second(tmp_path: Path, upstream: RemoteRegistry) -> Iterator[Appliance]:
    """A running appliance in front of the same upstream, which takes its time with blobs."""
    made = Appliance(tmp_path / "second", upstream.url).start()
    yield made
    made.kill()


def test_a_pull_that_brings_wrong_bytes_after_an_import_spoils_nothing(
    appliance: Appliance, second: Appliance, upstream: RemoteRegistry, tmp_path: Path
) -> None:
    """While a layer is being pulled, an import brings it; the upstream's last bytes are wrong. The blob stays right."""
    digest, size = bundle_of(appliance, upstream, tmp_path / "all.tar")
    plain.get(second.authority, "/v2/team/app/manifests/latest")
    upstream.misbehave(f"GET /v2/*/blobs/{digest}", ("flipped", {"offset": size - 9}), ("trickle", {"rate": size / 5}))
    pulling = plain.Transfer(second.authority, f"/v2/team/app/blobs/{digest}")
    pulling.read(size // 10)
    imported(second, tmp_path / "all.tar")
    assert second.blob(digest).is_file()
    with pytest.raises((http.client.IncompleteRead, OSError)):
        pulling.rest()
    served = plain.get(second.authority, f"/v2/team/app/blobs/{digest}", digest)
    assert "hit" in served.cache_status
    assert plain.get(second.restart().authority, f"/v2/team/app/blobs/{digest}", digest).body == served.body


def test_an_import_that_brings_wrong_bytes_during_a_pull_spoils_nothing(
    appliance: Appliance, second: Appliance, upstream: RemoteRegistry, tmp_path: Path
) -> None:
    """A damaged stick is refused, and the pull of the same layer that is under way comes to its end."""
    digest, size = bundle_of(appliance, upstream, tmp_path / "all.tar")
    with tarfile.open(tmp_path / "all.tar") as archive:
        at = archive.getmember("blobs/" + digest.replace(":", "/")).offset_data + size - 9
    with open(tmp_path / "all.tar", "r+b") as file:
        file.seek(at)
        wrong = bytes([file.read(1)[0] ^ 1])
        file.seek(at)
        file.write(wrong)
    plain.get(second.authority, "/v2/team/app/manifests/latest")
    upstream.misbehave(f"GET /v2/*/blobs/{digest}", ("trickle", {"rate": size / 5}))
    pulling = plain.Transfer(second.authority, f"/v2/team/app/blobs/{digest}")
    beginning = pulling.read(size // 10)
    refused = command(second, "import", tmp_path / "all.tar", status=1)
    assert digest in refused.stderr
    assert "sha256:" + hashlib.sha256(beginning + pulling.rest()).hexdigest() == digest
    plain.get(second.authority, f"/v2/team/app/blobs/{digest}", digest)
    assert [exchange.sent for exchange in upstream.seen(f"GET /v2/team/app/blobs/{digest}")] == [size, size]
