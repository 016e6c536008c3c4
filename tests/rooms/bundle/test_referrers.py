"""Signatures and SBOMs across the gap: what one appliance holds of them, another one lists and serves offline."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.bundle import contents
from appliance.cache.referrers import ReferrersAnswer
from appliance.errors import ReferrersUnknown
from appliance.index.graph import tagged_about
from appliance.index.lists import ReferrerLists
from appliance.index.repository import Repository
from appliance.oci.digest import Digest
from appliance.oci.mediatypes import OCI_INDEX
from appliance.oci.referrer import cosign_tags, fallback_tag
from tests.doubles import archives
from tests.doubles.appliance import HUB, NGINX, Appliance
from tests.doubles.deferreds import failing, result
from tests.doubles.exports import entries
from tests.doubles.images import OCI, Blob, Content, artifact, encode, image, index, multi_arch

MULTI = multi_arch("multi")
AMD64, ARM64 = MULTI.children


def digest(content: Content) -> Digest:
    return Digest.parse(content.digest)


def bare(text: str) -> Content:
    """An artifact that does not say what it is about, as tools before image-spec 1.1 made them."""
    return image(text, (10,))


def carry(site: Appliance, closed: Appliance, folder: Path, *refs: str, **more: Any) -> Any:
    """Export, carry and import; the receipt."""
    plan = site.ask("POST", "exports", {"refs": refs or ["nginx"], **more}).json
    assert plan["leftOut"] == plan["unanswered"] == [], plan
    file = folder / "bundle.tar"
    file.write_bytes(site.ask("GET", f"exports/{plan['id']}/volumes/1").body)
    answer = closed.ask("POST", "imports", {"files": [str(file)]})
    return answer.lines[-1]["receipt"]


def listed(site: Appliance, subject: Content) -> ReferrersAnswer:
    return result(site.through.referrers(site.at(HUB, NGINX), digest(subject)))


def found(site: Appliance, subject: Content) -> list[str]:
    """What is listed, each of which must come with all its blobs."""
    digests = [str(each.digest) for each in listed(site, subject).referrers]
    for each in digests:
        served(site, Digest.parse(each))
    return sorted(digests)


def served(site: Appliance, reference: Digest | str) -> None:
    """Assert that a manifest and everything that it names comes."""
    document = json.loads(result(site.through.manifest(site.at(HUB, NGINX), reference)).data)
    for blob in (document["config"], *document["layers"]):
        answer = result(site.through.blob(site.at(HUB, NGINX), Digest.parse(blob["digest"])))
        assert answer.size == blob["size"]
        answer.close()


def by_subject(site: Appliance, subject: Content, text: str) -> Content:
    referrer = artifact(subject, f"text/{text}")
    site.hold(referrer)
    return referrer


def by_fallback(site: Appliance, subject: Content, text: str) -> Content:
    referrer = bare(text)
    site.hold(index(referrer), fallback_tag(digest(subject)))
    return referrer


WAYS: list[Callable[[Appliance, Content, str], Content]] = [by_subject, by_fallback]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("subject", [MULTI, ARM64], ids=["index", "platform"])
def test_what_refers_to_an_image_is_listed_on_the_other_side(
    tmp_path: Path, way: Callable[..., Content], subject: Content
) -> None:
    """By subject and by fallback tag, of an index and of what is beneath it; and what refers to that."""
    site, closed = Appliance(), Appliance(offline=True)
    site.hold(MULTI, "1")
    first = way(site, subject, "first")
    second = way(site, first, "second")
    carry(site, closed, tmp_path)
    assert found(closed, subject) == [first.digest]
    assert found(closed, first) == [second.digest]
    warning = listed(closed, subject).warning
    assert warning is not None and "its upstream was not heard" in warning


@pytest.mark.parametrize("tag", cosign_tags(digest(MULTI)) + cosign_tags(digest(AMD64)))
def test_what_cosign_left_under_a_tag_is_served_under_it(tmp_path: Path, tag: str) -> None:
    """And what refers to that, so that a signed signature stays one."""
    site, closed = Appliance(), Appliance(offline=True)
    site.hold(MULTI, "1")
    signature = bare("signature")
    site.hold(signature, tag)
    attestation = by_subject(site, signature, "attestation")
    carry(site, closed, tmp_path)
    served(closed, tag)
    assert found(closed, signature) == [attestation.digest]


def test_what_is_found_in_several_ways_is_carried_and_listed_once(tmp_path: Path) -> None:
    """A registry with the API and a tool that wrote the tag all the same."""
    site, closed = Appliance(), Appliance(offline=True)
    site.hold(MULTI, "1")
    signature = artifact(MULTI, "text/signature")
    site.hold(index(signature), fallback_tag(digest(MULTI)), cosign_tags(digest(MULTI))[0])
    carry(site, closed, tmp_path)
    assert found(closed, MULTI) == [signature.digest]


def test_what_the_fallback_tag_names_and_no_client_pulled_stays_known(tmp_path: Path) -> None:
    """The other side can see that there is one more, and that it is not there."""
    site, closed = Appliance(), Appliance(offline=True)
    site.hold(MULTI, "1")
    pulled, other = artifact(MULTI, "text/pulled"), artifact(MULTI, "text/other")
    site.hold(index(pulled, other), fallback_tag(digest(MULTI)), without=(other.manifest,))
    carry(site, closed, tmp_path)
    assert [str(each.digest) for each in listed(closed, MULTI).referrers] == [pulled.digest, other.digest]
    states = {each["digest"]: each["state"] for each in closed.get("images/nginx:1")["referrers"]}
    assert states == {pulled.digest: "held", other.digest: "absent"}


def test_one_subject_has_three_referrers_upstream_and_one_from_a_bundle(tmp_path: Path) -> None:
    """An appliance that is online lists all four, each once, the upstream's as its upstream describes them."""
    site, other = Appliance(), Appliance()
    site.hold(MULTI, "1")
    ours = by_subject(site, MULTI, "ours")
    both = by_subject(site, MULTI, "both")
    carry(site, other, tmp_path)
    theirs = [artifact(MULTI, "text/a"), both, artifact(MULTI, "text/b")]
    described = [json.dumps(each.manifest.descriptor(theirs=True), indent=1).encode() for each in theirs]
    other.hub.add_referrers(NGINX, digest(MULTI), *described)
    answer = listed(other, MULTI)
    assert [str(each.digest) for each in answer.referrers] == [*(each.digest for each in theirs), ours.digest]
    assert [each.raw for each in answer.referrers[:3]] == described and answer.warning is None


def test_an_increment_brings_the_signature_that_was_made_later(tmp_path: Path) -> None:
    """The image is on the other side already: only what signs it travels."""
    site, closed = Appliance(), Appliance(offline=True)
    site.hold(MULTI, "1")
    carry(site, closed, tmp_path)
    failing(closed.through.referrers(closed.at(HUB, NGINX), digest(MULTI)), ReferrersUnknown)
    signature = by_subject(site, MULTI, "signature")
    receipt = carry(site, closed, tmp_path, have=closed.get("inventory"))
    assert receipt["newBlobs"] == 1 + len(signature.blobs)
    assert found(closed, MULTI) == [signature.digest]


def test_that_nothing_refers_to_an_image_crosses_the_gap_when_the_upstream_said_so(tmp_path: Path) -> None:
    """What no upstream said is not answered with "none" on the other side either."""
    for said in (True, False):
        site, closed = Appliance(), Appliance(offline=True)
        site.hold(MULTI, "1")
        if said:
            hear(site, MULTI)
        carry(site, closed, tmp_path)
        if said:
            assert (listed(closed, MULTI).referrers, listed(closed, MULTI).warning) == ([], None)
        else:
            failing(closed.through.referrers(closed.at(HUB, NGINX), digest(MULTI)), ReferrersUnknown)
        assert closed.get("images/nginx:1")["verifiable"] == ("nothing" if said else "unknown")


def test_the_whole_tree_that_was_received_is_listed_without_a_warning(tmp_path: Path) -> None:
    """Clients that show a tree ask of each referrer what refers to that, down to where nothing does."""
    site, closed = Appliance(), Appliance(offline=True)
    site.hold(MULTI, "1")
    sbom = by_subject(site, MULTI, "sbom")
    hear(site, MULTI, sbom)
    hear(site, sbom)
    carry(site, closed, tmp_path)
    assert (found(closed, MULTI), listed(closed, MULTI).warning) == ([sbom.digest], None)
    assert (found(closed, sbom), listed(closed, sbom).warning) == ([], None)


def test_a_list_of_which_something_stays_behind_is_not_called_whole(tmp_path: Path) -> None:
    """A referrer that was not pulled is not in the bundle, and its list is not known on the other side."""
    site, closed = Appliance(), Appliance(offline=True)
    site.hold(MULTI, "1")
    here, gone = by_subject(site, MULTI, "here"), artifact(MULTI, "text/gone")
    hear(site, MULTI, here, gone)
    carry(site, closed, tmp_path)
    assert found(closed, MULTI) == [here.digest]
    assert "its upstream was not heard" in (listed(closed, MULTI).warning or "")


def test_what_was_received_here_later_is_not_replaced_by_an_older_bundle(tmp_path: Path) -> None:
    """An appliance that was online since knows better."""
    site, other = Appliance(), Appliance()
    site.hold(MULTI, "1")
    hear(site, MULTI)
    new = artifact(MULTI, "text/new")
    hear(other, MULTI, new)
    carry(site, other, tmp_path)
    other.clock.advance(1)
    assert [str(each.digest) for each in listed(other, MULTI).referrers] == [new.digest]


def forged(site: Appliance, folder: Path, **changes: Any) -> Path:
    """What C{site} holds, in a bundle whose list of contents was written by another."""
    plan = site.ask("POST", "exports", {"all": True}).json
    found = entries(site.ask("GET", f"exports/{plan['id']}/volumes/1").body)
    fields = json.loads(found[contents.BUNDLE]) | changes
    del fields["id"]
    identity = str(Digest.of(canonical(fields)))
    found[contents.BUNDLE] = canonical(fields | {"id": identity})
    (folder / "bundle.tar").write_bytes(archives.tar(found))
    return folder / "bundle.tar"


def canonical(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()


def imported(site: Appliance, file: Path) -> Any:
    """The last line of an import."""
    return site.ask("POST", "imports", {"files": [str(file)]}).lines[-1]


def test_a_bundle_speaks_for_no_image_that_it_does_not_bring(tmp_path: Path) -> None:
    """It says of another, held already, that nothing refers to it: that would hide signatures that are yet to come."""
    site, closed, sender = Appliance(), Appliance(offline=True), Appliance()
    site.hold(MULTI, "1")
    carry(site, closed, tmp_path)
    failing(closed.through.referrers(closed.at(HUB, NGINX), digest(MULTI)), ReferrersUnknown)
    other = image("other")
    sender.hold(other, "2")
    place = {"repository": f"{HUB}/{NGINX}"}
    heard = [place | {"subject": each.digest} for each in (MULTI, other)]
    receipt = imported(closed, forged(sender, tmp_path, referrersHeard=heard))["receipt"]
    assert any("1 manifests that are not in it" in note for note in receipt["notes"])
    assert closed.get(f"imports/{receipt['id']}") == receipt
    failing(closed.through.referrers(closed.at(HUB, NGINX), digest(MULTI)), ReferrersUnknown)
    assert listed(closed, other).warning is None


def test_a_bundle_speaks_for_an_image_in_the_repository_that_it_brings_it_to(tmp_path: Path) -> None:
    """In another one the same image may have other signatures."""
    closed, sender = Appliance(offline=True), Appliance()
    for name in (NGINX, "library/other"):
        closed.hold(MULTI, "1", name=name)
    sender.hold(MULTI, "1")
    heard = [{"repository": f"{HUB}/library/other", "subject": MULTI.digest}]
    imported(closed, forged(sender, tmp_path, referrersHeard=heard))
    failing(closed.through.referrers(closed.at(HUB, "library/other"), digest(MULTI)), ReferrersUnknown)


def test_a_bundle_speaks_of_no_time_to_come(tmp_path: Path) -> None:
    """Else whatever an upstream says until then would count for less."""
    closed, sender = Appliance(offline=True), Appliance()
    sender.hold(MULTI, "1")
    heard = [{"repository": f"{HUB}/{NGINX}", "subject": MULTI.digest}]
    file = forged(sender, tmp_path, referrersHeard=heard, created="2999-01-01T00:00:00Z")
    receipt = imported(closed, file)["receipt"]
    assert any("a time to come" in note for note in receipt["notes"])
    failing(closed.through.referrers(closed.at(HUB, NGINX), digest(MULTI)), ReferrersUnknown)


@pytest.mark.parametrize(
    "changes",
    [
        {"created": "2026-02-30T00:00:00Z"},
        {"created": "2026-12-31T23:59:60Z"},
        {"notAfter": "2026-13-01T00:00:00Z"},
        {"referrersHeard": [{"repository": "UPPER/case", "subject": MULTI.digest}]},
        {"referrersHeard": [{"repository": f"{HUB}/{NGINX}:1", "subject": MULTI.digest}]},
    ],
)
def test_what_could_not_be_kept_is_refused_before_anything_is_published(tmp_path: Path, changes: Any) -> None:
    """The 30th of February, or a repository that is none: the import fails, and nothing of it is served."""
    closed, sender = Appliance(offline=True), Appliance()
    sender.hold(MULTI, "1")
    heard = {"referrersHeard": [{"repository": f"{HUB}/{NGINX}", "subject": MULTI.digest}]}
    last = imported(closed, forged(sender, tmp_path, **(heard | changes)))
    assert last["error"]["code"] == "bundle-damaged"
    assert (closed.store.total(), closed.get("images")["images"]) == (0, [])


def test_what_fails_after_the_publication_is_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged_errors: list[Any]
) -> None:
    """The image is served, and the receipt says what is not known of it."""
    site, closed = Appliance(), Appliance(offline=True)
    site.hold(MULTI, "1")
    hear(site, MULTI)

    async def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ReferrerLists, "save", full)
    receipt = carry(site, closed, tmp_path)
    assert any("could not be noted: [Errno 28] No space left on device" in note for note in receipt["notes"])
    served(closed, digest(AMD64))
    # A mistake of ours.
    monkeypatch.setattr(ReferrerLists, "get", None)
    receipt = imported(closed, tmp_path / "bundle.tar")["receipt"]
    assert any("it is published; after that:" in note for note in receipt["notes"])
    logged_errors.clear()


def hear(site: Appliance, subject: Content, *referrers: Content) -> None:
    """The upstream is asked what refers to C{subject}, and lists these."""
    described = (json.dumps(each.manifest.descriptor()).encode() for each in referrers)
    site.hub.add_referrers(NGINX, digest(subject), *described)
    listed(site, subject)


def test_referrers_can_be_left_at_home(tmp_path: Path) -> None:
    """C{referrers: false} means all of them, whichever way they are found."""
    site, closed = Appliance(), Appliance(offline=True)
    site.hold(MULTI, "1")
    by_subject(site, MULTI, "sbom"), by_fallback(site, AMD64, "list")
    site.hold(bare("signature"), cosign_tags(digest(MULTI))[2])
    receipt = carry(site, closed, tmp_path, "nginx:1", referrers=False)
    assert [each["name"] for each in receipt["refs"]] == ["docker.io/library/nginx:1"]


def test_the_fallback_tag_of_a_long_digest_is_the_shortened_one() -> None:
    """A tag has 128 characters at most (distribution-spec, "Referrers Tag Schema")."""
    subject = Digest("sha512", "ab" * 64)
    repository = Repository(HUB, NGINX)
    listing = Blob(OCI.index, encode({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}))
    held = Digest.parse(listing.digest)
    repository.hold(held, OCI_INDEX, len(listing.data))
    repository.tag("sha512-" + "ab" * 32, held, 1.0)
    assert list(tagged_about(repository, subject)) == [("sha512-" + "ab" * 32, held)]
