"""What refers to an image comes along with it, while no client waits."""

from __future__ import annotations

import json
from hashlib import sha512
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import LogLevel, capturedLogs

from appliance.cache import prefetch as module
from appliance.cache import prefetchrun
from appliance.cache.prefetch import AT_ONCE
from appliance.cache.prefetchrun import AGAIN, SMALL
from appliance.errors import UpstreamMissing, UpstreamRateLimited, UpstreamUnavailable
from appliance.oci.digest import Digest
from appliance.oci.mediatypes import OCI_INDEX, OCI_MANIFEST
from appliance.settings import PrefetchSettings
from appliance.upstream.interfaces import Availability
from tests.doubles.deferreds import begin, result
from tests.doubles.manifests import CONFIG, descriptor, image, index
from tests.doubles.pullthrough import Cache
from tests.rooms.cache.desk import APP, HUB, IMAGE, SUBJECT, Desk, about, digests, lines

FRESH_FOR = 600.0
REFERRERS_ALONE = PrefetchSettings(image="none", referrers=True)
NOTHING = PrefetchSettings(image="none")


def desk_of(**settings: Any) -> Desk:
    """One that prefetches referrers alone."""
    wanted = {"prefetch": REFERRERS_ALONE, "referrers_fresh_for": FRESH_FOR}
    return Desk(**wanted | settings)


# -- what is fetched ------------------------------------------------------------------------------------------------


def test_an_image_can_be_verified_when_its_upstream_is_gone() -> None:
    """The list, the signature and its blobs are held a moment after the tag was pulled, and served."""
    desk = desk_of()
    [signature] = desk.refer(IMAGE, b"signature")
    desk.pull()
    desk.upstream.fail(UpstreamUnavailable(HUB, "gone"))
    listed = result(desk.through.referrers(desk.at(HUB, APP), SUBJECT))
    assert [str(each.digest) for each in listed.referrers] == digests(signature)
    assert result(desk.through.manifest(desk.at(HUB, APP), listed.referrers[0].digest)).data == signature
    for blob in (CONFIG, b"signature"):
        result(desk.through.blob(desk.at(HUB, APP), Digest.of(blob))).close()
    assert desk.prefetch.referrers == 0


def test_what_cosign_left_under_tags_comes_too() -> None:
    """Signatures, attestations and SBOMs; their tags are served afterwards."""
    desk = desk_of()
    left = {suffix: image(suffix.encode()) for suffix in (".sig", ".att", ".sbom")}
    for suffix, manifest in left.items():
        desk.offer(manifest, suffix.encode(), SUBJECT.file_name + suffix)
    desk.pull()
    assert all(desk.holds(b".sig", b".att", b".sbom"))
    desk.upstream.fail(UpstreamUnavailable(HUB, "gone"))
    for suffix, manifest in left.items():
        assert result(desk.through.manifest(desk.at(HUB, APP), SUBJECT.file_name + suffix)).data == manifest


def test_a_signature_that_was_pulled_is_whole_whatever_is_prefetched() -> None:
    """cosign reads no configuration of its signatures; without it they would go into no bundle."""
    desk = desk_of(prefetch=NOTHING)
    large = b"large" * SMALL
    desk.offer(image(b"signature", large), b"signature", f"sha256-{SUBJECT.encoded}.sig")
    desk.upstream.add_blob(APP, large)
    desk.pull()
    assert desk.holds(CONFIG) == [False], "of an ordinary image nothing is fetched that no client pulled"
    desk.pull(f"sha256-{SUBJECT.encoded}.sig")
    assert desk.holds(CONFIG, b"signature", large) == [True, True, False]
    assert desk.asked("referrers") == []


def test_what_refers_to_a_referrer_comes_and_nothing_beyond() -> None:
    """The signature of an SBOM; what refers to that is listed, as clients that show a tree ask, and not fetched."""
    desk = desk_of()
    [sbom] = desk.refer(IMAGE, b"SBOM")
    [signature] = desk.refer(sbom, b"signature of the SBOM")
    [further] = desk.refer(signature, b"further")
    desk.pull()
    assert desk.holds(sbom, b"SBOM", signature, b"signature of the SBOM") == [True] * 4
    assert desk.holds(further) == [False]
    assert desk.asked("referrers") == digests(IMAGE, sbom, signature)


def test_manifests_that_go_round_in_a_circle_are_looked_at_once() -> None:
    """A list may name the image itself, or what another one named."""
    desk = desk_of()
    sbom, lost = desk.refer(IMAGE, b"SBOM", b"lost")
    del desk.upstream.shelves[APP].manifests[Digest.of(lost)]
    named = [json.dumps(descriptor(OCI_MANIFEST, each)).encode() for each in (IMAGE, sbom, lost)]
    desk.upstream.add_referrers(APP, Digest.of(sbom), *named)
    with capturedLogs() as logged:
        desk.pull()
    assert desk.asked("manifest") == digests(IMAGE, sbom, lost)
    assert [line["count"] for line in lines(logged)] == [1]


def test_an_index_that_refers_comes_with_its_children() -> None:
    """A bundle of signatures is of no use without them."""
    desk = desk_of()
    child = image(b"child")
    desk.offer(child, b"child")
    bundle = index(child)
    desk.offer(bundle, b"", media_type=OCI_INDEX)
    desk.upstream.add_referrers(APP, SUBJECT, json.dumps(descriptor(OCI_INDEX, bundle)).encode())
    desk.pull()
    assert desk.holds(bundle, child, b"child") == [True] * 3


def test_no_more_than_so_many_manifests_are_fetched_for_one_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who may push to a repository cannot fill the disks of those who pull from it; it is logged."""
    monkeypatch.setattr(prefetchrun, "MOST", 2)
    desk = desk_of()
    made = desk.refer(IMAGE, b"1", b"2", b"3")
    with capturedLogs() as logged:
        desk.pull()
    assert desk.holds(*made) == [True, True, False]
    [line] = lines(logged)
    assert "beyond" in line["first"]


def test_a_digest_that_makes_no_tag_is_asked_for_no_tags() -> None:
    """One of sha512 is too long for cosign's tags."""
    desk = desk_of()
    subject = Digest.parse("sha512:" + sha512(IMAGE).hexdigest())
    desk.upstream.shelves[APP].manifests[subject] = (IMAGE, OCI_MANIFEST)
    desk.pull(subject)
    assert desk.asked("head") == []


# -- which images ---------------------------------------------------------------------------------------------------


def test_only_a_clients_pull_of_an_upstream_that_is_to_be_prefetched_from_counts() -> None:
    """Not a look at the headers, and not by default."""
    for settings, pulled in (({}, False), ({"prefetch": NOTHING}, True)):
        desk = desk_of(**settings)
        desk.refer(IMAGE, b"signature")
        result(desk.through.manifest(desk.at(HUB, APP), "latest", pulled=pulled))
        desk.turn()
        assert desk.asked("referrers") == []


def test_runtimes_that_pull_by_digest_get_it_too() -> None:
    """They ask what a tag means, by HEAD, and pull the digest; of an index they pull the child that they need."""
    desk = desk_of()
    whole, other = index(IMAGE), image(b"for another platform")
    desk.offer(whole, b"", "multi", media_type=OCI_INDEX)
    desk.offer(other, b"for another platform")
    desk.refer(whole, b"signature of the index")
    desk.refer(IMAGE, b"signature of the child")
    result(desk.through.manifest(desk.at(HUB, APP), "multi"))
    desk.pull(Digest.of(whole))
    assert desk.holds(b"signature of the index", b"signature of the child") == [True, False]
    desk.pull(SUBJECT)
    assert desk.holds(b"signature of the child") == [True]


@pytest.mark.parametrize("by_tag", [True, False])
def test_a_signature_that_is_pulled_is_no_image(by_tag: bool) -> None:
    """A client that verifies sets off no search for the signatures of signatures."""
    desk = desk_of()
    [signature] = desk.refer(IMAGE, b"signature")
    tag = f"{SUBJECT.file_name}.sig"
    desk.offer(image(b"old"), b"old", tag)
    desk.pull()
    desk.asked()
    desk.clock.advance(FRESH_FOR)
    for reference in [tag] if by_tag else [Digest.of(signature), Digest.of(image(b"old"))]:
        desk.pull(reference)
    assert desk.asked("referrers", "blob") == []


def test_a_hundred_pulls_are_one_search() -> None:
    """Under whatever tags, by the hot lane, before it began and in the middle of it."""
    desk = desk_of()
    desk.offer(IMAGE, b"app", "1", "1.2")
    desk.refer(IMAGE, b"signature")
    desk.upstream.hang("head")
    for number, tag in enumerate(("latest", "1", "1.2")):
        pulling = begin(desk.through.manifest(desk.at(HUB, APP), tag, pulled=True))
        desk.upstream.hanging[number].answer()
        result(pulling)
        desk.through.note_pulls(desk.at(HUB, APP), tag, 33)
    for _ in range(2):
        desk.turn()
        desk.through.note_pulls(desk.at(HUB, APP), "1", 33)
    assert desk.prefetch.referrers == 1
    desk.upstream.heal()
    desk.upstream.hanging[-1].answer()
    desk.turn()
    assert desk.asked("referrers") == digests(IMAGE, about(IMAGE, b"signature"))
    assert desk.prefetch.referrers == 0


def test_a_signature_that_was_added_later_comes_with_a_later_pull() -> None:
    """Not before the list is stale; a pull by the hot lane counts."""
    desk = desk_of(fresh_for=None)
    desk.refer(IMAGE, b"early")
    desk.pull()
    desk.refer(IMAGE, b"early", b"late")
    desk.asked()
    desk.pull(after=FRESH_FOR - 1)
    assert desk.asked() == []
    desk.clock.advance(1)
    desk.through.note_pulls(desk.at(HUB, APP), "latest")
    desk.turn()
    assert desk.holds(b"late") == [True]


def test_a_tag_that_moved_is_looked_at_at_once() -> None:
    """It is another image."""
    desk = desk_of(fresh_for=1.0)
    desk.pull()
    new = image(b"new")
    desk.offer(new, b"new", "latest")
    desk.refer(new, b"signature of the new")
    desk.pull(after=2)
    assert desk.holds(b"signature of the new") == [True]


def test_lists_that_are_always_asked_for_are_not_by_prefetching() -> None:
    """referrers_fresh_for: 0 is about clients who wait; a busy image would else be looked at all the time."""
    desk = desk_of(referrers_fresh_for=0.0, fresh_for=None)
    desk.pull()
    desk.asked()
    desk.pull(after=AGAIN - 1)
    assert desk.asked() == []
    desk.pull(after=1)
    assert desk.asked("referrers") == digests(IMAGE)


def test_no_more_than_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one looked at longest ago is as new."""
    monkeypatch.setattr(module, "REMEMBERED", 1)
    desk = desk_of()
    desk.offer(image(b"2"), b"2", "2")
    for tag in ("latest", "2"):
        desk.pull(tag)
    desk.asked()
    desk.pull("2")
    assert desk.asked() == []
    desk.clock.advance(31.0)
    desk.pull()
    assert len(desk.asked("head")) == 3


# -- how it is fetched ----------------------------------------------------------------------------------------------


def test_no_pull_waits_for_it() -> None:
    """The client has its answer before anything else is asked."""
    desk = desk_of()
    desk.upstream.hang("referrers")
    assert result(desk.through.manifest(desk.at(HUB, APP), "latest", pulled=True)).data == IMAGE
    assert desk.asked() == ["latest", str(SUBJECT)]
    desk.turn()
    assert desk.asked() == [str(SUBJECT)]


def test_its_blobs_go_behind_those_that_clients_wait_for() -> None:
    """Where there is a limit on connections, or on the rate."""
    desk = desk_of()
    desk.refer(IMAGE, b"signature")
    desk.pull()
    assert [call.background for call in desk.upstream.asked("blob")] == [True, True]


def test_it_is_no_pull_and_no_want() -> None:
    """Usage is what clients used; and what was wanted and came is wanted no more."""
    desk = desk_of()
    [signature, lost] = desk.refer(IMAGE, b"signature", b"lost")
    del desk.upstream.shelves[APP].manifests[Digest.of(lost)]
    for wanted in digests(signature, b"signature"):
        desk.wants.note(HUB, APP, wanted, None, "unavailable")
    desk.pull()
    assert (len(desk.usage), len(desk.wants)) == (1, 0)


def test_four_images_are_looked_at_at_a_time() -> None:
    """Each with one question; the next comes when one is done, and all come."""
    desk = desk_of()
    images = [image(b"%d" % number) for number in range(10)]
    for number, each in enumerate(images):
        desk.offer(each, b"%d" % number, f"{number}")
    desk.upstream.hang("referrers")
    for number in range(10):
        desk.pull(f"{number}")
    assert len(desk.upstream.hanging) == AT_ONCE and desk.prefetch.referrers == 10
    served = 0
    while desk.upstream.hanging:
        assert len(desk.upstream.hanging) <= AT_ONCE
        desk.upstream.hanging.pop(0).answer()
        desk.turn()
        served += 1
    assert (served, desk.prefetch.referrers) == (10, 0)


def test_what_is_too_much_is_left_out_and_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest; it comes with a pull when there is room."""
    monkeypatch.setattr(module, "LIMIT", 2)
    desk = desk_of()
    for number in range(5):
        desk.offer(image(b"%d" % number), b"%d" % number, f"{number}")
        result(desk.through.manifest(desk.at(HUB, APP), f"{number}"))
    with capturedLogs() as logged:
        for number in range(5):
            desk.through.note_pulls(desk.at(HUB, APP), f"{number}")
    assert [event["limit"] for event in lines(logged)] == [2]
    desk.turn()
    assert desk.asked("referrers") == digests(image(b"0"), image(b"1"))
    desk.pull("4")
    assert desk.asked("referrers") == digests(image(b"4"))


# -- what goes wrong ------------------------------------------------------------------------------------------------


def test_one_that_fails_holds_up_no_other() -> None:
    """A manifest that is not there, a blob that is damaged: one line says so, and tags that do not exist are none."""
    desk = desk_of()
    lost, damaged, good = desk.refer(IMAGE, b"lost", b"damaged", b"good")
    del desk.upstream.shelves[APP].manifests[Digest.of(lost)]
    desk.upstream.shelves[APP].blobs[Digest.of(b"damaged")] = b"Damaged"
    with capturedLogs() as logged:
        desk.pull()
    assert desk.holds(lost, damaged, b"damaged", good, b"good") == [False, True, False, True, True]
    [line] = lines(logged)
    assert (line["log_level"], line["count"]) == (LogLevel.info, 2)
    assert digests(lost)[0] in line["first"]


def test_nothing_is_said_of_an_image_that_is_not_signed() -> None:
    """No referrers and no tags: most images."""
    desk = desk_of()
    with capturedLogs() as logged:
        desk.pull()
    assert lines(logged) == [] and len(desk.asked("head")) == 4


@pytest.mark.parametrize(("retry_after", "again"), [(300.0, 300.0), (1.0, AGAIN), (None, AGAIN)])
def test_an_upstream_that_wants_fewer_requests_gets_none(retry_after: float | None, again: float) -> None:
    """The rest of an image's waits until it may be asked, and comes with the next pull then."""
    desk = desk_of(fresh_for=None)
    desk.refer(IMAGE, b"1", b"2")
    desk.pull()
    desk.refer(IMAGE, b"1", b"2", b"3", b"4")
    desk.clock.advance(FRESH_FOR)
    desk.upstream.fail(UpstreamRateLimited(HUB, "too many", retry_after), "manifest")
    desk.asked()
    desk.pull()
    assert desk.asked("manifest") == digests(about(IMAGE, b"3"))
    desk.upstream.heal()
    desk.pull(after=again - 1)
    assert desk.asked() == []
    desk.pull(after=1)
    assert desk.holds(b"3", b"4") == [True, True]


def test_an_upstream_that_is_down_is_not_asked_on() -> None:
    """A failure, and an availability that says that the next question will fare no better; later it is asked again."""
    desk = desk_of(fresh_for=None)
    desk.refer(IMAGE, b"signature")
    result(desk.through.manifest(desk.at(HUB, APP), "latest"))
    down = UpstreamUnavailable(HUB, "down")
    desk.upstream.fail(down)
    desk.upstream.availabilities["*"] = Availability(ask=False, wait=False, fault=down)
    desk.asked()
    desk.pull()
    assert desk.asked() == digests(IMAGE)
    desk.upstream.heal()
    desk.upstream.availabilities.clear()
    desk.pull(after=AGAIN)
    assert desk.holds(b"signature") == [True]


def test_an_upstream_that_failed_once_is_asked_for_the_rest() -> None:
    """And for what failed with the first pull a minute later, not ten."""
    desk = desk_of(fresh_for=None)
    desk.refer(IMAGE, b"1", b"2")
    desk.upstream.fail_once("blob", UpstreamUnavailable(HUB, "cut"), UpstreamUnavailable(HUB, "cut"))
    desk.pull()
    assert desk.holds(CONFIG, b"1", b"2") == [False, False, True]
    desk.pull(after=AGAIN)
    assert desk.holds(CONFIG, b"1") == [True, True]


def test_a_list_that_was_not_received_in_time_is_looked_at_again_soon() -> None:
    """What was known is fetched; what is new comes a minute later, not ten."""
    desk = desk_of(fresh_for=None)
    desk.refer(IMAGE, b"old")
    desk.pull()
    desk.refer(IMAGE, b"old", b"new")
    desk.clock.advance(FRESH_FOR)
    desk.upstream.hang("referrers")
    desk.pull()
    desk.turn(60.0)
    desk.turn(60.0)
    assert desk.prefetch.referrers == 0
    desk.upstream.heal()
    for each in desk.upstream.hanging:
        each.answer()
    desk.pull(after=AGAIN)
    assert desk.holds(b"new") == [True]


def test_a_mistake_of_ours_is_logged_and_holds_up_no_other_image(logged_errors: list[Any]) -> None:
    """Nothing that could be foreseen, so with its traceback."""
    desk = desk_of()
    desk.offer(image(b"2"), b"2", "2")
    desk.upstream.fail_once("referrers", ZeroDivisionError("ours"))
    for tag in ("latest", "2"):
        desk.pull(tag)
    assert desk.prefetch.referrers == 0 and len(desk.asked("head")) == 2 + 3
    assert {event["failure"].type for event in logged_errors} == {ZeroDivisionError}
    logged_errors.clear()


# -- its end --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["offline", "prefetch", "allow", "gone"])
def test_a_configuration_that_says_no_is_heeded_at_once(change: str) -> None:
    """Read again in the middle: nothing more leaves."""
    desk = desk_of()
    desk.refer(IMAGE, b"1", b"2")
    desk.offer(image(b"2"), b"2", "2")
    desk.upstream.hang("referrers")
    for tag in ("latest", "2"):
        desk.pull(tag)
    other = {
        "offline": {"offline": True},
        "prefetch": {"prefetch": NOTHING},
        "allow": {"allow": ()},
        "gone": {},
    }
    settings = {"prefetch": REFERRERS_ALONE, **other[change]}
    after = Cache(*([] if change == "gone" else [desk.upstream]), **settings)
    desk.through.access.remotes = after.remotes
    desk.upstream.heal()
    desk.asked()
    with capturedLogs() as logged:
        for each in desk.upstream.hanging:
            each.answer()
        desk.turn()
    assert desk.asked() == lines(logged) == [] and desk.prefetch.referrers == 0


@pytest.mark.parametrize("verb", ["referrers", "manifest", "blob", "head"])
def test_a_stop_drops_what_is_under_way_and_begins_nothing(verb: str) -> None:
    """Wherever it is; it waits until that has ended, and pulls set off nothing any more."""
    desk = desk_of()
    desk.refer(IMAGE, b"signature")
    for number in range(AT_ONCE + 2):
        desk.offer(image(b"%d" % number), b"%d" % number, f"{number}")
        result(desk.through.manifest(desk.at(HUB, APP), f"{number}"))
    result(desk.through.manifest(desk.at(HUB, APP), "latest"))
    desk.upstream.hang(verb)
    desk.asked()
    for tag in ("latest", *map(str, range(AT_ONCE + 2))):
        desk.pull(tag)
    assert desk.prefetch.referrers > 0 or verb in ("manifest", "blob")
    begun = len(desk.asked())
    stopping: Deferred[None] = desk.prefetch.stop()
    result(stopping)
    assert begun and desk.prefetch.referrers == 0
    desk.through.note_pulls(desk.at(HUB, APP), "3")
    for each in desk.upstream.hanging:
        each.refuse(UpstreamMissing(HUB, "no"))
    desk.turn()
    assert desk.asked() == [] and desk.clock.getDelayedCalls() == []


def test_a_stop_before_anything_began_is_over_at_once() -> None:
    """Nothing is asked afterwards."""
    desk = desk_of()
    result(begin(desk.through.manifest(desk.at(HUB, APP), "latest", pulled=True)))
    desk.asked()
    result(desk.prefetch.stop())
    assert desk.clock.getDelayedCalls() == []
    desk.turn()
    assert desk.asked() == []
