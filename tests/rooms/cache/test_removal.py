"""Removing images: what goes with them, what stays, and what is refused."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import pytest
from twisted.internet.defer import Deferred

from appliance.index.repositories import Repositories
from appliance.index.repository import OPERATOR
from appliance.oci.digest import Digest
from tests.doubles.appliance import HUB, NGINX, Appliance
from tests.doubles.deferreds import result
from tests.doubles.images import Blob, Content, artifact, image, index, multi_arch

BUNDLE = "sha256:" + "ab" * 32


@pytest.fixture
def site() -> Appliance:
    return Appliance()


def remove(site: Appliance, reference: str, query: str = "") -> Any:
    answer = site.ask("DELETE", f"images/{quote(reference, safe='/:@')}{query}")
    assert answer.code == 200, answer.body
    return answer.json


def refused(site: Appliance, reference: str, query: str = "") -> str:
    before = state(site)
    code, word, message = site.error("DELETE", f"images/{quote(reference, safe='/:@')}{query}")
    assert (code, word) == (409, "not-removable"), message
    assert state(site) == before
    return message


def state(site: Appliance) -> tuple[Any, ...]:
    """All that is held, as a restart finds it."""
    result(site.repositories.flush())
    again, found = Repositories(site.documents), []
    for place in result(again.names()):
        repository = result(again.read(*place))
        found.append((place, dict(repository.tags), set(repository.manifests), set(repository.blobs)))
    return found, set(site.store._blobs)


def blobs(*contents: Content) -> dict[str, int]:
    parts = [part for content in contents for part in content.walk()]
    return {blob.digest: len(blob.data) for part in parts for blob in (part.manifest, *part.blobs)}


def held(site: Appliance) -> set[str]:
    return {str(digest) for digest in site.store._blobs}


def slow_names(site: Appliance, monkeypatch: pytest.MonkeyPatch) -> list[Deferred[None]]:
    """Listing the repositories takes a while once images are out of theirs: a Deferred each time, to be fired."""
    waiting: list[Deferred[None]] = []
    names = site.repositories.names

    async def slow() -> Any:
        if site.published:
            waiting.append(Deferred())
            await waiting[-1]
        return await names()

    monkeypatch.setattr(site.repositories, "names", slow)
    return waiting


def test_an_image_is_removed_with_all_that_only_it_needs(site: Appliance) -> None:
    """Platforms, layers, signatures and what refers to those; nothing of it is left, and bytes are what was freed."""
    content, other = multi_arch(), image("other")
    sbom, signature = artifact(content), image("signature")
    site.hold(content, "1")
    site.hold(sbom)
    site.hold(artifact(sbom, "text/of-sbom"))
    site.hold(signature, f"sha256-{content.digest[7:]}.sig")
    site.hold(other, "2")
    total = site.store.total()
    done = remove(site, "nginx:1")
    assert held(site) == set(blobs(other))
    assert [(each["name"], each["digest"], each["why"]) for each in done["images"]] == [
        ("docker.io/library/nginx:1", content.digest, "removed")
    ]
    freed = total - site.store.total()
    assert sum(each["bytes"] for each in done["blobs"]) == done["images"][0]["bytes"] == freed
    assert (done["stays"]["blobs"], done["notes"]) == (0, [])
    [(_, tags, manifests, _)] = state(site)[0]
    assert (set(tags), {str(each) for each in manifests}) == ({"2"}, {other.digest})


def test_a_dry_run_says_the_same_and_removes_nothing(site: Appliance) -> None:
    """One can look first."""
    site.hold(multi_arch(), "1")
    site.hold(image("other"), "2")
    before = state(site)
    dry = remove(site, "nginx:1", "?dry_run=1")
    assert dry.pop("dryRun") and state(site) == before and site.published == 0
    done = remove(site, "nginx:1")
    assert not done.pop("dryRun") and done == dry
    assert site.published > 0, "prepared answers are dropped"


def test_what_others_use_stays_and_they_are_named(site: Appliance) -> None:
    """Layers of the same repository and of another; whose they are is said."""
    content = multi_arch()
    site.hold(content, "1")
    site.hold(content.children[0], "amd64")
    for number in range(12):
        site.hold(content.children[0], "1", name=f"team/app-{number:02}")
    done = remove(site, "nginx:1")
    shared = blobs(content.children[0])
    assert done["stays"]["blobs"] == len(shared) and done["stays"]["bytes"] == sum(shared.values())
    assert done["stays"]["users"] == [
        "docker.io/library/nginx:amd64",
        *(f"docker.io/team/app-{number:02}:1" for number in range(9)),
    ]
    assert done["stays"]["others"] == 3
    assert held(site) == set(shared)
    assert {each["digest"] for each in done["blobs"]} == set(blobs(content)) - set(shared)


def test_a_tag_alone_goes_when_another_means_the_same(site: Appliance) -> None:
    """Nothing is freed, and the other one is named."""
    content = image()
    site.hold(content, "1", "latest")
    done = remove(site, "nginx:1")
    assert (done["blobs"], done["images"][0]["bytes"]) == ([], 0)
    assert done["stays"]["users"] == ["docker.io/library/nginx:latest"]
    assert site.get("images/nginx:latest")["image"]["offline"]
    assert site.error("GET", "images/nginx:1")[0] == 404


def test_a_child_that_another_index_needs_stays(site: Appliance) -> None:
    """And the index that goes takes only its own."""
    both, one = image("both"), image("one")
    first, second = index(both, one), index(both)
    site.hold(first, "1")
    site.hold(second, "2")
    remove(site, "nginx:1")
    assert held(site) == set(blobs(second))
    assert site.get("images/nginx:2")["image"]["offline"]


def test_several_images_that_go_together_count_what_they_share_once(site: Appliance) -> None:
    """The bytes of the images add up to those of the blobs."""
    content = multi_arch()
    site.hold(content, "1", "2")
    site.hold(content.children[0], "3")
    site.hold(image("other"), "4", name="library/redis")
    done = remove(site, "nginx:*")
    assert [each["name"].rpartition(":")[2] for each in done["images"]] == ["1", "2", "3"]
    assert sum(each["bytes"] for each in done["images"]) == sum(each["bytes"] for each in done["blobs"])
    assert {each["digest"] for each in done["blobs"]} == set(blobs(content))


def test_a_manifest_without_a_tag_is_removed_by_its_digest(site: Appliance) -> None:
    """As an upstream's tag leaves one behind when it moves."""
    old, new = image("old"), image("new")
    site.hold(old)
    site.hold(new, "1")
    done = remove(site, f"nginx@{old.digest}")
    assert [each["name"] for each in done["images"]] == [f"docker.io/library/nginx@{old.digest}"]
    assert held(site) == set(blobs(new))


def test_what_an_index_needs_is_refused_with_its_name(site: Appliance) -> None:
    """A platform goes with its index."""
    content = multi_arch()
    site.hold(content, "1")
    message = refused(site, f"nginx@{content.children[0].digest}")
    assert message.startswith("docker.io/library/nginx:1 needs") and message.endswith("remove that")


def test_what_refers_to_an_image_is_refused_with_its_name(site: Appliance) -> None:
    """A signature goes with what is signed, by its tag, or by its digest."""
    content = image()
    site.hold(content, "1")
    sbom, signature = artifact(content), image("signature")
    site.hold(sbom)
    tag = f"sha256-{content.digest[7:]}.sig"
    site.hold(signature, tag)
    assert "belongs to docker.io/library/nginx:1, and goes with it" in refused(site, f"nginx:{tag}")
    assert "refers to docker.io/library/nginx:1, and goes with it" in refused(site, f"nginx@{sbom.digest}")
    result(site.store.delete(Digest.parse(content.digest)))


def test_what_a_tag_means_is_not_removed_by_its_digest(site: Appliance) -> None:
    """The tag would mean nothing."""
    content = image()
    site.hold(content, "1", "2")
    assert "is what docker.io/library/nginx:1 means" in refused(site, f"nginx@{content.digest}")


def test_a_name_without_a_tag_removes_one_image_only(site: Appliance) -> None:
    """It means every tag, as in a list: who means them all writes so; where there is one, that is it."""
    site.hold(image(), "1", "2")
    message = refused(site, "nginx")
    assert "nginx means 2 images: docker.io/library/nginx:1, docker.io/library/nginx:2" in message
    assert "nginx:*" in message
    remove(site, "nginx:1")
    assert [each["name"] for each in remove(site, "nginx")["images"]] == ["docker.io/library/nginx:2"]
    assert held(site) == set()


def test_what_an_operator_pinned_is_refused_unless_it_is_forced(site: Appliance) -> None:
    """By its own tag, with others, and where it goes along; a bundle's pin is no obstacle."""
    content = image()
    site.hold(content, "1", "2")
    sbom = artifact(content)
    site.hold(sbom)
    repository = result(site.repositories.get(HUB, NGINX))
    repository.pin("2", BUNDLE)
    repository.pin("1", OPERATOR)
    for reference in ("nginx:1", "nginx:*"):
        assert "docker.io/library/nginx:1 is pinned: unpin it first" in refused(site, reference)
    assert refused(site, "nginx:1", "?dry_run=1")
    repository.unpin("1")
    repository.pin(Digest.parse(sbom.digest), OPERATOR)
    remove(site, "nginx:1")
    assert f"docker.io/library/nginx@{sbom.digest} is pinned" in refused(site, "nginx:2")
    remove(site, "nginx:2", "?force=1")
    assert held(site) == set()


def test_the_last_image_of_a_repository_leaves_no_document(site: Appliance) -> None:
    """A list has nothing of it, nor has a restart; it can be pulled again."""
    content = image()
    site.offer(content, "1")
    site.hold(content, "1")
    remove(site, "nginx:1")
    assert state(site) == ([], set())
    assert site.get("images")["images"] == [] and site.get("status")["counts"]["repositories"] == 0
    assert result(site.through.manifest(site.at(HUB, NGINX), "1")).data == content.manifest.data


@pytest.mark.parametrize("reference", ["nginx:2", "redis", f"nginx@sha256:{'0' * 64}", "ghcr.io/**"])
def test_what_is_not_held_cannot_be_removed(site: Appliance, reference: str) -> None:
    """It says so."""
    site.hold(image(), "1")
    code, word, message = site.error("DELETE", f"images/{quote(reference, safe='/:@')}")
    assert (code, word) == (404, "not-held") and "is not held" in message


def test_a_blob_that_is_being_read_stays_for_a_later_collection(site: Appliance) -> None:
    """The reader gets it whole; the report says that it is left."""
    content = image()
    site.hold(content, "1")
    layer = content.layers[0]
    reader = site.store.open(Digest.parse(layer.digest))
    done = remove(site, "nginx:1")
    assert held(site) == {layer.digest}
    assert layer.digest not in {each["digest"] for each in done["blobs"]}
    assert done["notes"] == ["1 blobs stay for a later collection: a client or a fetch is using it now"]
    assert result(reader.read(0, len(layer.data))) == layer.data
    reader.close()


def test_a_blob_that_gets_a_reference_meanwhile_stays(site: Appliance, monkeypatch: pytest.MonkeyPatch) -> None:
    """An import, or a pull through another repository, has a lease of it by then."""
    content = image()
    site.hold(content, "1")
    waiting = slow_names(site, monkeypatch)
    asked = site.begin("DELETE", "images/nginx:1")
    site.treq.flush()
    assert len(waiting) == 1
    with site.store.leases.take([Digest.parse(blob) for blob in blobs(content)]):
        site.hold(content, "1", name="team/app")
    waiting[0].callback(None)
    site.treq.flush()
    assert result(asked).code == 200
    assert held(site) == set(blobs(content))


def test_what_a_repository_that_cannot_be_read_may_need_stays(site: Appliance, monkeypatch: pytest.MonkeyPatch) -> None:
    """The image is removed all the same; the report names the repository."""
    content = image()
    site.hold(content, "1")
    site.hold(image("other"), "1", name="team/app")
    read = site.repositories.read

    def reading(upstream: str, name: str) -> Any:
        if name == "team/app":
            raise OSError(5, "Input/output error")
        return read(upstream, name)

    monkeypatch.setattr(site.repositories, "read", reading)
    done = remove(site, "nginx:1")
    assert done["blobs"] == [] and set(blobs(content)) <= held(site)
    assert "docker.io/team/app cannot be read (Input/output error), and may refer to anything" in done["notes"][0]


def test_what_a_damaged_manifest_names_stays(site: Appliance) -> None:
    """It may be mended."""
    content = image()
    site.hold(content, "1")
    site.hold(content, "1", name="team/app")
    twin = image("twin")
    site.hold(index(content, twin), "2", name="team/app", without=tuple(part.manifest for part in [twin]))
    assert remove(site, "nginx:1")["stays"]["blobs"] == len(blobs(content))
    lone = Appliance()
    lone.hold(content, "1")
    whole = index(content)
    lone.hold(whole, "1", name="team/app", without=(content.manifest,))
    lone.store._blobs[Digest.parse(whole.digest)] = whole.manifest.data.replace(
        b'"schemaVersion":2', b'"schemaVersion":3'
    )
    remove(lone, "nginx:1")
    assert content.digest in held(lone)


def test_what_a_manifest_named_that_was_set_aside_stays(site: Appliance, logged_errors: list[Any]) -> None:
    """It will be mended."""
    content = image()
    site.hold(content, "1")
    whole = index(content)
    site.hold(whole, "1", name="team/app", without=(content.manifest,))
    site.store._blobs[Digest.parse(whole.digest)] = whole.manifest.data.replace(b":2", b":3")
    assert result(site.services.repair.examine(Digest.parse(whole.digest), anew=True)) is False
    remove(site, "nginx:1")
    assert content.digest in held(site)
    logged_errors.clear()


def test_what_an_imported_manifest_that_is_gone_may_name_stays(site: Appliance) -> None:
    """Nothing says what it named: its blobs are nowhere noted, since a bundle brought it."""
    content = image()
    site.hold(content, "1")
    whole = index(content)
    site.hold(whole, "1", name="team/app", without=(content.manifest,))
    result(site.store.delete(Digest.parse(whole.digest)))
    done = remove(site, "nginx:1")
    assert set(blobs(content)) <= held(site) and done["blobs"] == []
    assert f"docker.io/team/app@{whole.digest} is missing or damaged" in done["notes"][0]


def test_a_reference_that_cannot_be_saved_leaves_the_blobs(site: Appliance, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a restart the tag may be there again: then it has to be whole."""
    content = image()
    site.hold(content, "1")
    monkeypatch.setattr(site.documents, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    done = remove(site, "nginx:1")
    assert set(blobs(content)) <= held(site) and done["blobs"] == []
    assert "could not be saved" in done["notes"][0]
    assert site.error("GET", "images/nginx:1")[0] == 404


def test_blobs_that_the_disk_does_not_let_go_are_left_to_a_collection(
    site: Appliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The image is removed, and the report says what is left."""
    content = image()
    site.hold(content, "1")
    monkeypatch.setattr(site.store, "delete", lambda *_: (_ for _ in ()).throw(OSError(30, "Read-only file system")))
    done = remove(site, "nginx:1")
    count = len(blobs(content))
    why = f"{count} blobs stay for a later collection: some blobs could not be removed: Read-only file system"
    assert (done["blobs"], done["notes"]) == ([], [why])
    assert site.error("GET", "images/nginx:1")[0] == 404


def test_a_client_that_leaves_cuts_no_removal(site: Appliance, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is carried to its end."""
    content = image()
    site.hold(content, "1")
    waiting = slow_names(site, monkeypatch)
    asked = site.begin("DELETE", "images/nginx:1")
    site.treq.flush()
    asked.addErrback(lambda _: None)
    asked.cancel()
    site.treq.flush()
    waiting[0].callback(None)
    assert held(site) == set()


def test_an_image_that_lacks_blobs_can_be_removed(site: Appliance) -> None:
    """What is not here frees nothing."""
    content = multi_arch()
    amd64, arm64 = content.children
    site.hold(content, "1", without=(amd64.layers[0], arm64.manifest, *arm64.blobs))
    total = site.store.total()
    done = remove(site, "nginx:1")
    assert sum(each["bytes"] for each in done["blobs"]) == total and held(site) == set()


def test_a_circle_can_be_removed(site: Appliance) -> None:
    """Two tags that are about each other are found by the digest of one of them."""
    content = image()
    site.hold(content, "1")
    site.hold(content, f"sha256-{content.digest[7:]}.sig")
    remove(site, "nginx:1")
    assert held(site) == set()


def test_a_blob_that_was_pulled_without_a_manifest_stays(site: Appliance) -> None:
    """Only what the image named goes with it."""
    alone = Blob("x", b"alone")
    site.hold(image(), "1")
    result(site.store.put(Digest.parse(alone.digest), alone.data))
    repository = result(site.repositories.get(HUB, NGINX))
    repository.link(Digest.parse(alone.digest), 5)
    remove(site, "nginx:1")
    assert held(site) == {alone.digest} and list(map(str, repository.blobs)) == [alone.digest]
