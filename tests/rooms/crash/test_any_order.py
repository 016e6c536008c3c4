"""
Whatever happens, in whatever order: nothing that was promised is lost.

Pulls, moves of tags, imports, pins, removals, collections, damage and scrubs, time, upstreams that are gone, and kills
and power cuts in the middle of all that. A simple model says what must be held. A run is a seed and a number of steps;
when one fails its last steps are told, and the same seed does the same again.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from appliance.errors import PullcacheError, RemovalRefused, UpstreamUnavailable
from appliance.fields import Share
from appliance.index.repository import OPERATOR
from appliance.oci.digest import Digest
from appliance.settings import RetentionSettings
from tests.doubles import exports, images
from tests.doubles.disk import CUTS, Call, Disk, Tree, lay_out
from tests.doubles.images import Content
from tests.doubles.pullthrough import clock_at
from tests.doubles.upstream import ScriptedUpstream
from tests.rooms.crash.site import Site, expect_damage

RUNS = int(os.environ.get("PULLCACHE_RANDOM_RUNS", "10"))
STEPS = int(os.environ.get("PULLCACHE_RANDOM_STEPS", "210"))

DAY = 24 * 3600.0
HUB, GHCR = "docker.io", "ghcr.io"
PLACES = ((HUB, "library/one"), (HUB, "team/two"), (GHCR, "team/two"))
TAGS = ("1", "2", "latest")

Name = tuple[str, str, str]
"""Upstream, repository and tag."""
Image = tuple[str, str, str]
"""Upstream, repository and digest."""


def _contents() -> list[Content]:
    """Images that share layers, indexes that share images, and what refers to them."""
    tars = [images.random_tar(f"layer-{number}", 300 + 200 * number) for number in range(6)]
    plain = [
        images.assemble([tars[number % 6], tars[(number * 5 + 1) % 6]], "amd64", Cmd=[f"/{number}"])
        for number in range(8)
    ]
    indexes = [images.index(plain[0], plain[1]), images.index(plain[1], plain[2]), images.index(*plain[3:6])]
    nested = images.index(indexes[0], plain[6])
    return [*plain, *indexes, nested, images.artifact(plain[0]), images.artifact(indexes[1])]


CONTENTS = _contents()
SUBJECTS = {CONTENTS[-2].digest: CONTENTS[0].digest, CONTENTS[-1].digest: CONTENTS[9].digest}
"""What refers to another manifest, and to which."""

BY_DIGEST = {part.digest: part for content in CONTENTS for part in content.walk()}


def blobs_of(digest: str) -> set[str]:
    """Everything beneath a manifest, and itself."""
    return {blob.digest for part in BY_DIGEST[digest].walk() for blob in (part.manifest, *part.blobs)}


def along(digest: str) -> set[str]:
    """The manifests that come along with one: its children, and what refers to any of them."""
    found = {part.digest for part in BY_DIGEST[digest].walk()}
    return found | {referrer for referrer, subject in SUBJECTS.items() if subject in found}


def _parsed(name: str) -> Name:
    """Upstream, repository, and tag or digest of a full name."""
    place, _, reference = name.partition("@") if "@" in name else name.rpartition(":")
    upstream, _, repository = place.partition("/")
    return upstream, repository, reference


@dataclass
class Model:
    """
    What must be so.

    @ivar tags: what each tag means here.
    @ivar whole: images of which everything was brought, and that nothing has taken away since.
    @ivar used: when each reference was pulled last.
    @ivar pins: tags that stay, with what keeps them; C{locked}: those that do not move.
    """

    tags: dict[Name, str] = field(default_factory=dict)
    whole: set[Image] = field(default_factory=set)
    used: dict[Name, float] = field(default_factory=dict)
    pins: dict[Name, str] = field(default_factory=dict)
    locked: set[Name] = field(default_factory=set)


class World:
    """An appliance, its upstreams, and a driver that does one thing after the other."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.chance = random.Random(seed)
        self.folder = folder
        self.clock = clock_at()
        self.upstreams = {name: ScriptedUpstream(name) for name in (HUB, GHCR)}
        self.online = True
        self.model = Model()
        # Blobs that were damaged and are not held again; those that the last damage was done to.
        self.damaged: set[str] = set()
        self.touched: set[str] = set()
        self.ever: set[str] = set()
        self.lives = 0
        self.flushed: dict[Name, float] = {}
        self.trace: list[str] = []
        for place in PLACES:
            self._publish(place, "1", CONTENTS[0])
        self._start({})

    # -- the process ------------------------------------------------------------------------------------------------

    def _start(self, tree: Tree) -> None:
        """A process on what is left of the one before."""
        self.lives += 1
        self.disk = Disk(lay_out(tree, self.folder / str(self.lives)), self.clock.seconds)
        self._mounted = self.disk.mounted()
        self._mounted.__enter__()
        self.retention = RetentionSettings(
            keep_for=self.chance.choice((None, DAY, 7 * DAY)),
            keep_last=self.chance.choice((None, None, 2)),
            max_size=self.chance.choice((None, 6000, 12_000)),
            grace=self.chance.choice((0.0, 0.0, 3600.0)),
            reserve=Share(octets=0),
        )
        self.site = Site(self.disk.root, self.clock, *self.upstreams.values(), retention=self.retention)

    def _end(self) -> None:
        self.site.end()
        self._mounted.__exit__(None, None, None)

    def run(self, steps: int) -> None:
        """So many steps; told when one fails."""
        try:
            for number in range(steps):
                step = self._step()
                self.trace.append(f"{number}: {step}")
                if number % 5 == 0:
                    self.check()
            self.check()
        except Exception as error:
            raise AssertionError("\n".join([*self.trace[-25:], f"then: {type(error).__name__}: {error}"])) from error
        finally:
            self._end()

    def _step(self) -> str:
        does: Callable[[], str] = self.chance.choices(
            [
                *(self.pull, self.pull_by_digest, self.pull_manifest, self.move, self.import_, self.wait),
                *(self.go_offline, self.pin, self.unpin, self.damage, self.collect, self.remove),
            ],
            [8, 3, 2, 4, 2, 3, 1, 2, 2, 1, 3, 1],
        )[0]
        if self.chance.random() < 0.15:
            return self._crash(does)
        return does()

    def _crash(self, does: Callable[[], str]) -> str:
        """End at some call of what is being done, and start again."""
        calls, cut = self.chance.choice((3, 20, 60, 200)), self.chance.choice(CUTS)
        left: list[tuple[str, Tree]] = []
        at = len(self.disk.calls) + self.chance.randrange(1, calls)

        def look(call: Call) -> None:
            if call.number >= at and not left:
                left.append((f"{call.name} {call.path}", self.disk.left(cut, at)))

        before, damaged = deepcopy(self.model), set(self.damaged)
        self.touched.clear()
        self.disk.observe = look
        done = does()
        self.disk.observe = None
        # What was not flushed of the uses may be lost.
        self.model.used = dict(self.flushed)
        where, tree = left[0] if left else ("its end", self.disk.left(cut, at))
        self._end()
        self._start(tree)
        self.trace.append(f"   {cut} at {where}, in: {done}")
        self.damaged = damaged | self.touched
        if self.damaged:
            # Not all may have been found by then.
            self._scrub()
        if left:
            self._settle(before, together=does == self.import_)
        self.check()
        return f"{cut} at {where}, in: {done}"

    def _settle(self, before: Model, together: bool) -> None:
        """What was being done may be done or not; C{together}: all of it or nothing."""
        after, tags = self.model, self.site.tags()
        moved = {name for name in {**before.tags, **after.tags} if before.tags.get(name) != after.tags.get(name)}
        if together:
            now = {name: tags.get(name) for name in moved}
            assert now in [{name: each.tags.get(name) for name in moved} for each in (before, after)], "half published"
        for name in moved:
            assert tags.get(name) in (before.tags.get(name), after.tags.get(name)), f"{name} is {tags.get(name)}"
            if name in tags:
                after.tags[name] = tags[name]
            else:
                after.tags.pop(name, None)
        after.whole &= before.whole
        after.locked = {name for name in after.locked | before.locked if (tag := self.site.tag(*name)) and tag.locked}
        assert before.locked & self.model.locked <= after.locked
        pins = {name for name in {**before.pins, **after.pins} if before.pins.get(name) != after.pins.get(name)}
        for name in pins:
            record = self.site.tag(*name)
            pinned = None if record is None else record.pinned
            assert pinned in (before.pins.get(name), after.pins.get(name)), f"{name} is pinned by {pinned}"
            if pinned is None:
                after.pins.pop(name, None)
            else:
                after.pins[name] = pinned

    # -- what is done -----------------------------------------------------------------------------------------------

    def _place(self) -> tuple[str, str]:
        return self.chance.choice(PLACES)

    def _publish(self, place: tuple[str, str], tag: str, content: Content) -> None:
        """The upstream has it."""
        upstream, name = self.upstreams[place[0]], place[1]
        for part in content.walk():
            tags = (tag,) if part is content else ()
            upstream.add_manifest(name, part.manifest.data, part.manifest.media_type, *tags)
            for blob in part.blobs:
                upstream.add_blob(name, blob.data)

    def move(self) -> str:
        """A tag means something else upstream."""
        place, tag, content = self._place(), self.chance.choice(TAGS), self.chance.choice(CONTENTS)
        self._publish(place, tag, content)
        return f"{place}:{tag} is {content.digest[7:15]} upstream"

    def wait(self) -> str:
        """Time passes."""
        seconds = self.chance.choice((5, 120, 7200, 3 * 24 * 3600))
        self.clock.advance(seconds)
        self.site.flush()
        self.flushed = dict(self.model.used)
        return f"wait {seconds} s"

    def go_offline(self) -> str:
        """The upstreams are gone, or back."""
        self.online = not self.online
        for name, upstream in self.upstreams.items():
            upstream.heal()
            if not self.online:
                upstream.fail(UpstreamUnavailable(name, "unplugged"))
        return f"online: {self.online}"

    def pull(self) -> str:
        """A client pulls a tag."""
        place, tag = self._place(), self.chance.choice(TAGS)
        return self._pull(place, tag, whole=True)

    def pull_manifest(self) -> str:
        """A client asks for a manifest, and has all layers."""
        return self._pull(self._place(), self.chance.choice(TAGS), whole=False)

    def pull_by_digest(self) -> str:
        """A client pulls by digest."""
        place = self._place()
        digests = sorted(self.upstreams[place[0]].shelves[place[1]].manifests, key=str)
        return self._pull(place, self.chance.choice(digests), whole=True)

    def _pull(self, place: tuple[str, str], reference: str | Digest, whole: bool) -> str:
        upstream, name = place
        said = f"pull {upstream}/{name} {str(reference)[:15]}{'' if whole else ', its manifest'}"
        key = (upstream, name, str(reference))
        was = digest = self.model.tags.get(key)
        try:
            digest = str(Digest.of(self.site.manifest(upstream, name, reference)))
            if isinstance(reference, str):
                self.model.tags[key] = digest
                self.model.used[key] = self.clock.seconds()
                if key in self.model.locked:
                    assert digest == was, f"{key} is locked, and moved"
                if digest != was and self.model.pins.get(key) != OPERATOR:
                    # A bundle's pin goes with what it brought.
                    self.model.pins.pop(key, None)
                means = self.upstreams[upstream].shelves[name].tags.get(reference)
                assert digest in (was, str(means)), f"{key} is {digest}, not {was} or {means}"
            if whole:
                self.site.pull(upstream, name, Digest.parse(digest))
                self._have(upstream, name, digest)
        except PullcacheError as error:
            held = isinstance(reference, str) and digest is not None and (upstream, name, digest) in self.model.whole
            assert not held, f"{said}: it is held whole: {error}"
            assert not self.online or not isinstance(error, UpstreamUnavailable), f"{said}: {error}"
            return f"{said}: {type(error).__name__}"
        return f"{said}: {digest[7:15]}"

    def _have(self, upstream: str, name: str, digest: str) -> None:
        """All of it was brought."""
        self.model.whole |= {(upstream, name, part.digest) for part in BY_DIGEST[digest].walk()}

    def import_(self) -> str:
        """A bundle is imported."""
        sender = exports.Site()
        brought: dict[Name, Content] = {}
        for _ in range(self.chance.randint(1, 3)):
            content, place, tag = self.chance.choice(CONTENTS), self._place(), self.chance.choice(TAGS)
            sender.hold(content, place, tag)
            brought[(*place, tag)] = content
        path = self.folder / f"bundle-{len(self.trace)}.tar"
        path.write_bytes(sender.file(sender.export(all=True)))
        receipt = self.site.import_(path)
        path.unlink()
        for name, content in brought.items():
            self._have(name[0], name[1], content.digest)
            if name in self.model.locked:
                continue
            self.model.tags[name] = content.digest
            if self.model.pins.get(name) != OPERATOR:
                self.model.pins[name] = receipt.bundle
        return f"import {[(*name, content.digest[7:15]) for name, content in brought.items()]}"

    def pin(self) -> str:
        """An operator pins a tag, or locks it."""
        if not self.model.tags:
            return "nothing to pin"
        name, lock = self.chance.choice(sorted(self.model.tags)), self.chance.random() < 0.5
        self.site.pin(*name, lock=lock)
        self.model.pins[name] = OPERATOR
        if lock:
            self.model.locked.add(name)
        return f"{'lock' if lock else 'pin'} {name}"

    def unpin(self) -> str:
        """And lets it go again."""
        if not self.model.pins:
            return "nothing to unpin"
        name = self.chance.choice(sorted(self.model.pins))
        self.site.unpin(*name)
        del self.model.pins[name]
        self.model.locked.discard(name)
        return f"unpin {name}"

    def collect(self) -> str:
        """A collection, and a dry run before it that says the same."""
        self.clock.advance(1)
        planned = self.site.collect(dry_run=True)
        found = self.site.collect()
        said, done = ({repr(each) for each in (*run.images, *run.blobs)} for run in (planned, found))
        is_known = not self.site.services.repair.lacking
        # Of a manifest that is lacking a run may know more by what it remembers than by what it finds.
        assert said == done or not is_known, f"too much was said: {said - done}, or too little: {done - said}"
        assert found.freed == planned.before - found.after
        rules, now = self.retention, self.clock.seconds()
        for image in found.images:
            upstream, name, tag = _parsed(image.name)
            assert (upstream, name, tag) not in self.model.pins, f"{image} is pinned"
            if image.why == "keep_for":
                used = self.model.used.get((upstream, name, tag), 0)
                assert rules.keep_for is not None and now - used >= rules.keep_for, f"{image} was pulled at {used}"
        self._gone({_parsed(image.name)[:2] + (str(image.digest),) for image in found.images})
        self.site.is_counted = True
        total = sum(path.stat().st_size for path in self.site.blobs())
        assert total == found.after == self.site.store.total()
        if rules.grace == 0 and is_known:
            held = {f"{path.parent.name}:{path.name}" for path in self.site.blobs()}
            needed = self._needed()
            assert held <= needed, f"{held - needed} is held, and nothing refers to it"
            if rules.max_size is not None and total > rules.max_size:
                assert held <= self._kept(), f"{total} bytes are held; {held - self._kept()} is not pinned"
        return f"collect {[(image.name[-20:], image.why) for image in found.images]}, {len(found.blobs)} blobs"

    def remove(self) -> str:
        """An operator removes an image."""
        if not self.model.tags:
            return "nothing to remove"
        name = self.chance.choice(sorted(self.model.tags))
        digest = self.model.tags[name]
        try:
            self.site.remove(*name)
        except RemovalRefused as error:
            assert self.model.pins.get(name) == OPERATOR or "tag" in str(error) or "need" in str(error), str(error)
            return f"remove {name}: {error}"
        self._gone({(*name[:2], digest)})
        assert name not in self.model.tags
        return f"remove {name}"

    def _gone(self, images: set[Image]) -> None:
        """Only these have gone, with what comes along with them and nothing else needs."""
        tags = self.site.tags()
        for name in [*self.model.tags]:
            if name not in tags:
                meant = self.model.tags.pop(name)
                assert (*name[:2], meant) in images, f"{name} is gone"
                self.model.pins.pop(name, None)
                self.model.locked.discard(name)
        left = {(*name[:2], part) for name, digest in tags.items() for part in along(digest)}
        along_with = {(*image[:2], part) for image in images for part in along(image[2])}
        for image in [*self.model.whole]:
            if not self.site.holds(*image):
                assert image in along_with, f"{image} is gone, and is part of no image that was collected"
                assert image not in left, f"{image} is gone, and a tag needs it"
                self.model.whole.discard(image)

    def _needed(self) -> set[str]:
        """Every blob that something held refers to."""
        needed = set()
        for upstream, name in PLACES:
            for digest in self.site.manifests(upstream, name):
                needed |= blobs_of(digest)
        return needed

    def _kept(self) -> set[str]:
        """Every blob of an image of which something is pinned."""
        kept = set()
        for place in PLACES:
            pinned = self.site.pinned(*place) | {self.model.tags[name] for name in self.model.pins if name[:2] == place}
            for digest in self.site.manifests(*place):
                if along(digest) & pinned:
                    kept |= along(digest)
        return {blob for digest in kept for blob in blobs_of(digest)}

    def damage(self) -> str:
        """The disk damages some blobs, and a scrub looks at all of them."""
        held = self.site.blobs()
        if not held:
            return "nothing to damage"
        self.touched.clear()
        for path in self.chance.sample(held, min(2, len(held))):
            data = path.read_bytes()
            cut = self.chance.randrange(len(data))
            wrong = data[:cut] if self.chance.random() < 0.5 else data[:cut] + bytes([data[cut] ^ 1]) + data[cut + 1 :]
            self.disk.damage(str(path.relative_to(self.disk.root)), wrong)
            self.touched.add(f"sha256:{path.name}")
        self.damaged |= self.touched
        self.ever |= self.touched
        self.site.is_counted = False
        return f"damage {[each[7:15] for each in sorted(self.touched)]}, scrub: {self._scrub()}"

    def _scrub(self) -> str:
        self.site.scrub()
        # What could not be fetched again is promised by no image until it is brought once more.
        lacking = {str(digest) for digest in self.site.services.repair.lacking}
        assert lacking <= self.ever, f"{lacking - self.ever} was not damaged"
        self.damaged -= {digest for digest in self.damaged if self.site.store.size(Digest.parse(digest)) is not None}
        # An image may be its repository's to serve by what a manifest says that a bundle brought.
        gone = lacking.union(*(blobs_of(digest) for digest in lacking if digest in BY_DIGEST))
        self.model.whole = {each for each in self.model.whole if not gone & blobs_of(each[2])}
        return f"{len(lacking)} lacking"

    # -- what must be so --------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Everything that the model says, and nothing dangling."""
        self.site.check()
        assert self.site.tags() == self.model.tags
        for upstream, name, digest in sorted(self.model.whole):
            calls = self.upstreams[upstream].calls
            asked = len(calls)
            self.site.pull(upstream, name, Digest.parse(digest))
            assert not calls[asked:], f"{upstream}/{name}@{digest} is held whole, and was asked for: {calls[asked:]}"
        for key, by in self.model.pins.items():
            record = self.site.tag(*key)
            assert record is not None and record.pinned == by, f"{key}: pinned by {record and record.pinned}, not {by}"


@pytest.mark.parametrize("seed", range(RUNS))
def test_whatever_happens_nothing_that_is_referenced_is_lost(
    seed: int, tmp_path: Path, logged_errors: list[dict[str, Any]]
) -> None:
    """Never a dangling tag, never a damaged blob, never one lost that something references."""
    World(seed, tmp_path).run(STEPS)
    expect_damage(logged_errors)
