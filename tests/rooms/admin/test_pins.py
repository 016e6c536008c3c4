"""Pins over the API: what an operator keeps, and lets go."""

from __future__ import annotations

import errno
from typing import Any
from urllib.parse import quote

import pytest
from twisted.internet.defer import fail

from appliance.index.repositories import Repositories
from appliance.index.repository import OPERATOR
from tests.doubles.appliance import HUB, NGINX, Appliance
from tests.doubles.deferreds import result
from tests.doubles.images import artifact, image, multi_arch

BUNDLE = "sha256:" + "ab" * 32


def pin(site: Appliance, reference: str, **more: Any) -> list[Any]:
    answer = site.ask("POST", "pins", {"reference": reference, **more})
    assert answer.code == 200, answer.body
    return list(answer.json["pins"])


def unpin(site: Appliance, reference: str) -> list[Any]:
    answer = site.ask("DELETE", f"pins/{quote(reference, safe='/:@')}")
    assert answer.code == 200, answer.body
    return list(answer.json["pins"])


def pinned(site: Appliance) -> dict[str, str | None]:
    """What keeps each image of the list, read from the disk."""
    result(site.repositories.flush())
    again = Repositories(site.documents)
    found: dict[str, str | None] = {}
    for place in result(again.names()):
        repository = result(again.read(*place))
        found |= {f"{repository.name}:{name}": tag.pinned for name, tag in repository.tags.items()}
        found |= {f"{repository.name}@{digest}": by for digest, by in repository.pinned.items()}
    return found


def test_a_pin_that_the_disk_does_not_take_is_told_in_force_and_saved_later(
    site: Appliance, monkeypatch: pytest.MonkeyPatch, logged_errors: list[Any]
) -> None:
    """The message says what is to be done; the log has no traceback."""
    site.hold(image(), "1")
    monkeypatch.setattr(site.documents, "write", lambda *_: fail(OSError(errno.EROFS, "Read-only file system")))
    answer = site.ask("POST", "pins", {"reference": "nginx:1"})
    assert answer.code == 507 and answer.json["error"]["code"] == "not-saved"
    assert "Read-only file system; it will be as soon as" in answer.json["error"]["message"]
    monkeypatch.undo()
    assert pinned(site) == {"library/nginx:1": OPERATOR}
    assert logged_errors == []


def test_a_pin_is_told_and_outlives_a_restart(site: Appliance) -> None:
    """With what kept it before, which is nothing."""
    digest = site.hold(image(), "1", "2")
    assert pin(site, "nginx:1") == [
        {
            "name": "docker.io/library/nginx:1",
            "digest": str(digest),
            "before": None,
            "pinned": "operator",
            "locked": False,
        }
    ]
    assert pinned(site) == {"library/nginx:1": OPERATOR, "library/nginx:2": None}
    assert unpin(site, "nginx:1")[0] | {"digest": ""} == {
        "name": "docker.io/library/nginx:1",
        "digest": "",
        "before": "operator",
        "pinned": None,
        "locked": False,
    }
    assert pinned(site) == {"library/nginx:1": None, "library/nginx:2": None}
    assert unpin(site, "nginx:1") == []


@pytest.mark.parametrize(
    ("reference", "names"),
    [
        ("nginx", {"library/nginx:1", "library/nginx:2"}),
        ("docker.io/library/*:1", {"library/nginx:1", "library/redis:1"}),
        ("**", {"library/nginx:1", "library/nginx:2", "library/redis:1"}),
    ],
)
def test_a_pattern_means_what_it_means_in_a_list(site: Appliance, reference: str, names: set[str]) -> None:
    """Signatures are kept with what they belong to, and need no pin."""
    content = image()
    site.hold(content, "1", "2")
    site.hold(artifact(content))
    site.hold(image("signature"), f"sha256-{content.digest[7:]}.sig")
    site.hold(content, "1", name="library/redis")
    assert {each["name"].removeprefix("docker.io/") for each in pin(site, reference)} == names
    assert {name for name, by in pinned(site).items() if by is not None} == names


def test_a_manifest_is_pinned_by_its_digest(site: Appliance) -> None:
    """Also one that a tag means: it is kept when the tag moves on."""
    digest = site.hold(image(), "1")
    [one] = pin(site, f"nginx@{digest}")
    assert one["name"] == f"docker.io/library/nginx@{digest}"
    assert pinned(site) == {"library/nginx:1": None, f"library/nginx@{digest}": OPERATOR}
    assert unpin(site, f"nginx@{digest}")[0]["before"] == OPERATOR
    assert pinned(site) == {"library/nginx:1": None}


def test_a_pin_of_what_a_tag_means_is_seen_and_lifted_by_the_tag(site: Appliance) -> None:
    """C{list} has a line for the tag alone: a pin that it did not show would stay for ever."""
    digest = str(site.hold(image("nginx"), "1"))
    pin(site, f"nginx@{digest}")
    [listed] = site.get("images")["images"]
    assert (listed["name"], listed["pinned"], listed["locked"]) == (f"{HUB}/{NGINX}:1", OPERATOR, False)
    [done] = unpin(site, "nginx:1")
    assert (done["before"], done["pinned"]) == (OPERATOR, None)
    assert site.get("images")["images"][0]["pinned"] is None and unpin(site, f"nginx@{digest}") == []


def test_a_pin_with_digest_locks_the_tag(site: Appliance) -> None:
    """Until it is unpinned; what its upstream says instead is forgotten then."""
    old, new = image("old"), image("new")
    site.offer(old, "1")
    result(site.through.manifest(site.at(HUB, NGINX), "1"))
    assert [each["locked"] for each in pin(site, "nginx:1", digest=True)] == [True]
    site.offer(new, "1")
    site.clock.advance(600)
    assert result(site.through.manifest(site.at(HUB, NGINX), "1")).data == old.manifest.data
    shown = site.get("images/nginx:1")
    assert (shown["image"]["locked"], shown["upstreamDigest"]) == (True, new.digest)
    assert [(each["before"], each["locked"]) for each in unpin(site, "nginx:1")] == [("operator", False)]
    shown = site.get("images/nginx:1")
    assert (shown["image"]["locked"], shown["upstreamDigest"]) == (False, None)
    site.clock.advance(600)
    assert result(site.through.manifest(site.at(HUB, NGINX), "1")).data == new.manifest.data


def test_a_locked_tag_can_be_asked_for_with_what_it_should_mean(site: Appliance) -> None:
    """It is not locked to anything else than what the operator has looked at."""
    digest = site.hold(image(), "1")
    other = image("other")
    site.hold(other)
    code, word, _ = site.error("POST", "pins", {"reference": f"nginx:1@{other.digest}", "digest": True})
    assert (code, word) == (404, "not-held")
    assert [each["locked"] for each in pin(site, f"nginx:1@{digest}", digest=True)] == [True]


def test_a_pin_of_a_locked_tag_leaves_it_locked(site: Appliance) -> None:
    """Only unpin lifts a lock."""
    site.hold(image(), "1")
    pin(site, "nginx:1", digest=True)
    assert [each["locked"] for each in pin(site, "nginx:1")] == [True]


def test_unpin_lifts_what_a_bundle_pinned_with_what_came_along(site: Appliance) -> None:
    """And says which bundle it was; what an operator pinned by its own name stays."""
    content = multi_arch()
    site.hold(content, "1")
    sbom, signature, own = artifact(content), image("signature"), artifact(content, "text/own")
    site.hold(sbom)
    site.hold(own)
    tag = f"sha256-{content.digest[7:]}.sig"
    site.hold(signature, tag)
    repository = result(site.repositories.get(HUB, NGINX))
    for each in ("1", tag, *(found for found in repository.manifests if str(found) in (sbom.digest, own.digest))):
        repository.pin(each, BUNDLE)
    pin(site, f"nginx@{own.digest}")
    assert [each["before"] for each in unpin(site, "nginx:1")] == [BUNDLE]
    assert pinned(site) == {
        "library/nginx:1": None,
        f"library/nginx:{tag}": None,
        f"library/nginx@{own.digest}": OPERATOR,
    }


@pytest.mark.parametrize(
    ("reference", "code", "word", "reason"),
    [
        ("nginx:2", 404, "not-held", "nginx:2 is not held; pull it first"),
        ("redis", 404, "not-held", "redis is not held"),
        ("ghcr.io/**", 404, "not-held", "is not held"),
        (f"nginx@sha256:{'0' * 64}", 404, "not-held", "is not held"),
        ("a//b", 400, "name-invalid", "is no reference and no pattern"),
    ],
)
def test_what_is_not_held_cannot_be_pinned(site: Appliance, reference: str, code: int, word: str, reason: str) -> None:
    """With the next step."""
    site.hold(image(), "1")
    found = site.error("POST", "pins", {"reference": reference})
    assert found[:2] == (code, word) and reason in found[2]
    assert site.error("DELETE", f"pins/{quote(reference, safe='/:@')}")[:2] == (code, word)


@pytest.mark.parametrize("order", [{}, {"reference": 1}, {"reference": "nginx", "lock": True}])
def test_an_order_that_is_not_understood_pins_nothing(site: Appliance, order: Any) -> None:
    """A misspelt word would else be a pin without a lock."""
    site.hold(image(), "1")
    assert site.error("POST", "pins", order)[:2] == (400, "bad-request")
    assert pinned(site) == {"library/nginx:1": None}
