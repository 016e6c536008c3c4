"""The command and an appliance of another version."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from appliance.api import ImageList, PlannedExport, Status, WantList
from appliance.cli.client import read
from tests.doubles.appliance import Appliance
from tests.doubles.images import image

OLDER_STATUS = {
    "version": "0.1.0",
    "site": "berth-3",
    "upstreams": [{"name": "docker.io", "urls": [{"url": "https://x"}], "rateLimit": {"limit": 100}}],
    "storeBytes": 7,
}


def test_what_an_older_appliance_does_not_say_is_empty() -> None:
    """A status without an inbox has nothing in it; one without counts holds nothing."""
    status = read(OLDER_STATUS, Status)
    assert (status.version, status.store_bytes, status.inbox, status.counts.tags) == ("0.1.0", 7, [], 0)
    [upstream] = status.upstreams
    assert upstream.rate_limit is not None and upstream.rate_limit.limit == 100
    assert (upstream.urls[0].health, upstream.kind, upstream.rate_limit.window) == (None, "", None)
    assert read({"id": "7", "volumes": [{"n": 1, "file": "a.tar", "size": 3}]}, PlannedExport).totals.blobs == 0


def test_what_a_newer_appliance_says_besides_is_ignored() -> None:
    """At every depth."""
    newer = {**OLDER_STATUS, "mood": "good", "upstreams": [{"name": "ghcr.io", "urls": [{"url": "u", "speed": 3}]}]}
    assert read(newer, Status).upstreams[0].urls[0].url == "u"
    assert read({"wants": [], "more": None}, WantList).wants == []


@pytest.mark.parametrize(
    ("document", "kind"),
    [({"images": [{"title": 1}]}, ImageList), ({"site": "x"}, Status), ([], Status), ({"version": 1}, Status)],
)
def test_something_else_is_no_answer(document: Any, kind: type[Any]) -> None:
    """What a struct is about must be there, and be what it should."""
    with pytest.raises(msgspec.ValidationError):
        read(document, kind)


def test_an_answer_of_this_version_is_read_as_it_was_written() -> None:
    """Nothing is lost between the appliance and the command."""
    site = Appliance()
    site.hold(image(), "1")
    for path, kind in (("status", Status), ("images", ImageList), ("wants", WantList)):
        document = site.get(path)
        read_back = msgspec.json.decode(msgspec.json.encode(read(document, kind)))
        assert read_back == document
