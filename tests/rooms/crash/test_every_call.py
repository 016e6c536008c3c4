"""
Whichever call to the disk is the last one, an appliance starts on what is left, and holds what it promised.

A scenario runs once over a L{Disk}. Before each of its calls, and in the middle of each write, it is noted what a kill
and what power cuts would leave, and what clients had been told by then. Afterwards an appliance is started on each.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from appliance.cache import segments
from appliance.cache.length import WrongBytes
from appliance.fields import Share
from appliance.index import repositories
from appliance.oci.digest import Digest
from appliance.settings import RetentionSettings
from tests.doubles import exports, images
from tests.doubles.deferreds import begin, result
from tests.doubles.disk import CUTS, Call, Cut, Disk, Tree, lay_out
from tests.doubles.images import Content
from tests.doubles.pullthrough import clock_at
from tests.doubles.upstream import ScriptedUpstream
from tests.rooms.crash.site import Site, expect_damage, files_of

HUB = "docker.io"
APP = "library/app"
FIRST = images.multi_arch("first", (9_000, 700))
SECOND = images.multi_arch("second", (8_000, 700))
OTHER = images.image("other", (5_000,))
SEEDS = int(os.environ.get("PULLCACHE_CUTS", "1"))
"""How many random power cuts there are at each call."""

Name = tuple[str, str, str]


@dataclass
class Promises:
    """
    What was said so far.

    @ivar tags: what each tag may mean: what was answered, or what it is moving to.
    @ivar whole: everything that clients have got to its end, and that was stored then: repository and digest.
    @ivar together: tags that come all at once or not at all, with their digests.
    @ivar pinned: tags that were said to stay.
    """

    tags: dict[Name, set[str | None]] = field(default_factory=dict)
    whole: set[tuple[str, str, str]] = field(default_factory=set)
    together: dict[Name, str] = field(default_factory=dict)
    pinned: set[Name] = field(default_factory=set)


@dataclass
class Ended:
    """A process that has ended: at which call, how, and what it left and had promised."""

    call: str
    cut: Cut
    tree: Tree
    promises: Promises


class Scenario:
    """One process over a disk; L{endings} are all ways in which it could have ended."""

    def __init__(self, folder: Path, upstream: ScriptedUpstream, prepare: Callable[[Scenario], None]) -> None:
        """@param prepare: what is done, and is durable, before the first call that counts."""
        folder.mkdir()
        self.upstream = upstream
        self.promises = Promises()
        self.settings: dict[str, Any] = {}
        self.endings: list[Ended] = []
        self._seen: set[str] = set()
        self.clock = clock_at()
        self.disk = Disk(folder)
        with self.disk.mounted():
            self.site = Site(folder, self.clock, upstream)
            prepare(self)
            self.site.flush()
            self.site.end()
        self.disk.settle()

    @contextmanager
    def running(self, **settings: Any) -> Iterator[Site]:
        """The process of which each call is looked at; its start as well."""
        with self.disk.mounted():
            self.disk.observe = self._look
            self.site = Site(self.disk.root, self.clock, self.upstream, **settings)
            yield self.site
            self._look(Call("end", "", len(self.disk.calls) + 1))
            self.disk.observe = None
            self.site.end()

    def pull(self, name: str, tag: str, content: Content) -> None:
        """A client pulls a tag, which means C{content} upstream."""
        key = (HUB, name, tag)
        self.promises.tags.setdefault(key, {None}).add(content.digest)
        pulled = self.site.pull(HUB, name, tag)
        self.promises.tags[key] = {content.digest}
        self.promises.whole |= {(HUB, name, str(digest)) for digest in pulled}

    def _look(self, call: Call) -> None:
        for cut in (*CUTS[:-1], *["random"] * SEEDS):
            tree = self.disk.left(cut, seed=len(self.endings))  # type: ignore[arg-type]
            ended = Ended(f"{call.number}: {call.name} {call.path}", cut, tree, deepcopy(self.promises))  # type: ignore[arg-type]
            seen = repr((sorted(tree.items()), ended.promises))
            if seen not in self._seen:
                self._seen.add(seen)
                self.endings.append(ended)


def check(ended: Ended, upstream: ScriptedUpstream, folder: Path) -> None:
    """Start an appliance on what is left, twice, and look at everything that was promised."""
    lay_out(ended.tree, folder)
    with Disk(folder).mounted():
        first = Site(folder, clock_at(), upstream, offline=True)
        first.check()
        tags = first.tags()
        first.end()
        left = files_of(folder)
        again = Site(folder, clock_at(), upstream, offline=True)
        assert again.tags() == tags
        assert {*files_of(folder)} == {*left}, "the second start finds something to do"
        for (_, name, tag), allowed in ended.promises.tags.items():
            digest = tags.get((HUB, name, tag))
            assert digest in allowed, f"{name}:{tag} is {digest}"
            if digest is not None:
                assert Digest.parse(digest).matches(again.manifest(HUB, name, tag))
        for _, name, text in ended.promises.whole:
            held = result(again.services.repositories.get(HUB, name)).manifests
            (again.manifest if Digest.parse(text) in held else again.blob)(HUB, name, Digest.parse(text))
        published = {name: tags.get(name) for name in ended.promises.together}
        assert published == ended.promises.together or not any(published.values()), f"half published: {published}"
        for key in ended.promises.pinned:
            record = again.tag(*key)
            assert record is not None and record.pinned, f"{key} is not pinned"
        again.end()
        # With the upstream back, everything can be pulled, and is right.
        last = Site(folder, clock_at(), upstream)
        for name, shelf in upstream.shelves.items():
            for tag in shelf.tags:
                # What a power cut left of a blob under way may be zeros: the digest finds out, and it begins again.
                with suppress(WrongBytes):
                    last.pull(HUB, name, tag)
                last.pull(HUB, name, tag)
        last.check()
        assert os.listdir(folder / "partial") == []
        last.end()


def check_all(scenario: Scenario, folder: Path) -> None:
    """Every ending."""
    faults = []
    for number, ended in enumerate(scenario.endings):
        try:
            check(ended, scenario.upstream, folder / str(number))
        except Exception as error:
            faults.append(f"{ended.cut} at {ended.call}: {type(error).__name__}: {error}")
    assert not faults, f"{len(faults)} of {len(scenario.endings)}:\n" + "\n".join(faults[:30])


def offering(*offers: tuple[str, str, Content]) -> ScriptedUpstream:
    """An upstream that holds these: repository, tag, content."""
    upstream = ScriptedUpstream(HUB)
    for name, tag, content in offers:
        offer(upstream, name, tag, content)
    return upstream


def offer(upstream: ScriptedUpstream, name: str, tag: str, content: Content) -> None:
    """From now on the tag means C{content}."""
    for part in content.walk():
        upstream.add_manifest(name, part.manifest.data, part.manifest.media_type, *((tag,) if part is content else ()))
        for blob in part.blobs:
            upstream.add_blob(name, blob.data)


def test_a_pull(tmp_path: Path) -> None:
    """A cold image: what the client was given is there."""
    upstream = offering((APP, "1", FIRST), ("library/other", "1", OTHER))
    scenario = Scenario(tmp_path / "disk", upstream, lambda each: each.pull("library/other", "1", OTHER))
    with scenario.running() as site:
        scenario.pull(APP, "1", FIRST)
        site.flush()
    check_all(scenario, tmp_path)


def test_a_pull_in_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with several ranges of a blob at once."""
    monkeypatch.setattr(segments, "PIECE", 1000)
    monkeypatch.setattr(segments, "SEGMENT_FROM", 2000)
    upstream = offering((APP, "1", OTHER))
    scenario = Scenario(tmp_path / "disk", upstream, lambda _: None)
    with scenario.running(segments=3):
        scenario.pull(APP, "1", OTHER)
    check_all(scenario, tmp_path)


def test_a_tag_that_moves(tmp_path: Path) -> None:
    """It means the old image or the new one, and the new one once a client has got it; the old one stays by digest."""
    upstream = offering((APP, "latest", FIRST))
    scenario = Scenario(tmp_path / "disk", upstream, lambda each: each.pull(APP, "latest", FIRST))
    offer(upstream, APP, "latest", SECOND)
    with scenario.running(fresh_for=0.0) as site:
        scenario.pull(APP, "latest", SECOND)
        site.flush()
    check_all(scenario, tmp_path)


def bundle(folder: Path) -> Path:
    """A bundle with tags in two repositories, and a manifest without a tag."""
    sender = exports.Site().hold(FIRST, (HUB, APP), "1", "2").hold(OTHER, (HUB, "library/other"), "3")
    path = folder / "bundle.tar"
    path.write_bytes(sender.file(sender.export(all=True)))
    return path


def test_an_import(tmp_path: Path) -> None:
    """All of its tags are there, or none of them; and all when it was said to be done, pinned."""
    upstream = offering((APP, "old", SECOND))
    scenario = Scenario(tmp_path / "disk", upstream, lambda each: each.pull(APP, "old", SECOND))
    path = bundle(tmp_path)
    scenario.promises.together = {
        (HUB, APP, "1"): FIRST.digest,
        (HUB, APP, "2"): FIRST.digest,
        (HUB, "library/other", "3"): OTHER.digest,
    }
    with scenario.running() as site:
        site.import_(path)
        scenario.promises.tags |= {name: {digest} for name, digest in scenario.promises.together.items()}
        scenario.promises.pinned |= {*scenario.promises.together}
        scenario.promises.whole |= {
            (HUB, name, digest)
            for name, content in ((APP, FIRST), ("library/other", OTHER))
            for digest in beneath(content)
        }
        site.flush()
    check_all(scenario, tmp_path)


def test_a_flight_that_is_resumed(tmp_path: Path) -> None:
    """A start that goes on where a kill has cut a layer."""
    upstream = offering((APP, "1", OTHER))
    layer = OTHER.layers[0]

    def cut(scenario: Scenario) -> None:
        upstream.by_hand = True
        scenario.site.manifest(HUB, APP, "1")
        begin(scenario.site.services.cache.blob(scenario.site.at(HUB, APP), Digest.parse(layer.digest)))
        upstream.bodies[-1].feed(2000)
        upstream.by_hand = False

    scenario = Scenario(tmp_path / "disk", upstream, cut)
    assert os.listdir(tmp_path / "disk" / "partial")
    with scenario.running() as site:
        scenario.pull(APP, "1", OTHER)
        site.flush()
    check_all(scenario, tmp_path)


def test_a_large_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Saved line by line, and written whole when it was quiet for a while: tags come and move as in a small one."""
    monkeypatch.setattr(repositories, "LARGE", 500)
    upstream = offering((APP, "1", OTHER), (APP, "latest", FIRST))
    scenario = Scenario(tmp_path / "disk", upstream, lambda each: each.pull(APP, "latest", FIRST))
    offer(upstream, APP, "latest", SECOND)
    with scenario.running(fresh_for=0.0) as site:
        scenario.pull(APP, "1", OTHER)
        scenario.pull(APP, "latest", SECOND)
        site.clock.advance(600)
        site.flush()
        site.clock.advance(600)
    names = [call.path for call in scenario.disk.calls]
    assert any("journal" in name for name in names), "it was never saved by a line"
    check_all(scenario, tmp_path)


def test_a_removal_and_a_collection(tmp_path: Path) -> None:
    """What stays is whole, also where it shares layers with what goes; blobs never go before what refers to them."""
    shared = images.index(FIRST.children[0], OTHER)
    upstream = offering((APP, "goes", FIRST), (APP, "stays", shared), ("library/other", "old", SECOND))
    goes, old = (HUB, APP, "goes"), (HUB, "library/other", "old")

    def prepare(scenario: Scenario) -> None:
        scenario.pull(APP, "goes", FIRST)
        scenario.pull("library/other", "old", SECOND)
        scenario.pull(APP, "stays", shared)

    scenario = Scenario(tmp_path / "disk", upstream, prepare)
    scenario.promises.whole = {(HUB, APP, digest) for digest in beneath(shared)}
    for name in (goes, old):
        scenario.promises.tags[name].add(None)
    scenario.clock.advance(7200)
    with scenario.running() as site:
        site.manifest(HUB, APP, "stays")
        site.remove(*goes)
        scenario.promises.tags[goes] = {None}
        site.services.settings = msgspec.structs.replace(
            site.services.settings, retention=RetentionSettings(keep_for=3600.0, grace=0.0, reserve=Share(octets=0))
        )
        assert [image.name for image in site.collect().images] == ["docker.io/library/other:old"]
        scenario.promises.tags[old] = {None}
        assert {path.name for path in site.blobs()} == {each.partition(":")[2] for each in beneath(shared)}
    check_all(scenario, tmp_path)


def test_a_pin(tmp_path: Path) -> None:
    """Said to be pinned and locked, it is; and nothing else is touched by it."""
    upstream = offering((APP, "1", OTHER))
    scenario = Scenario(tmp_path / "disk", upstream, lambda each: each.pull(APP, "1", OTHER))
    with scenario.running() as site:
        site.pin(HUB, APP, "1", lock=True)
        scenario.promises.pinned.add((HUB, APP, "1"))
    check_all(scenario, tmp_path)


def test_a_repair(tmp_path: Path, logged_errors: list[dict[str, Any]]) -> None:
    """A damaged layer and manifest are set aside and fetched again; whatever ends that, a scrub does the rest."""
    upstream = offering((APP, "1", OTHER), ("library/other", "1", FIRST))

    def prepare(scenario: Scenario) -> None:
        scenario.pull(APP, "1", OTHER)
        scenario.pull("library/other", "1", FIRST)

    scenario = Scenario(tmp_path / "disk", upstream, prepare)
    for digest in (OTHER.digest, OTHER.layers[0].digest):
        scenario.disk.damage(f"blobs/{digest.replace(':', '/')}", b"damaged")
    with scenario.running() as site:
        assert len(site.scrub()) == 2
        site.check()
    for number, ended in enumerate(scenario.endings):
        folder = lay_out(ended.tree, tmp_path / str(number))
        with Disk(folder).mounted():
            site = Site(folder, clock_at(), upstream)
            site.scrub()
            # What a power cut left of its bytes may be zeros: found out, and fetched anew the next time.
            site.services.repair.reconsider()
            site.end()
            offline = Site(folder, clock_at(), upstream, offline=True)
            offline.check()
            assert {*offline.pull(HUB, APP, "1")} == {Digest.parse(each) for each in beneath(OTHER)}, ended.call
            assert not offline.services.repair.lacking
            offline.end()
    expect_damage(logged_errors)


def beneath(content: Content) -> set[str]:
    """The digests of all that it needs."""
    return {blob.digest for part in content.walk() for blob in (part.manifest, *part.blobs)}
