"""A pulled image is whole: it is there for others when its registry is not, whatever its first client had already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.clients.plain import ask, get, pull
from tests.doubles.remote import RemoteRegistry
from tests.process.service import Appliance, until

REPOSITORY = "team/app"
SIZES = [200_000, 3000, 100_000, 50_000, 3000]

pytestmark = pytest.mark.process


def image(upstream: RemoteRegistry, **more: Any) -> dict[str, Any]:
    """An image of five layers in the registry."""
    return upstream.add(REPOSITORY, "1", sizes=SIZES, **more)


def pull_one_layer(appliance: Appliance, content: dict[str, Any]) -> None:
    """As a client that has all the rest."""
    manifest = get(appliance.authority, f"/v2/{REPOSITORY}/manifests/1", content["digest"])
    layer = manifest.json()["layers"][2]["digest"]
    get(appliance.authority, f"/v2/{REPOSITORY}/blobs/{layer}", layer)


def is_whole(appliance: Appliance, content: dict[str, Any]) -> bool:
    """Whether the store has all of its blobs."""
    return all(appliance.blob(digest).exists() for digest, _ in content["blobs"])


def metrics(appliance: Appliance) -> dict[str, float]:
    """What C{/metrics} says, by name and labels."""
    lines = ask(appliance.admin, "/metrics").body.decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}


def listed(appliance: Appliance) -> dict[str, Any]:
    """The one image that C{pullcache list} shows."""
    [image] = ask(appliance.admin, "/api/v1/images").json()["images"]
    found: dict[str, Any] = image
    return found


def test_an_image_of_which_a_client_took_one_layer_is_pulled_without_its_upstream(
    appliance: Appliance, upstream: RemoteRegistry
) -> None:
    """One layer of five was asked for; the upstream stops a little later; another client pulls all five."""
    content = image(upstream)
    pull_one_layer(appliance, content)
    until(lambda: is_whole(appliance, content), "the layers that no client asked for")
    asked = [exchange.path for exchange in upstream.seen(f"/v2/{REPOSITORY}/blobs/*")]
    assert len(asked) == len(set(asked)) == len(content["blobs"])
    upstream.kill()
    assert pull(appliance.authority, REPOSITORY, "1").digest == content["digest"]
    until(lambda: metrics(appliance)["pullcache_images_incomplete"] == 0, "nothing is on its way")
    labels = '{upstream="up.test"}'
    assert metrics(appliance)[f"pullcache_prefetched_blobs_total{labels}"] == len(content["blobs"]) - 1
    assert not listed(appliance)["fetching"] and listed(appliance)["offline"]


def test_who_pulls_all_of_it_costs_no_request_more(appliance: Appliance, upstream: RemoteRegistry) -> None:
    """An image like any other: each blob once, the manifest once, and nothing afterwards."""
    content = image(upstream)
    pull(appliance.authority, REPOSITORY, "1")
    before = len(upstream.seen())
    until(lambda: metrics(appliance)["pullcache_images_incomplete"] == 0, "looked at")
    assert len(upstream.seen()) == before == 2 + len(content["blobs"])


def test_it_is_taken_up_again_after_a_kill_and_an_outage(appliance: Appliance, upstream: RemoteRegistry) -> None:
    """
    The line is slow, the appliance is killed, the upstream is gone when it starts, and comes back: the image becomes
    whole without another pull; until then C{pullcache list} says that it is on its way.
    """
    content = image(upstream)
    upstream.misbehave(f"/v2/{REPOSITORY}/blobs/*", ("late", {"seconds": 3600}), skip=1)
    pull_one_layer(appliance, content)
    document = appliance.store / "state/prefetch.json"
    until(lambda: document.exists() and content["digest"] in document.read_text(), "noted on disk")
    assert listed(appliance)["fetching"]
    appliance.kill()
    upstream.kill()
    appliance.start()
    assert listed(appliance)["fetching"] and metrics(appliance)["pullcache_images_incomplete"] == 1
    upstream.start()
    assert image(upstream) == content
    until(lambda: is_whole(appliance, content), "the layers that no client asked for")
    until(lambda: not listed(appliance)["fetching"], "it is said to be whole")


def test_a_reload_decides_what_is_fetched(tmp_path: Path, upstream: RemoteRegistry) -> None:
    """By default a platform that was pulled; with C{none} nothing that no client asked for, with C{index} all of it."""
    made = Appliance(tmp_path / "whole", upstream.url, upstream={"prefetch": {"image": "none"}}).start()
    try:
        whole = upstream.add(REPOSITORY, "1", "index")
        get(made.authority, f"/v2/{REPOSITORY}/manifests/1", whole["digest"])
        assert metrics(made)["pullcache_images_incomplete"] == 0
        made.settings["upstreams"]["up.test"]["prefetch"] = {"image": "index"}
        made.reload()
        get(made.authority, f"/v2/{REPOSITORY}/manifests/1", whole["digest"])
        until(lambda: metrics(made)["pullcache_images_incomplete"] == 0, "made whole")
        upstream.kill()
        pull(made.authority, REPOSITORY, "1")
    finally:
        made.kill()
