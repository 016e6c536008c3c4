"""What is held and what is lacking, over the API."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import pytest
from twisted.internet.defer import execute

from appliance import api
from appliance.cache.moves import UPSTREAM
from appliance.cache.prefetch import GRACE
from appliance.errors import Offline
from appliance.flow.disk import InlineThreads
from appliance.index.manifests import HeldManifests
from appliance.index.repository import OPERATOR
from appliance.oci.digest import Digest
from appliance.oci.manifest import MAX_MANIFEST_BYTES
from tests.doubles.appliance import HUB, NGINX, Appliance
from tests.doubles.deferreds import failing, result
from tests.doubles.images import EMPTY_TYPE, OCI, Blob, Content, artifact, encode, image, index, multi_arch

LATER = "2027-01-15T08:00:00Z"


@pytest.fixture
def site() -> Appliance:
    return Appliance()


def names(site: Appliance, pattern: str | None = None) -> list[str]:
    found = site.get("images" if pattern is None else f"images?pattern={quote(pattern)}")["images"]
    return [each["name"] for each in found]


def states(image: Any) -> dict[str, str]:
    return {each["platform"]: each["state"] for each in image["platforms"]}


# -- list -----------------------------------------------------------------------------------------------------------


def test_the_list_has_tags_and_what_is_held_by_digest(site: Appliance) -> None:
    """Children, signatures and the like come with what they belong to and have no line of their own."""
    signed, loose = multi_arch("signed"), image("loose")
    site.hold(signed, "1", "latest")
    site.hold(artifact(signed))
    site.hold(image("signature"), f"sha256-{signed.digest[7:]}.sig")
    site.hold(loose, name="library/redis")
    assert names(site) == [
        "docker.io/library/nginx:1",
        "docker.io/library/nginx:latest",
        f"docker.io/library/redis@{loose.digest}",
    ]


def counting(site: Appliance, monkeypatch: pytest.MonkeyPatch) -> list[Digest]:
    """The blobs that are read from now on."""
    read, read_all, seen = site.store.read, site.store.read_all, list[Digest]()

    def noting(digest: Digest, limit: int) -> Any:
        seen.append(digest)
        return read(digest, limit)

    def noting_all(digests: Sequence[Digest], limit: int) -> Any:
        seen.extend(digests)
        return read_all(digests, limit)

    monkeypatch.setattr(site.store, "read", noting)
    monkeypatch.setattr(site.store, "read_all", noting_all)
    return seen


def visits(site: Appliance, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many blobs are read with each visit to the disk from now on."""
    read, read_all, seen = site.store.read, site.store.read_all, list[int]()
    monkeypatch.setattr(site.store, "read", lambda digest, limit: seen.append(1) or read(digest, limit))
    monkeypatch.setattr(site.store, "read_all", lambda many, limit: seen.append(len(many)) or read_all(many, limit))
    return seen


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_pages_of_the_list_are_the_list(site: Appliance, size: int) -> None:
    """In the order of names, whatever the names of repositories begin with; the last page says that it is the last."""
    for number, name in enumerate(("a/b", "a/b-c", "a/b.c", "a/b/c", "a/bc", "a/b_c", "a/b0", "a")):
        site.hold(image(f"tagged {number}"), "1", "latest", name=name)
        site.hold(image(f"loose {number}"), name=name)
    whole = site.get("images")
    assert [each["name"] for each in whole["images"]] == sorted(names(site)) and "next" not in whole
    found: list[Any] = []
    last = ""
    while True:
        page = site.get(f"images?n={size}&last={quote(last)}" if last else f"images?n={size}")
        assert 0 < len(page["images"]) <= size
        found += page["images"]
        if "next" not in page:
            break
        last = page["next"]
    assert found == whole["images"]
    matching = site.get(f"images?n=2&pattern={quote('a/b*:latest')}")
    assert matching["next"] == "docker.io/a/b.c:latest"


@pytest.mark.parametrize("number", ["0", "-1", "x", "1" * 10])
def test_a_page_of_no_size_is_refused(site: Appliance, number: str) -> None:
    """A page without images would never end."""
    assert site.error("GET", f"images?n={number}")[:2] == (400, "bad-request")


def test_a_page_costs_what_it_holds(site: Appliance, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifests of the repositories that it shows are read, each once; those of the hundred others are not."""
    for number in range(100):
        site.hold(multi_arch(str(number)), "1", "latest", name=f"team/app-{number:03}")
    read = counting(site, monkeypatch)
    page = site.get("images?n=4&last=docker.io/team/app-050:latest")
    shown = [each["name"].rpartition("-")[2] for each in page["images"]]
    assert shown == ["051:1", "051:latest", "052:1", "052:latest"]
    assert len(read) == len(set(read)) == 3 * 4, "with the one that it begins behind, and the one that comes next"
    site.get("images")
    assert len(read) == len(set(read)) == 300, "what was read a moment ago is known"


@pytest.mark.parametrize("path", ["images", "inventory"])
def test_manifests_are_read_many_at_once(site: Appliance, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """And their configurations: it is the visits to the disk that cost, one each made a list of thousands take long."""
    for number in range(200):
        site.hold(multi_arch(str(number)) if number % 2 else image(str(number)), f"1.{number}")
    seen = visits(site, monkeypatch)
    whole = site.get(path)
    assert sum(seen) >= 400 and len(seen) <= 40 and max(seen) <= 100
    repository = result(site.repositories.get(HUB, NGINX))
    monkeypatch.setattr("appliance.index.manifests.AT_ONCE", 1)
    monkeypatch.setattr("appliance.admin.images.AT_ONCE", 1)
    assert site.get(path) == whole and len(repository.manifests) == 400


def test_a_list_of_many_tags_lets_others_have_their_turn(site: Appliance, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has to be read for them, and they take their time all the same; a small repository is one visit."""
    site.hold(multi_arch(), *(f"1.{number}" for number in range(500)))
    site.get("images")
    seen = visits(site, monkeypatch)
    assert len(site.get("images")["images"]) == 500
    assert sum(seen) == 0 and len(seen) >= 500 // 50
    site.hold(multi_arch("other"), "1", name="library/redis")
    seen.clear()
    site.get("images?pattern=redis")
    site.get("images?pattern=redis")
    assert seen == [3, 0]


def test_an_image_that_is_damaged_takes_no_other_from_the_list(site: Appliance) -> None:
    """Where several are read at once as well; what is too large to be read with the others is read by itself."""
    contents = [image(str(number)) for number in range(5)]
    for number, content in enumerate(contents):
        site.hold(content, str(number))
    whole = site.get("images")["images"]
    site.store._blobs[Digest.parse(contents[1].digest)] = b"x" * len(contents[1].manifest.data)
    site.store._blobs[Digest.parse(contents[3].digest)] = contents[3].manifest.data + b" " * MAX_MANIFEST_BYTES
    del site.store._blobs[Digest.parse(contents[4].digest)]
    # Nothing is remembered of them.
    site.services.images._manifests = HeldManifests(site.store, InlineThreads())
    found = site.get("images")["images"]
    assert [line["offline"] for line in found] == [True, False, True, False, False]
    assert [found[0], found[2]] == [whole[0], whole[2]]


def test_an_inventory_looks_for_every_blob_off_the_reactor(site: Appliance, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients are served while it is written down, however many blobs there are."""
    content = image()
    site.hold(content, "1")
    whole = site.get("inventory")
    path: Any = site.services.inventory
    size, looked, off = site.store.size, list[Digest](), list[Digest]()

    class Threads:
        def call(self, function: Any, *args: Any) -> Any:
            monkeypatch.setattr(site.store, "size", lambda digest: off.append(digest) or size(digest))
            return execute(function, *args)

    monkeypatch.setattr(site.store, "size", lambda digest: looked.append(digest) or size(digest))
    monkeypatch.setattr(path, "_threads", Threads())
    assert site.get("inventory") == whole
    assert not looked
    assert {str(digest) for digest in off} == {each["digest"] for each in whole["blobs"]}


@pytest.mark.parametrize(
    ("pattern", "count"),
    [("nginx", 2), ("nginx:1.*", 1), ("**", 3), ("ghcr.io/**", 0), ("docker.io/library/*:1.27", 2)],
)
def test_a_pattern_chooses(site: Appliance, pattern: str, count: int) -> None:
    """As with an export."""
    site.hold(image(), "1.27", "latest")
    site.hold(image(), "1.27", name="library/redis")
    assert len(names(site, pattern)) == count


def test_a_line_tells_what_can_be_served_offline(site: Appliance) -> None:
    """By platform; a platform that no client pulled makes the image no less whole, a layer that is gone does."""
    content = multi_arch()
    amd64, arm64 = content.children
    site.hold(content, "1", without=(arm64.manifest, *arm64.blobs))
    [line] = site.get("images")["images"]
    assert (line["offline"], states(line)) == (True, {"linux/amd64": "held", "linux/arm64": "absent"})
    assert line["size"] == sum(len(blob.data) for blob in (content.manifest, amd64.manifest, *amd64.blobs))
    torn = multi_arch("torn")
    site.hold(torn, "1", name="library/redis", without=(torn.children[0].layers[0],))
    [line] = site.get("images?pattern=redis")["images"]
    assert (line["offline"], states(line)) == (False, {"linux/amd64": "incomplete", "linux/arm64": "held"})
    assert [each["missing"] for each in line["platforms"]] == [1, 0]


def test_a_line_tells_what_is_on_its_way(site: Appliance) -> None:
    """Of an image that was pulled and is not whole; not when it is, nor of one that no client pulled here."""
    content = multi_arch()
    arm64 = content.children[1]
    site.hold(content, "1", without=(arm64.layers[0],))
    site.offer(content)
    assert [each["fetching"] for each in site.get("images")["images"][0]["platforms"]] == [False, False]
    site.through.note_pulls(site.at(HUB, NGINX), arm64.digest)
    [line] = site.get("images")["images"]
    assert (line["fetching"], [each["fetching"] for each in line["platforms"]]) == (True, [False, True])
    assert site.get("images/nginx:1")["image"] == line
    site.clock.advance(GRACE)
    [line] = site.get("images")["images"]
    assert (line["offline"], line["fetching"], states(line)["linux/arm64"]) == (True, False, "held")


def test_a_plain_image_has_the_platform_of_its_configuration(site: Appliance) -> None:
    """Where no index names it."""
    site.hold(image(architecture="arm64"), "1")
    assert states(site.get("images")["images"][0]) == {"linux/arm64": "held"}


def test_a_line_tells_when_it_was_pulled_and_what_pins_it(site: Appliance) -> None:
    """A pull of the digest is a pull of the tag."""
    digest = site.hold(image(), "1")
    line = site.get("images")["images"][0]
    assert (line["pulls"], line["lastPulled"], line["pinned"]) == (0, None, None)
    site.usage.note(HUB, NGINX, str(digest), 3)
    repository = result(site.repositories.get(HUB, NGINX))
    repository.tag("1", digest, 0.0, "sha256:b")
    line = site.get("images")["images"][0]
    assert (line["pulls"], line["lastPulled"], line["pinned"]) == (3, LATER, "sha256:b")


def test_a_pull_of_a_platform_by_its_digest_is_a_pull_of_the_tag(site: Appliance) -> None:
    """So do runtimes pull; retention counts the same way."""
    content = multi_arch()
    site.hold(content, "1")
    site.usage.note(HUB, NGINX, content.children[1].digest)
    line = site.get("images")["images"][0]
    assert (line["pulls"], line["lastPulled"]) == (1, LATER)


def test_a_line_tells_whether_an_operator_pinned_it_and_whether_it_is_locked(site: Appliance) -> None:
    """Scripts tell a bundle's id from an operator's pin by the word."""
    assert (api.OPERATOR, api.UPSTREAM) == (OPERATOR, UPSTREAM)
    site.hold(image(), "1", "2", "3")
    repository = result(site.repositories.get(HUB, NGINX))
    for tag in ("1", "2"):
        repository.pin(tag, OPERATOR)
    repository.lock("2")
    assert [(each["pinned"], each["locked"]) for each in site.get("images")["images"]] == [
        ("operator", False),
        ("operator", True),
        (None, False),
    ]


def sortable(site: Appliance) -> dict[str, int]:
    """Images in many repositories, pulled now and then; how often each name was."""
    pulls = {}
    for number in range(30):
        name = f"team/app-{number % 7}"
        site.hold(image(f"app {number}", [number * 7919 % 10 * 10_000]), str(number), name=name)
        for _ in range(times := number * 31 % 11):
            site.clock.advance(1)
            site.usage.note(HUB, name, str(number))
        pulls[f"docker.io/{name}:{number}"] = times
    return pulls


@pytest.mark.parametrize(
    ("order", "key"), [("size", "size"), ("pulls", "pulls"), ("last-pulled", "lastPulled"), ("name", "name")]
)
@pytest.mark.parametrize("run", [1000, 3])
def test_the_list_comes_in_other_orders(
    site: Appliance, monkeypatch: pytest.MonkeyPatch, order: str, key: str, run: int
) -> None:
    """The greatest, or the latest, first; what is equal, by name, and what was never pulled last."""
    monkeypatch.setattr("appliance.admin.images._RUN", run)
    pulls = sortable(site)
    by_name = site.get("images")["images"]
    assert [each["name"] for each in by_name] == sorted(pulls)
    found = site.get(f"images?sort={order}")["images"]
    if order != "name":
        by_name.sort(key=lambda each: each[key] or "" if key == "lastPulled" else each[key], reverse=True)
    assert found == by_name
    assert {each["name"]: each["pulls"] for each in found} == pulls
    assert site.get(f"images?sort={order}&n=4")["images"] == found[:4]
    assert site.get(f"images?sort={order}&pattern=team/app-1")["images"] == [
        each for each in found if each["repository"] == "team/app-1"
    ]


@pytest.mark.parametrize("order", ["name", "size", "pulls"])
@pytest.mark.parametrize("limit", ["", "&n=7"])
def test_a_large_repository_is_listed_as_small_ones_are(
    site: Appliance, monkeypatch: pytest.MonkeyPatch, order: str, limit: str
) -> None:
    """It is looked through on a thread, and what is learnt of it is kept; the list is the same."""
    sortable(site)
    site.hold(multi_arch("whole"), "1")
    small = site.get(f"images?sort={order}{limit}")
    monkeypatch.setattr("appliance.admin.images._LARGE", 1)
    assert site.get(f"images?sort={order}{limit}") == small
    assert site.get(f"images?sort={order}{limit}") == small


def test_an_image_that_goes_while_it_is_listed_is_shown_as_it_was(site: Appliance) -> None:
    """A collection may take it at any moment: the list goes on."""
    for number in range(3):
        site.hold(image(str(number)), str(number))
    whole = site.get("images")
    repository = result(site.repositories.get(HUB, NGINX))
    page: Any = site.services.images
    closure = page._closure

    async def going(*args: Any) -> Any:
        for tag in list(repository.tags):
            repository.untag(tag)
        repository.drop(*repository.manifests)
        return await closure(*args)

    page._closure = going
    assert site.get("images") == whole


def test_a_long_list_in_another_order_lets_others_have_their_turn(
    site: Appliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is put together in pieces."""
    monkeypatch.setattr("appliance.admin.images._RUN", 3)
    sortable(site)
    turns = list[int]()
    threads: Any = site.services.images._threads
    monkeypatch.setattr(threads, "call", lambda function, *args: turns.append(1) or execute(function, *args))
    site.get("images?sort=size")
    assert len(turns) >= 30 // 3


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("sort=age", "sort=age: there is no such order; there are name, size, last-pulled, pulls"),
        ("sort=size&last=a", "last goes with the order of names"),
    ],
)
def test_an_order_that_is_not_known_is_refused(site: Appliance, query: str, reason: str) -> None:
    """With those there are."""
    code, word, message = site.error("GET", f"images?{query}")
    assert (code, word) == (400, "bad-request") and reason in message


# -- show -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reference",
    ["nginx", "nginx:latest", "library/nginx:latest", "docker.io/library/nginx:latest", "docker.io/nginx", "nginx@{}"],
)
def test_one_image_is_found_by_any_of_its_names(site: Appliance, reference: str) -> None:
    """As docker reads them; without a tag latest is meant."""
    content = image()
    site.hold(content, "latest")
    found = site.get(f"images/{quote(reference.format(content.digest), safe='/:@')}")
    assert found["image"]["digest"] == content.digest


def test_one_image_is_shown_with_what_refers_to_it_and_what_it_lacks(site: Appliance) -> None:
    """Referrers by subject and by cosign's tags, of the index and of what is beneath it."""
    content = multi_arch()
    layer = content.children[0].layers[1]
    site.hold(content, "1", without=(layer,))
    sbom, signature = artifact(content), image("signature")
    site.hold(sbom)
    site.hold(signature, f"sha256-{content.children[0].digest[7:]}.sig")
    shown = site.get("images/nginx:1")
    assert shown["missing"] == [{"digest": layer.digest, "size": len(layer.data), "kind": "layer"}]
    assert [(each["digest"], each["subject"], each["artifactType"]) for each in shown["referrers"]] == [
        (sbom.digest, content.digest, "application/vnd.example.sbom.v1+json"),
        (signature.digest, content.children[0].digest, ""),
    ]
    assert shown["tagged"] == shown["checked"] == "2023-11-14T22:13:20Z"


def test_the_moves_of_a_tag_are_shown(site: Appliance) -> None:
    """Newest first, those that were refused too; and what the upstream of a locked tag says now."""
    old, new = image("old"), image("new")
    site.offer(old, "1")
    result(site.through.manifest(site.at(HUB, NGINX), "1"))
    assert site.get("images/nginx:1")["moves"] == []
    site.clock.advance(600)
    site.offer(new, "1")
    result(site.through.manifest(site.at(HUB, NGINX), "1"))
    moved = {"at": "2027-01-15T08:10:00Z", "from": old.digest, "to": new.digest, "by": "upstream", "refused": False}
    shown = site.get("images/nginx:1")
    assert (shown["moves"], shown["upstreamDigest"]) == ([moved], None)
    result(site.repositories.get(HUB, NGINX)).lock("1")
    site.clock.advance(600)
    site.offer(old, "1")
    result(site.through.manifest(site.at(HUB, NGINX), "1"))
    shown = site.get("images/nginx:1")
    refused = moved | {"at": "2027-01-15T08:20:00Z", "from": new.digest, "to": old.digest, "refused": True}
    assert (shown["moves"], shown["upstreamDigest"]) == ([refused, moved], old.digest)
    assert shown["image"]["digest"] == new.digest
    assert site.get(f"images/nginx@{new.digest}")["moves"] == []


@pytest.mark.parametrize(
    ("reference", "code", "reason"),
    [
        ("nginx:2", 404, "nginx:2 is not held"),
        ("nginx", 404, "nginx is not held"),
        ("nowhere.example/nginx:1", 404, "is not held"),
        (f"nginx@sha256:{'0' * 64}", 404, "is not held"),
        ("nginx@nonsense", 404, "is not held"),
        ("nginx:*", 400, "is a pattern"),
        ("a//b", 422, "is no reference"),
    ],
)
def test_what_is_not_held_is_not_shown(site: Appliance, reference: str, code: int, reason: str) -> None:
    """With the name as it was asked for."""
    site.hold(image(), "1")
    found, _, message = site.error("GET", f"images/{quote(reference, safe='/:@')}")
    assert found == code and reason in message


def test_a_damaged_manifest_does_not_hide_the_others(site: Appliance) -> None:
    """It is shown as missing."""
    content = image("torn")
    site.hold(content, "1")
    site.hold(image("whole"), "2")
    site.store._blobs[Digest.parse(content.digest)] = b"{" * len(content.manifest.data)
    assert [each["offline"] for each in site.get("images")["images"]] == [False, True]


# -- what refers to it ------------------------------------------------------------------------------------------------


def about(subject: Content, payload: bytes) -> Content:
    """A referrer whose one layer no other has."""
    layer = Blob("text/x", payload)
    document = json.loads(artifact(subject, "text/x").manifest.data) | {"layers": [layer.descriptor()]}
    return Content(Blob(OCI.manifest, encode(document)), (Blob(EMPTY_TYPE, b"{}"), layer))


class Cabin(Appliance):
    """An appliance whose upstream listed referrers, or did not, before the link went away."""

    def hear(self, subject: Content, *referrers: Content) -> None:
        """The upstream is asked, and lists these."""
        described = (json.dumps(each.manifest.descriptor(artifactType="text/listed")).encode() for each in referrers)
        self.hub.add_referrers(NGINX, Digest.parse(subject.digest), *described)
        result(self.through.referrers(self.at(HUB, NGINX), Digest.parse(subject.digest)))

    def shown(self, reference: str = "nginx:1") -> tuple[str, list[tuple[str, str]]]:
        """Whether it can be verified, and each referrer with its state; no upstream is asked."""
        calls = len(self.hub.calls)
        found = self.get(f"images/{quote(reference, safe='/:@')}")
        assert len(self.hub.calls) == calls
        return found["verifiable"], [(each["digest"], each["state"]) for each in found["referrers"]]


def test_what_is_known_to_refer_to_an_image_and_is_not_held_is_shown_as_absent() -> None:
    """The upstream's list and what is held, each once: what I would miss offline stands there."""
    site, content = Cabin(), image()
    site.hold(content, "1")
    here, gone, torn = artifact(content), artifact(content, "text/gone"), about(content, b"torn")
    site.hold(here)
    site.hold(torn, without=torn.layers)
    site.hear(content, gone, here)
    assert site.shown() == ("incomplete", [(gone.digest, "absent"), (here.digest, "held"), (torn.digest, "incomplete")])
    rows = {each["digest"]: each for each in site.get("images/nginx:1")["referrers"]}
    whole = sum(len(blob.data) for blob in (here.manifest, *here.blobs))
    assert (rows[here.digest]["size"], rows[here.digest]["artifactType"]) == (whole, "text/listed")
    assert rows[gone.digest] == {
        "digest": gone.digest,
        "mediaType": gone.manifest.media_type,
        "artifactType": "text/listed",
        "subject": content.digest,
        "tag": None,
        "size": len(gone.manifest.data),
        "state": "absent",
        "missing": 0,
    }
    assert rows[torn.digest]["missing"] == 1 and rows[torn.digest]["artifactType"] == "text/x"


def test_an_image_of_which_all_referrers_are_held_can_be_verified() -> None:
    """By subject, by cosign's tag, and what refers to those; a warning where the upstream never listed them."""
    site, content = Cabin(), image()
    site.hold(content, "1")
    sbom, signature = artifact(content), image("signature")
    of_sbom, of_signature = artifact(sbom, "text/a"), artifact(signature, "text/b")
    for each in (sbom, of_sbom, of_signature):
        site.hold(each)
    site.hold(signature, f"sha256-{content.digest[7:]}.sig")
    held = [(each.digest, "held") for each in (sbom, signature, of_sbom, of_signature)]
    assert site.shown() == ("yes", held)
    assert "its upstream was not heard" in site.get("images/nginx:1")["warning"]
    site.hear(content, sbom)
    assert site.shown() == ("yes", held)
    assert site.get("images/nginx:1")["warning"] is None


def test_nothing_and_not_known_are_two_things() -> None:
    """Only the upstream can say that an image has no signatures."""
    site, content = Cabin(), image()
    site.hold(content, "1")
    assert site.shown() == ("unknown", [])
    site.hear(content)
    assert site.shown() == ("nothing", [])


def test_what_the_fallback_tag_names_is_shown_instead_of_the_tag() -> None:
    """What it lists and no client pulled is absent; the index itself signs nothing."""
    site, content = Cabin(), image()
    site.hold(content, "1")
    here, gone = artifact(content), artifact(content, "text/gone")
    listing = index(here, gone)
    site.hold(listing, f"sha256-{content.digest[7:]}", without=(gone.manifest,))
    assert site.shown() == ("incomplete", [(here.digest, "held"), (gone.digest, "absent")])


def test_what_refers_to_itself_is_shown_once() -> None:
    """An upstream's list may say anything."""
    site, content = Cabin(), image()
    site.hold(content, "1")
    site.hear(content, content)
    assert site.shown() == ("yes", [(content.digest, "held")])


# -- inventory ------------------------------------------------------------------------------------------------------


def test_the_inventory_has_every_blob_once(site: Appliance) -> None:
    """Manifests are blobs too; a blob of two repositories stands there once; sizes are those of the store."""
    content, other = multi_arch(), image("other")
    site.hold(content, "1")
    site.hold(content, "1", name="library/redis")
    site.hold(other, "2", without=(other.layers[0],))
    found = site.get("inventory")
    parts = [*content.walk(), other]
    expected = {blob.digest: len(blob.data) for part in parts for blob in (part.manifest, *part.blobs)}
    del expected[other.layers[0].digest]
    assert {each["digest"]: each["size"] for each in found["blobs"]} == expected
    assert len(found["blobs"]) == len(expected)
    assert found["manifests"] == sorted(part.digest for part in parts)
    assert (found["site"], found["taken"]) == ("berth-3", LATER)


def test_the_inventory_leaves_out_what_cannot_be_pulled(site: Appliance) -> None:
    """A blob that merely lies in the store, staged by an import that was cut, is not held."""
    result(site.store.put(Digest.of(b"staged"), b"staged"))
    assert site.get("inventory")["blobs"] == []


def test_a_blob_that_was_pulled_without_a_manifest_is_in_the_inventory(site: Appliance) -> None:
    """Its upstream said that the repository has it."""
    result(site.store.put(Digest.of(b"alone"), b"alone"))
    repository = result(site.repositories.get(HUB, NGINX))
    repository.link(Digest.of(b"alone"), 5)
    result(site.repositories.save(repository))
    site.hold(image(), "1")
    assert {"digest": str(Digest.of(b"alone")), "size": 5} in site.get("inventory")["blobs"]


def test_the_generation_changes_with_the_blobs_only(site: Appliance) -> None:
    """Two inventories can be compared at a glance."""
    site.hold(image(), "1")
    first = site.get("inventory")["generation"]
    site.clock.advance(100)
    site.hold(image(), "2")
    assert site.get("inventory")["generation"] == first
    site.hold(image("more"), "3")
    assert site.get("inventory")["generation"] != first


def test_an_index_alone_is_in_the_inventory(site: Appliance) -> None:
    """Its children are not, as long as no client pulled them."""
    content = index(image("a"))
    child = content.children[0]
    site.hold(content, "1", without=(child.manifest, *child.blobs))
    assert [each["digest"] for each in site.get("inventory")["blobs"]] == [content.digest]


# -- wants ----------------------------------------------------------------------------------------------------------


def test_wants_are_listed_longest_unasked_first() -> None:
    """With how often, since when, for which platform and why."""
    site = Appliance(offline=True)
    failing(site.through.manifest(site.at(HUB, "nginx"), "1", "linux/arm64"), Offline)
    site.clock.advance(60)
    failing(site.through.blob(site.at(HUB, "nginx"), Digest.of(b"x")), Offline)
    failing(site.through.manifest(site.at(HUB, "nginx"), "1"), Offline)
    found = site.get("wants")
    assert (found["site"], found["taken"]) == ("berth-3", "2027-01-15T08:01:00Z")
    assert [each["name"] for each in found["wants"]] == [
        f"docker.io/library/nginx@{Digest.of(b'x')}",
        "docker.io/library/nginx:1",
    ]
    assert found["wants"][1] == {
        "upstream": HUB,
        "repository": NGINX,
        "reference": "1",
        "name": "docker.io/library/nginx:1",
        "platform": "linux/arm64",
        "reason": "offline",
        "first": LATER,
        "last": "2027-01-15T08:01:00Z",
        "count": 2,
    }


def test_wants_come_as_a_list_of_names_too() -> None:
    """For export --list, or for people."""
    site = Appliance(offline=True)
    for tag in ("1", "2"):
        failing(site.through.manifest(site.at(HUB, NGINX), tag), Offline)
    answer = site.ask("GET", "wants?format=text")
    assert answer.header("Content-Type") == "text/plain"
    assert answer.body == b"docker.io/library/nginx:1\ndocker.io/library/nginx:2\n"
    assert site.get("wants?format=json") == site.get("wants")
    assert site.error("GET", "wants?format=xml")[0] == 400
