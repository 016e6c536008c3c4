"""Journals: what was saved is read again, whatever the last line came to and whatever was done in between."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.index.journal import line, records
from appliance.index.repository import OPERATOR, Repository
from appliance.oci.digest import Digest
from tests.rooms.index.slow import MANIFEST

DIGESTS = [Digest.of(bytes([number])) for number in range(4)]
TAGS = ["1", "2", "latest"]
TEXTS = st.binary(max_size=20).filter(lambda data: b"\n" not in data)

digests, tags = st.sampled_from(DIGESTS), st.sampled_from(TAGS)
changes = st.one_of(
    st.tuples(st.just("hold"), digests, st.sampled_from([MANIFEST, "text/x"]), st.integers(1, 3), st.booleans()),
    st.tuples(st.just("tag"), tags, digests, st.integers(1, 9).map(float), st.none() | st.just("bundle")),
    st.tuples(st.just("link"), digests, st.integers(1, 3)),
    st.tuples(st.just("pin"), tags | digests, st.sampled_from([OPERATOR, "bundle"])),
    st.tuples(st.just("unlink"), digests),
    st.tuples(st.just("untag"), tags),
    st.tuples(st.just("drop"), digests),
    st.tuples(st.just("unpin"), tags | digests),
    st.tuples(st.just("lock"), tags),
)


def change(repository: Repository, name: str, *args: Any) -> None:
    """Make one change, where a caller may make it."""
    what = args[0]
    if name in ("pin", "unpin", "lock") and what not in repository.tags and what not in repository.manifests:
        return
    if name == "tag" and args[1] not in repository.manifests:
        return
    if name == "drop" and any(tag.digest == what for tag in repository.tags.values()):
        return
    getattr(repository, name)(*args)


def state(repository: Repository) -> list[dict[Any, Any]]:
    return [dict(each) for each in (repository.tags, repository.manifests, repository.blobs, repository.pinned)]


def read(document: bytes, journal: bytes) -> tuple[Repository, int]:
    """As a start reads it; with how many damaged lines."""
    repository = Repository.decode("docker.io", "app", document)
    return repository, repository.replay(journal)


saves = st.lists(st.lists(changes, max_size=6), min_size=1, max_size=6)


@given(st.lists(changes, max_size=12), saves, st.data())
@settings(deadline=None)
def test_a_document_and_its_journal_say_what_was_saved(first: Any, each_save: Any, data: st.DataObject) -> None:
    """After any changes and any saves; with the last line torn anywhere, what was saved before it."""
    repository = Repository("docker.io", "app")
    for each in first:
        change(repository, *each)
    document, journal = repository.encode(7), b""
    repository.take_changed()
    before, beginning = state(repository), 0
    for made in each_save:
        before, beginning = state(repository), len(journal)
        for each in made:
            change(repository, *each)
        journal += line(repository.encode_changes(repository.take_changed()))
    whole, damaged = read(document, journal)
    assert (state(whole), damaged, whole.journal) == (state(repository), 0, 7)
    assert state(Repository.decode("docker.io", "app", whole.encode())) == state(repository)
    assert not whole.take_changed()
    assert whole.replay(journal) == 0 and state(whole) == state(repository), "twice is as good as once"
    cut = data.draw(st.integers(beginning, len(journal) - 1))
    torn, damaged = read(document, journal[:cut])
    assert (state(torn), damaged) == (before, 0)


@given(saves, st.data())
@settings(deadline=None)
def test_a_copy_that_was_made_between_saves_goes_on_with_the_lines_after_it(
    each_save: Any, data: st.DataObject
) -> None:
    """Also one that holds changes that were saved later: that is how a document is written while saves go on."""
    repository = Repository("docker.io", "app")
    copied_at = data.draw(st.integers(0, len(each_save) - 1))
    document, journal = b"", b""
    for number, made in enumerate(each_save):
        half = data.draw(st.integers(0, len(made)))
        for each in made[:half]:
            change(repository, *each)
        if number == copied_at:
            document, journal = repository.copy().encode(1), b""
        for each in made[half:]:
            change(repository, *each)
        journal += line(repository.encode_changes(repository.take_changed()))
    assert state(read(document, journal)[0]) == state(repository)


@given(st.lists(TEXTS, min_size=1), st.data())
def test_lines_cut_anywhere_are_those_before_the_cut(texts: list[bytes], data: st.DataObject) -> None:
    """A torn last line is no damage: no caller was told that it is kept."""
    written = b"".join(map(line, texts))
    ends = [sum(len(line(text)) for text in texts[:count]) for count in range(len(texts) + 1)]
    cut = data.draw(st.integers(0, len(written)))
    assert records(written[:cut]) == (texts[: sum(end <= cut for end in ends) - 1], 0)


@given(st.lists(TEXTS, min_size=1), st.data())
def test_a_flipped_byte_costs_its_line_and_is_told(texts: list[bytes], data: st.DataObject) -> None:
    """Also where it makes two lines of one, or one of two; but for the end of the last."""
    written = bytearray(b"".join(map(line, texts)))
    at = data.draw(st.integers(0, len(written) - 2))
    written[at] ^= data.draw(st.integers(1, 255))
    whole, damaged = records(bytes(written))
    assert damaged in (1, 2)
    assert len(texts) - 2 <= len(whole) <= len(texts) - 1
    assert all(text in texts for text in whole)


def test_a_line_says_what_has_become_of_what_changed_and_nothing_else() -> None:
    """However much the repository holds."""
    repository = Repository("docker.io", "app")
    for number in range(1000):
        digest = Digest.of(b"%d" % number)
        repository.hold(digest, MANIFEST, 7)
        repository.tag(f"v{number}", digest, 1.0)
    repository.take_changed()
    repository.tag("v7", Digest.of(b"1"), 2.0)
    repository.untag("v8")
    repository.drop(Digest.of(b"8"))
    repository.link(DIGESTS[0], 5)
    document = json.loads(repository.encode_changes(repository.take_changed()))
    assert [each["digest"] for each in document["manifests"]] == [str(Digest.of(b"1"))]
    assert document["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"] == "v7"
    assert (document["untagged"], document["dropped"]) == (["v8"], [str(Digest.of(b"8"))])
    assert document["blobs"] == {str(DIGESTS[0]): 5}


def test_a_tag_whose_manifest_went_in_a_lost_line_is_not_there() -> None:
    """Else the repository could not be written again."""
    repository = Repository("docker.io", "app")
    repository.hold(DIGESTS[0], MANIFEST, 7)
    repository.tag("1", DIGESTS[0], 1.0)
    document = repository.encode(1)
    repository.take_changed()
    repository.untag("1")
    lost = line(repository.encode_changes(repository.take_changed()))
    repository.drop(DIGESTS[0])
    dropped = line(repository.encode_changes(repository.take_changed()))
    found, damaged = read(document, lost.replace(b"1", b"2") + dropped)
    assert (state(found), damaged) == (state(repository), 1)
    found.encode()


@given(st.binary(max_size=60) | st.dictionaries(st.sampled_from(["manifests", "blobs"]), st.integers()).map(json.dumps))
def test_foreign_lines_are_damage(text: bytes | str) -> None:
    """With a right checksum too: one count of damage, or a repository that can be written again."""
    repository = Repository("docker.io", "app")
    record = text.encode() if isinstance(text, str) else text.replace(b"\n", b"")
    assert repository.replay(line(record)) in (0, 1)
    repository.encode()
