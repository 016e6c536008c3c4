"""How the appliance is, over the API."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from appliance import __version__
from appliance.errors import Offline
from appliance.index.repositories import Repositories
from appliance.oci.digest import Digest
from appliance.settings import UpstreamSettings
from appliance.upstream.interfaces import Condition, Health, RateLimit, UrlCondition
from tests.doubles.appliance import HUB, NGINX, Appliance
from tests.doubles.deferreds import begin, failing, result
from tests.doubles.images import image, multi_arch


def test_status_tells_what_there_is() -> None:
    """Version, site, upstreams, bytes and counts."""
    site = Appliance()
    content = multi_arch()
    site.hold(content, "1", "2")
    site.clock.advance(90)
    found = site.get("status")
    assert found == {
        "version": __version__,
        "site": "berth-3",
        "started": "2027-01-15T08:00:00Z",
        "uptime": 90.0,
        "offline": False,
        "upstreams": [
            {
                "name": "docker.io",
                "aliases": ["index.docker.io", "registry-1.docker.io"],
                "urls": [
                    {"url": "https://hub.example", "health": None, "since": None, "fault": "", "next": None},
                ],
                "kind": "dockerhub",
                "offline": False,
                "rateLimit": None,
                "resting": [],
            }
        ],
        "flights": 0,
        "storeBytes": site.store.total(),
        "disk": {
            "size": site.store.capacity(),
            "free": site.store.free(),
            "reserve": 2_000_000_000,
            "state": "ok",
            "unstored": 0,
            "reason": "",
        },
        "counts": {"repositories": 1, "tags": 2, "manifests": 3, "wants": 0},
        "damaged": [],
        "unreadable": [],
        "inbox": [],
        "damagedBlobs": [],
        "scrub": {"underWay": False, "finished": None, "damaged": 0},
        "collection": {"started": None, "images": 0, "freed": 0, "notes": []},
        "leftOver": {kind: {"count": 0, "bytes": 0} for kind in ("beginnings", "staged", "documents", "damaged")},
        "refused": [],
        "certificates": [],
        "certificateWarnings": [],
    }


def test_status_tells_of_locked_tags_whose_upstream_says_something_else() -> None:
    """Since when, and what; not any more when they are unlocked."""
    site, old, new = Appliance(), image("old"), image("new")
    site.hold(old, "1")
    repository = result(site.repositories.get(HUB, NGINX))
    repository.pin("1", "operator")
    repository.lock("1")
    site.offer(new, "1")
    result(site.through.manifest(site.at(HUB, NGINX), "1"))
    assert site.get("status")["refused"] == [
        {"name": "docker.io/library/nginx:1", "digest": new.digest, "since": "2027-01-15T08:00:00Z"}
    ]
    site.ask("DELETE", "pins/nginx:1")
    assert site.get("status")["refused"] == []


def test_status_counts_what_is_under_way_and_wanted() -> None:
    """Flights and wants, as they are now."""
    site = Appliance()
    content = image()
    site.offer(content, "1")
    result(site.through.manifest(site.at(HUB, NGINX), "1"))
    site.hub.by_hand = True
    answer = begin(site.through.blob(site.at(HUB, NGINX), Digest.parse(content.layers[0].digest)))
    assert site.get("status")["flights"] == 1
    site.hub.bodies[0].feed(10**6)
    site.hub.bodies[0].end()
    result(answer).close()
    assert site.get("status")["flights"] == 0
    closed = Appliance(offline=True)
    failing(closed.through.manifest(closed.at(HUB, NGINX), "1"), Offline)
    found = closed.get("status")
    assert (found["counts"]["wants"], found["offline"], found["upstreams"][0]["offline"]) == (1, True, True)


def test_status_reports_upstreams_and_outages() -> None:
    """Each URL's health, since when, why, and when it is looked at again; the pulls that are left; who rests."""
    site = Appliance()
    now = site.clock.seconds()
    site.hub.conditions = Condition(
        urls=(
            UrlCondition("https://hub.example", Health.DOWN, now - 60, "GET https://hub.example/v2/: cut", now + 4.4),
            UrlCondition("https://mirror.example", Health.UP, now - 3600),
        ),
        rate_limit=RateLimit(100, 20, 21600.0),
        resting=("library/nginx",),
    )
    [upstream] = site.get("status")["upstreams"]
    assert upstream["urls"] == [
        {
            "url": "https://hub.example",
            "health": "down",
            "since": "2027-01-15T07:59:00Z",
            "fault": "GET https://hub.example/v2/: cut",
            "next": "2027-01-15T08:00:04Z",
        },
        {
            "url": "https://mirror.example",
            "health": "up",
            "since": "2027-01-15T07:00:00Z",
            "fault": "",
            "next": None,
        },
    ]
    assert upstream["rateLimit"] == {"limit": 100, "remaining": 20, "window": 21600.0}
    assert upstream["resting"] == ["library/nginx"]


def test_status_tells_which_upstream_is_offline() -> None:
    """One may be while others are not."""
    site = Appliance()
    quiet = UpstreamSettings(name="quay.io", urls=("https://quay.io",), offline=True)
    site.settings = msgspec.structs.replace(site.settings, upstreams={**site.settings.upstreams, "quay.io": quiet})
    found = site.get("status")
    assert found["offline"] is False
    assert {each["name"]: each["offline"] for each in found["upstreams"]} == {HUB: False, "quay.io": True}


def test_status_follows_the_configuration() -> None:
    """What was read again is what is reported."""
    site = Appliance()
    site.settings = msgspec.structs.replace(site.settings, upstreams={})
    assert site.get("status")["upstreams"] == []


def test_status_names_documents_that_were_set_aside(logged_errors: list[dict[str, Any]]) -> None:
    """And where they went: nothing disappears in silence."""
    site = Appliance()
    site.hold(image(), "1")
    documents: Any = site.repositories._documents
    [key] = result(documents.list((), "index.json"))
    documents._documents[key] = (b"{", 1)
    fresh = Repositories(documents)
    site.services.status._repositories = fresh
    [damaged] = site.get("status")["damaged"]
    assert damaged["document"] == "/".join(key) and ".damaged-" in damaged["keptAs"]
    logged_errors.clear()


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_status_can_only_be_read(method: str) -> None:
    """Another method is refused as JSON."""
    assert Appliance().error(method, "status")[:2] == (405, "method-not-allowed")
