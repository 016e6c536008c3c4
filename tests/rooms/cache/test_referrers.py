"""What refers to a manifest: what its upstream lists and what is held, and never "nothing" unless it said so."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from appliance import errors
from appliance.cache import referrers as module
from appliance.cache.referrers import ReferrerCache, ReferrersAnswer
from appliance.flow.disk import InlineThreads
from appliance.index.graph import ManifestGraph
from appliance.index.lists import ReferrerLists
from appliance.oci import referrer as rules
from appliance.oci.digest import Digest
from appliance.oci.mediatypes import OCI_INDEX, OCI_MANIFEST
from appliance.settings import StaleSettings
from appliance.upstream.interfaces import Availability
from tests.doubles.deferreds import begin, failing, result
from tests.doubles.manifests import descriptor, image, index_of
from tests.doubles.pullthrough import Cache
from tests.doubles.upstream import ScriptedUpstream

HUB = "docker.io"
APP = image(b"app")
SUBJECT = Digest.of(APP)
REFERS = descriptor(OCI_MANIFEST, APP)
KEY = (HUB, "app", "_referrers", f"sha256-{SUBJECT.encoded}.json")

OLD, NEW, SEEN = (image(name, subject=REFERS) for name in (b"old", b"new", b"seen"))

DOWN = errors.UpstreamUnavailable(HUB, "refused since noon")
DENIED = errors.UpstreamDenied(HUB, "no")
LIMITED = errors.UpstreamRateLimited(HUB, "too many", 60.0)
TIMEOUT = errors.UpstreamTimeout(HUB, "silent for 30 s")


def lists(upstream: ScriptedUpstream, *manifests: bytes, cut: bool = False) -> None:
    """From now on these refer to the subject, and nothing else."""
    upstream.add_referrers("app", SUBJECT, *map(described, manifests), cut=cut)


class Desk:
    """A L{ReferrerCache} over a cache's stores."""

    def __init__(self, upstream: ScriptedUpstream, before: Desk | None = None, **more: Any) -> None:
        self.cache: Cache = Cache(upstream, before=None if before is None else before.cache, **more)
        self.clock = self.cache.clock
        self.referrers = ReferrerCache(
            self.cache.repositories,
            ReferrerLists(self.cache.documents),
            ManifestGraph(self.cache.store, InlineThreads()),
            self.cache.services.space,
            self.clock,
        )

    def ask(self, subject: Digest = SUBJECT, name: str = "app") -> Deferred[ReferrersAnswer]:
        return begin(self.referrers.list(self.cache.at(HUB, name), subject))

    def hold(self, data: bytes, *tags: str, media_type: str = OCI_MANIFEST) -> None:
        """As an import does it."""
        digest = Digest.of(data)
        result(self.cache.store.put(digest, data))
        repository = result(self.cache.repositories.get(HUB, "app"))
        repository.hold(digest, media_type, len(data))
        for tag in tags:
            repository.tag(tag, digest, 1.0)
        result(self.cache.repositories.save(repository))


def described(data: bytes) -> bytes:
    return json.dumps(descriptor(OCI_MANIFEST, data, theirs=True)).encode()


def digests(answer: ReferrersAnswer) -> list[Digest]:
    return [each.digest for each in answer.referrers]


def named(*manifests: bytes) -> list[Digest]:
    return [Digest.of(each) for each in manifests]


def stocked(*manifests: bytes, **more: Any) -> tuple[ScriptedUpstream, Desk]:
    upstream = ScriptedUpstream(HUB)
    upstream.add_manifest("app", APP, OCI_MANIFEST, "latest")
    lists(upstream, *manifests)
    return upstream, Desk(upstream, **more)


# -- the table ------------------------------------------------------------------------------------------------------

# As in the module's docstring: nothing known; held and never listed; listed lately; listed longer ago.
TABLE: dict[str, tuple[Any, Any, Any, Any]] = {
    "lists some": ("theirs", "theirs", "not requested", "theirs"),
    "lists none": ("theirs", "theirs", "not requested", "theirs"),
    "has no such repository": ("theirs", "theirs", "not requested", "theirs"),
    "refuses us": (errors.ReferrersUnknown, "held, warned", "not requested", "stale"),
    "wants fewer requests": (errors.UpstreamRateLimited, "held, warned", "not requested", "stale"),
    "fails": (errors.UpstreamUnavailable, "held, warned", "not requested", "stale"),
    "is down": (errors.UpstreamUnavailable, "held, warned", "not requested", "stale"),
    "is silent": (errors.UpstreamTimeout, "held, warned", "not requested", "stale"),
    "is never asked": (errors.ReferrersUnknown, "held, warned", "as listed", "as listed"),
}
KNOWN = ("nothing", "held", "lately", "long ago")
FAULTS = {"refuses us": DENIED, "wants fewer requests": LIMITED, "fails": DOWN, "is down": DOWN}


def behave(upstream: ScriptedUpstream, how: str) -> None:
    upstream.calls.clear()
    lists(upstream, *([NEW] if how == "lists some" else []))
    if how == "has no such repository":
        upstream.listed.clear()
        upstream.shelves.clear()
    elif how == "is silent":
        upstream.hang()
    elif how in FAULTS:
        upstream.fail(FAULTS[how])
    if how == "is down":
        upstream.availabilities["app"] = Availability(ask=False, wait=False, fault=DOWN)


@pytest.mark.parametrize("subject_held", [True, False], ids=["subject held", "subject not held"])
@pytest.mark.parametrize("listed", [[], [OLD]], ids=["listed none", "listed one"])
@pytest.mark.parametrize("held", [[], [SEEN]], ids=["", "one held"])
@pytest.mark.parametrize("column", range(4), ids=KNOWN)
@pytest.mark.parametrize("how", TABLE)
def test_unknown_is_never_empty(
    how: str, column: int, held: list[bytes], listed: list[bytes], subject_held: bool
) -> None:
    """An empty list comes only where the upstream said so, then or earlier; what is held is never left out."""
    known = KNOWN[column]
    held = {"nothing": [], "held": [SEEN]}.get(known, held)
    upstream, before = stocked(*listed)
    for each in [*held, *([APP] if subject_held else [])]:
        before.hold(each)
    if known in ("lately", "long ago"):
        result(before.ask())
        before.clock.advance(1.0 if known == "lately" else 601.0)
    behave(upstream, how)
    # The same memory: what was received for a subject that is not held does not outlast it.
    before.cache.through.access.remotes = Cache(upstream, offline=how == "is never asked").remotes
    expected = TABLE[how][column]
    waiting = before.ask()
    if how == "is silent" and known != "lately":
        assert not waiting.called
        before.clock.advance(2.0)
        if known == "nothing":
            before.clock.advance(100.0)
            assert not waiting.called
        upstream.hanging[0].refuse(TIMEOUT)
    if isinstance(expected, type):
        failing(waiting, expected)
        return
    answer = result(waiting)
    said = [NEW] if how == "lists some" else []
    first = {"theirs": said, "held, warned": []}.get(expected, listed)
    assert digests(answer) == named(*first, *held)
    assert bool(upstream.calls) is (expected != "not requested" and how not in ("is down", "is never asked"))
    if expected == "held, warned":
        assert answer.status.hit and answer.warning is not None and answer.warning.startswith(module.ONLY_HELD)
    elif expected == "stale":
        assert answer.status.label == "stale" and answer.warning is not None and answer.warning.startswith("stale: ")
    else:
        assert answer.warning is None
        assert answer.status.hit is (expected != "theirs")


def test_the_table_is_the_documented_one() -> None:
    """Each of its rows is one there."""
    documented = module.__doc__ or ""
    for how in TABLE:
        assert how in documented


@pytest.mark.parametrize("column", ["nothing", "held", "long ago"])
@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (DOWN, errors.UpstreamUnavailable),
        (LIMITED, errors.UpstreamRateLimited),
        (DENIED, errors.ReferrersUnknown),
    ],
    ids=["unavailable", "rate_limited", "denied"],
)
def test_what_may_not_be_served_stale_is_an_error(
    column: str, fault: errors.UpstreamError, expected: type[Exception]
) -> None:
    """serve_stale is about lists of referrers, too."""
    upstream, desk = stocked(OLD, serve_stale=StaleSettings(**{fault.kind: False}))
    if column == "held":
        desk.hold(SEEN)
    elif column == "long ago":
        result(desk.ask())
        desk.clock.advance(601.0)
    upstream.fail(fault)
    failing(desk.ask(), expected)


# -- what was received ----------------------------------------------------------------------------------------------


def test_a_list_is_fresh_for_ten_minutes_and_kept_over_a_restart() -> None:
    """Whatever tags are: for those fresh_for counts."""
    for fresh_for in (60.0, None):
        upstream, desk = stocked(OLD, fresh_for=fresh_for)
        desk.hold(APP)
        assert str(result(desk.ask()).status) == "pullcache; fwd=uri-miss; stored"
        desk.clock.advance(599.0)
        for later in (desk, Desk(upstream, before=desk, fresh_for=fresh_for)):
            answer = result(later.ask())
            assert (str(answer.status), digests(answer)) == ("pullcache; hit", named(OLD))
        assert len(upstream.calls) == 1
        desk.clock.advance(1.0)
        lists(upstream, OLD, NEW)
        answer = result(desk.ask())
        assert (str(answer.status), digests(answer)) == ("pullcache; fwd=stale; stored", named(OLD, NEW))
    upstream, desk = stocked(OLD, referrers_fresh_for=5.0)
    for _ in range(2):
        result(desk.ask())
        desk.clock.advance(5.0)
    assert len(upstream.calls) == 2


def test_max_stale_counts_from_the_end_of_that_time() -> None:
    """Up to then the list is served while the upstream is down, afterwards it is not."""
    upstream, desk = stocked(OLD, max_stale=100.0, fresh_for=1.0)
    result(desk.ask())
    upstream.fail(DOWN)
    desk.clock.advance(700.0)
    assert result(desk.ask()).status.label == "stale"
    desk.clock.advance(1.0)
    failing(desk.ask(), errors.UpstreamUnavailable)


@pytest.mark.parametrize("leaves", [True, False])
def test_a_hundred_who_ask_for_a_cold_list_are_one_question(leaves: bool) -> None:
    """Also when others leave; each gets the whole list."""
    upstream, desk = stocked(OLD, NEW)
    upstream.hang()
    asked = [desk.ask() for _ in range(100)]
    if leaves:
        gone = asked.pop(0)
        gone.addErrback(lambda _: None)
        gone.cancel()
    assert len(upstream.calls) == 1
    upstream.hanging[0].answer()
    answers = [result(each) for each in asked]
    assert {tuple(digests(each)) for each in answers} == {tuple(named(OLD, NEW))}
    assert [each.status.label for each in answers].count("collapsed") == 99
    assert str(result(desk.ask()).status) == "pullcache; hit"


def test_who_has_something_waits_so_long_and_the_question_goes_on() -> None:
    """Others need not wait as well; the answer that comes later serves those who ask then."""
    upstream, desk = stocked(OLD)
    result(desk.ask())
    desk.clock.advance(601.0)
    lists(upstream, NEW)
    upstream.hang()
    waiting = desk.ask()
    desk.clock.advance(2.0)
    assert digests(result(waiting)) == named(OLD) and upstream.waited == ["app"]
    assert len(upstream.hanging) == 1
    upstream.hanging[0].answer()
    assert digests(result(desk.ask())) == named(NEW)


def test_a_repository_that_is_not_there_is_believed_for_a_while() -> None:
    """As any list that is empty; then it is asked for again."""
    upstream, desk = stocked()
    for _ in range(3):
        assert digests(result(desk.ask(name="other"))) == []
    assert len(upstream.calls) == 1
    desk.clock.advance(600.0)
    assert digests(result(desk.ask(name="other"))) == []
    assert len(upstream.calls) == 2


@pytest.mark.parametrize("repository_unknown", [False, True])
def test_a_404_in_place_of_a_list_says_nothing(repository_unknown: bool) -> None:
    """It would send clients to the fallback tag, whose 404 they take for "unsigned"."""
    upstream, desk = stocked()
    upstream.fail(errors.UpstreamMissing(HUB, "no such thing", repository_unknown))
    assert not isinstance(failing(desk.ask(), errors.UpstreamInvalid), errors.UpstreamMissing)
    upstream.fail(errors.Offline("no packet leaves"))  # type: ignore[arg-type]
    failing(desk.ask(), errors.ReferrersUnknown)


# -- together -------------------------------------------------------------------------------------------------------


def test_the_upstreams_come_first_and_each_once() -> None:
    """Then what the fallback tag held here lists, then manifests held; descriptors as they were received."""
    upstream, desk = stocked(NEW, OLD)
    tagged = image(b"tagged", subject=REFERS)
    fallback = index_of(descriptor(OCI_MANIFEST, tagged), REFERS)
    desk.hold(fallback, f"sha256-{SUBJECT.encoded}", media_type=OCI_INDEX)
    for each in (OLD, SEEN, tagged):
        desk.hold(each)
    answer = result(desk.ask())
    assert digests(answer) == named(NEW, OLD, tagged, APP, SEEN)
    assert [each.raw for each in answer.referrers[:2]] == [described(NEW), described(OLD)]
    later = Desk(upstream, before=desk, offline=True)
    assert result(later.ask()).referrers == answer.referrers


def test_what_is_imported_is_listed_at_once() -> None:
    """On a fresh list, too: no client waits ten minutes for what a bundle brought."""
    upstream, desk = stocked(OLD)
    result(desk.ask())
    desk.hold(SEEN)
    answer = result(desk.ask())
    assert digests(answer) == named(OLD, SEEN) and answer.status.hit
    assert len(upstream.calls) == 1


def test_what_is_no_descriptor_is_left_out() -> None:
    """One bad entry hides nothing."""
    upstream, desk = stocked()
    upstream.add_referrers("app", SUBJECT, b"{}", b'{"digest":"md5:1"}', described(OLD), described(OLD))
    assert digests(result(desk.ask())) == named(OLD)


def test_a_list_that_is_cut_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the upstream's side, by ours, or by what comes together; it is no error, and is remembered."""
    upstream, desk = stocked(OLD)
    desk.hold(APP)
    lists(upstream, OLD, cut=True)
    for each in (desk, Desk(upstream, before=desk), Desk(upstream, before=desk, offline=True)):
        assert result(each.ask()).warning == "there may be more referrers than the 1 that are listed"
    upstream, desk = stocked(OLD, NEW, SEEN)
    monkeypatch.setattr(rules, "MAX_REFERRERS", 2)
    answer = result(desk.ask())
    assert digests(answer) == named(OLD, NEW) and "more referrers than the 2" in (answer.warning or "")
    upstream, desk = stocked(OLD, NEW)
    desk.hold(SEEN)
    answer = result(desk.ask())
    assert digests(answer) == named(OLD, NEW) and "more referrers than the 2" in (answer.warning or "")
    upstream.fail(DOWN)
    desk.clock.advance(601.0)
    assert result(desk.ask()).warning == f"stale: {DOWN}; there may be more referrers than the 2 that are listed"


# -- on disk --------------------------------------------------------------------------------------------------------


def damage(desk: Desk) -> None:
    _, version = result(desk.cache.documents.read(KEY)) or (b"", 0)
    result(desk.cache.documents.write(KEY, b"{torn", version))


def test_a_damaged_list_is_fetched_again(logged_errors: list[dict[str, Any]]) -> None:
    """What is held answers meanwhile, with a warning; without it, it is an error and no empty list."""
    upstream, desk = stocked(OLD)
    result(desk.ask())
    damage(desk)
    failing(Desk(upstream, before=desk, offline=True).ask(), errors.ReferrersUnknown)
    assert digests(result(Desk(upstream, before=desk).ask())) == named(OLD)
    assert len(upstream.calls) == 2
    desk.hold(SEEN)
    damage(desk)
    offline = result(Desk(upstream, before=desk, offline=True).ask())
    assert digests(offline) == named(SEEN) and offline.warning == module.NEVER_RECEIVED
    logged_errors.clear()


def test_digests_that_a_client_makes_up_do_not_fill_the_disk() -> None:
    """Nothing refers to them, and they are not held: that is remembered for a while, in memory."""
    upstream, desk = stocked()
    strangers = [Digest.of(str(number).encode()) for number in range(9)]
    for _ in range(2):
        for each in strangers:
            assert result(desk.ask(each)).referrers == []
    assert len(upstream.calls) == 9
    assert not [key for key in desk.cache.documents._documents if "_referrers" in key]
    desk.hold(APP)
    result(desk.ask())
    assert result(desk.cache.documents.read(KEY)) is not None


def test_that_nothing_refers_to_a_referrer_is_kept() -> None:
    """Clients that show a tree ask it of every referrer, after a restart too, and whether those are held or not."""
    upstream, desk = stocked(OLD)
    [listed] = result(desk.ask()).referrers
    assert result(desk.ask(listed.digest)).referrers == []
    upstream.fail(DOWN)
    assert result(Desk(upstream, before=desk).ask(listed.digest)).referrers == []


def test_a_store_that_takes_no_news_does_not_stop_what_it_has(
    monkeypatch: pytest.MonkeyPatch, logged_errors: list[dict[str, Any]]
) -> None:
    """The list last received is served, with that for a reason."""
    upstream, desk = stocked(OLD)
    result(desk.ask())
    desk.clock.advance(601.0)

    async def full(*_: Any) -> None:
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(desk.cache.documents, "write", lambda *each: Deferred.fromCoroutine(full()))
    answer = result(desk.ask())
    assert digests(answer) == named(OLD) and "cannot be stored: Bad file descriptor" in (answer.warning or "")
    assert logged_errors
    logged_errors.clear()
