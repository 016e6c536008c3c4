"""Real clients pull through the appliance what the upstream holds, with the upstream and without."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.clients.conftest import HELD, Upstream
from tests.clients.sides import carry, fronted
from tests.clients.tools import DockerRegistry, Podman, Skopeo, Source
from tests.doubles.images import OCI, assemble, random_tar
from tests.process.service import UPSTREAM, Appliance, until

pytestmark = [pytest.mark.real_client, pytest.mark.process]


def check(client: Skopeo | Podman, appliance: Appliance) -> None:
    """The client pulls everything, and every digest is the upstream's."""
    for (repository, tag), content in HELD.items():
        assert content.digest in client.pull(Source(appliance, repository, tag))


def test_digests_are_the_upstreams_with_it_without_it_and_after_a_restart(
    client: Skopeo | Podman, appliance: Appliance, upstream: Upstream
) -> None:
    """Pull; kill the upstream, pull; restart the appliance, pull: each into an empty storage, the same digests."""
    check(client, appliance)
    upstream.kill()
    check(client, appliance)
    appliance.restart()
    check(client, appliance)


def test_inspect_and_list_tags_answer_without_the_upstream(
    skopeo: Skopeo, appliance: Appliance, upstream: Upstream
) -> None:
    """What skopeo says of an image is the same before and after the upstream is gone."""
    name = f"docker://{appliance.authority}/library/tiny:latest"
    before = skopeo.run("inspect", "--tls-verify=false", name)
    upstream.kill()
    assert skopeo.run("inspect", "--tls-verify=false", name) == before
    assert skopeo.tags(appliance.authority, "library/tiny") == ["latest"]
    appliance.restart()
    assert skopeo.run("inspect", "--tls-verify=false", name) == before
    assert skopeo.tags(appliance.authority, "library/tiny") == ["latest"]


def test_an_index_pulled_for_one_platform_keeps_its_digest_and_its_tag(
    client: Skopeo | Podman, skopeo: Skopeo, appliance: Appliance, upstream: Upstream
) -> None:
    """One platform was pulled: the tag still means the whole index, with and without the upstream."""
    index = HELD["library/multi", "latest"]
    name = f"docker://{appliance.authority}/library/multi:latest"
    if isinstance(client, Skopeo):
        one = ("--override-arch", "arm64", "copy", "--quiet", "--src-tls-verify=false")
        skopeo.run(*one, name, f"dir:{appliance.folder}/one")
    else:
        client.pull(Source(appliance, "library/multi", "latest"))
    upstream.kill()
    assert skopeo.raw(name, "--tls-verify=false") == index.digest
    assert skopeo.tags(appliance.authority, "library/multi") == ["latest"]


def test_the_store_is_an_oci_layout_that_skopeo_reads(skopeo: Skopeo, appliance: Appliance, upstream: Upstream) -> None:
    """
    With the appliance stopped, each repository can be read from the folder.

    skopeo passes over Docker's own media types in a layout's index, so the OCI images have to do.
    """
    check(skopeo, appliance)
    appliance.stop()
    upstream.kill()
    readable = {name: each for name, each in HELD.items() if each.manifest.media_type in (OCI.manifest, OCI.index)}
    for (repository, tag), content in readable.items():
        layout = f"oci:{appliance.store}/repositories/{UPSTREAM}/{repository}/_layout:{tag}"
        assert skopeo.raw(layout) == content.digest
        assert json.loads(skopeo.run("inspect", layout))["Layers"]


def test_what_was_pulled_here_is_pulled_there(
    client: Skopeo | Podman, appliance: Appliance, upstream: Upstream, sealed: Appliance, tmp_path: Path
) -> None:
    """Exported, carried and imported where there is no network: the same client gets the same digests there."""
    check(client, appliance)
    carry(appliance, sealed, tmp_path)
    upstream.kill()
    check(client, sealed)


def test_an_image_of_which_the_first_client_had_four_layers_of_five_is_there_for_the_next(
    skopeo: Skopeo, docker_registry: DockerRegistry, tmp_path: Path
) -> None:
    """The base image came from elsewhere; the registry stops a little later, and a client with nothing pulls all."""
    tars = [random_tar(f"layer-{number}", 50_000) for number in range(5)]
    base, app = assemble(tars[:4], "amd64", Cmd=["/bin/base"]), assemble(tars, "amd64", Cmd=["/bin/app"])
    docker_registry.add("team/app", "base", base)
    docker_registry.add("team/app", "1", app)
    copy = ("copy", "--quiet", "--src-tls-verify=false")
    with fronted(tmp_path, docker_registry.url) as appliance:
        skopeo.run(*copy, f"docker://{docker_registry.authority}/team/app:base", f"oci:{tmp_path}/had:base")
        skopeo.run(*copy, f"docker://{appliance.authority}/team/app:1", f"oci:{tmp_path}/had:1")
        until(lambda: "/manifests/1 200" in appliance.log() and "/blobs/" in appliance.log(), "the access log")
        asked = set(re.findall(r"GET /v2/team/app/blobs/(\S+) 200", appliance.log()))
        assert asked == {app.blobs[0].digest, app.layers[4].digest}
        until(lambda: all(appliance.blob(blob.digest).exists() for blob in app.blobs), "the other four layers")
        docker_registry.kill()
        assert app.digest in skopeo.pull(Source(appliance, "team/app", "1"))
