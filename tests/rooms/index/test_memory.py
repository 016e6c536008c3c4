"""What the index keeps in memory: so many bytes, one object a repository, and nothing of names that are nowhere."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from typing import Any
from weakref import ref

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from appliance.index.lists import TagList, TagLists
from appliance.index.memory import MemoryDocuments
from appliance.index.repositories import Repositories
from appliance.index.repository import Repository
from tests.doubles.deferreds import begin, result
from tests.rooms.index.slow import hold

UP = "up.test"


class CountedDocuments(MemoryDocuments):
    """Documents that count how often each is read, and whose writes may wait or fail."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[tuple[str, ...]] = []
        self.waiting: list[tuple[Deferred[int], tuple[str, ...], bytes, int]] = []
        self.slow = False

    def read(self, key: tuple[str, ...]) -> Deferred[tuple[bytes, int] | None]:
        self.reads.append(key)
        return super().read(key)

    def write(self, key: tuple[str, ...], data: bytes, replaces: int) -> Deferred[int]:
        if not self.slow:
            return super().write(key, data, replaces)
        gate: Deferred[int] = Deferred()
        self.waiting.append((gate, key, data, replaces))
        return gate

    def end_write(self, fails: bool = False) -> None:
        """Let the write that waits longest happen, or fail."""
        if self.waiting:
            gate, key, data, replaces = self.waiting.pop(0)
            if fails:
                gate.errback(OSError(28, "no room"))
            else:
                super().write(key, data, replaces).chainDeferred(gate)


def filled(documents: MemoryDocuments, number: int, tags: int = 10) -> None:
    """Documents of so many repositories with so many tags each."""
    repositories = Repositories(documents)
    for name in range(number):
        repository = result(repositories.get(UP, f"team/{name}"))
        for tag in range(tags):
            hold(repository, f"t{tag}")
        result(repositories.save(repository))


def growth(work: Callable[[], Any]) -> int:
    """Bytes that are in memory after C{work()} and were not before."""
    work()
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        work()
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


def test_names_that_are_nowhere_are_not_kept() -> None:
    """Requests for a thousand repositories that do not exist do not make the process larger."""
    repositories, lists = Repositories(MemoryDocuments()), TagLists(MemoryDocuments())

    def ask() -> None:
        for number in range(1000):
            assert not result(repositories.get(UP, f"made/up-{number}")).tags
            assert result(lists.get(UP, f"made/up-{number}")) is None

    assert growth(ask) < 20_000


def test_what_stays_in_memory_is_bounded_in_bytes() -> None:
    """A hundred repositories are asked for, ten have room; what they take is what was counted."""
    documents = CountedDocuments()
    filled(documents, 100)
    budget = 10 * result(Repositories(documents).get(UP, "team/0")).weight
    repositories = Repositories(documents, budget)
    assert growth(lambda: [result(repositories.get(UP, f"team/{name}")) for name in range(100)]) < 2 * budget
    documents.reads.clear()
    for name in range(99, 89, -1):
        result(repositories.get(UP, f"team/{name}"))
    assert not documents.reads, "those used last are not read again"
    result(repositories.get(UP, "team/0"))
    result(repositories.get(UP, "team/98"))
    result(repositories.get(UP, "team/90"))
    result(repositories.get(UP, "team/99"))
    assert [key[2] for key in documents.reads] == ["0", "99"], "the longest unused made room"


def test_one_that_is_larger_than_all_may_be_stays_while_it_is_used() -> None:
    """Its document is not read for each request."""
    documents = CountedDocuments()
    filled(documents, 2, tags=50)
    repositories = Repositories(documents, 1000)
    documents.reads.clear()
    for _ in range(5):
        assert len(result(repositories.get(UP, "team/0")).tags) == 50
    assert len(documents.reads) == 1


def test_who_looks_at_everything_drives_nothing_out() -> None:
    """A list of all images leaves in memory what the pulls of today need, and nothing else."""
    documents = CountedDocuments()
    filled(documents, 50)
    repositories = Repositories(documents, 5 * result(Repositories(documents).get(UP, "team/0")).weight)
    for name in range(5):
        result(repositories.get(UP, f"team/{name}"))

    def look() -> None:
        for upstream, name in result(repositories.names()):
            assert len(result(repositories.read(upstream, name)).tags) == 10

    assert growth(look) < 20_000
    documents.reads.clear()
    for name in range(5):
        result(repositories.get(UP, f"team/{name}"))
    assert not documents.reads


def test_what_is_counted_once_is_not_read_for_counting_again() -> None:
    """The operator's status costs the same the tenth time, whatever has left the memory; it follows what is saved."""
    documents = CountedDocuments()
    filled(documents, 20, tags=3)
    repositories = Repositories(documents, 0)
    names = result(repositories.names())
    assert [result(repositories.counts(*name)) for name in names] == [(3, 3)] * 20
    repository = result(repositories.get(UP, "team/7"))
    hold(repository, "new")
    result(repositories.save(repository))
    documents.reads.clear()
    assert sorted(result(repositories.counts(*name)) for name in names) == [(3, 3)] * 19 + [(4, 4)]
    assert not documents.reads


def test_the_names_are_looked_for_once() -> None:
    """Page after page of a list does not walk through the whole store again; what is saved meanwhile is in it."""
    documents = CountedDocuments()
    filled(documents, 3)
    repositories = Repositories(documents)
    assert result(repositories.names()) == [(UP, f"team/{name}") for name in range(3)]
    walks: list[Any] = []
    documents.list = lambda *_: walks.append(_)  # type: ignore[method-assign, assign, return-value]
    repository = result(repositories.get(UP, "team/new"))
    result(repositories.get(UP, "made/up"))
    assert len(result(repositories.names())) == 3
    hold(repository, "1")
    result(repositories.save(repository))
    assert result(repositories.names())[-1] == (UP, "team/new") and walks == []


def test_what_is_not_written_yet_stays_in_memory_and_is_the_same_object(logged_errors: list[dict[str, Any]]) -> None:
    """No caller has it any more, there is no room for it: the next one gets this same object, until it is on disk."""
    documents = CountedDocuments()
    filled(documents, 2)
    repositories = Repositories(documents, 1)
    documents.slow = True

    def is_in_memory(repository: ref[Repository]) -> bool:
        """There is room for one; the other takes it."""
        result(repositories.get(UP, "team/1"))
        gc.collect()
        return repository() is not None

    def changed(tag: str) -> ref[Repository]:
        repository = result(repositories.get(UP, "team/0"))
        hold(repository, tag)
        repositories.touch(repository)
        return ref(repository)

    clean = ref(result(repositories.get(UP, "team/0")))
    assert not is_in_memory(clean), "it is not used"
    touched = changed("one")
    assert is_in_memory(touched)
    flushing = repositories.flush()
    assert is_in_memory(touched), "while it is written"
    documents.end_write()
    assert flushing.called and not is_in_memory(touched)
    touched = changed("two")
    repositories.flush()
    documents.end_write(fails=True)
    logged_errors.clear()
    assert is_in_memory(touched), "the disk was full"
    repositories.flush()
    documents.end_write()
    assert {"one", "two"} <= set(result(Repositories(documents).get(UP, "team/0")).tags)


STEPS = st.lists(
    st.tuples(st.sampled_from(["get", "look", "drop", "tag", "touch", "write", "fail", "flush"]), st.integers(0, 2)),
    max_size=40,
)


@given(STEPS)
def test_two_writers_never_work_on_two_copies(steps: list[tuple[str, int]]) -> None:
    """Whatever is used, dropped, pushed out, saved or refused by the disk: one object, and no tag is lost."""
    documents = CountedDocuments()
    repositories = Repositories(documents, 2000)
    documents.slow = True
    used: dict[int, list[Repository]] = {0: [], 1: [], 2: []}
    tagged: dict[int, set[str]] = {0: set(), 1: set(), 2: set()}
    for number, (step, name) in enumerate(steps):
        if step in ("get", "look"):
            ask = repositories.get if step == "get" else repositories.read
            used[name].append(result(ask(UP, f"team/{name}")))
        elif step == "drop":
            used[name].clear()
        elif step in ("tag", "touch") and used[name]:
            tagged[name].add(f"t{number}")
            hold(used[name][-1], f"t{number}")
            if step == "tag":
                repositories.save(used[name][-1]).addErrback(lambda failure: failure.trap(OSError))
            else:
                repositories.touch(used[name][-1])
        elif step in ("write", "fail"):
            documents.end_write(step == "fail")
        elif step == "flush":
            _quietly(repositories)
        assert all(len({id(each) for each in having}) <= 1 for having in used.values())
    used.clear()
    documents.slow = False
    while documents.waiting:
        documents.end_write()
    _quietly(repositories)
    fresh = Repositories(documents)
    for name, tags in tagged.items():
        assert set(result(fresh.get(UP, f"team/{name}")).tags) == tags


def _quietly(repositories: Repositories) -> None:
    """Flush; a failure is not logged, which this is not about."""
    repositories._not_saved = lambda failure, repository: failure.trap(OSError) and None  # type: ignore
    repositories.flush()


# -- lists of tags ----------------------------------------------------------------------------------------------------


def test_lists_of_tags_in_memory_are_bounded_in_bytes() -> None:
    """What has no room is read again, and can be replaced."""
    documents = CountedDocuments()
    lists = TagLists(documents, 3000)
    for name in ("a", "b", "c"):
        result(lists.save(UP, name, TagList([f"{number:04}" for number in range(15)], 1.0)))
    documents.reads.clear()
    for name in ("c", "b"):
        result(lists.get(UP, name))
    assert not documents.reads
    result(lists.get(UP, "a"))
    assert len(documents.reads) == 1
    result(lists.save(UP, "c", TagList(["new"], 2.0)))
    assert result(TagLists(documents).get(UP, "c")) == TagList(["new"], 2.0)


def test_an_empty_list_of_what_is_not_held_takes_no_file() -> None:
    """Some upstreams have one for every name; it is known until the restart, and replaced when there is more."""
    documents = CountedDocuments()
    lists = TagLists(documents)
    result(lists.save(UP, "made/up", TagList([], 1.0), keep=False))
    assert result(lists.get(UP, "made/up")) == TagList([], 1.0)
    assert result(documents.list((), "_tags.json")) == []
    result(lists.save(UP, "made/up", TagList(["1"], 2.0)))
    result(lists.save(UP, "made/up", TagList([], 3.0), keep=False))
    assert result(TagLists(documents).get(UP, "made/up")) == TagList([], 3.0)


def test_a_list_read_while_it_is_replaced_is_not_in_the_way_of_the_next() -> None:
    """The one that was too late says so, and what is on disk counts from then on."""
    documents = CountedDocuments()
    result(TagLists(documents).save(UP, "a", TagList(["1"], 1.0)))
    lists = TagLists(documents)
    result(lists.get(UP, "a"))
    result(TagLists(documents).save(UP, "a", TagList(["2"], 2.0)))
    assert begin(lists.save(UP, "a", TagList(["3"], 3.0))).addErrback(lambda _: None).called
    result(lists.save(UP, "a", TagList(["4"], 4.0)))
    assert result(TagLists(documents).get(UP, "a")) == TagList(["4"], 4.0)


def test_a_document_that_is_not_sorted_is_listed_in_order() -> None:
    """Also one written by hand: pages are cut from a sorted list."""
    documents = MemoryDocuments()
    result(documents.write((UP, "a", "_tags.json"), b'{"tags":["b","a","b"],"checked_at":1.0}', 0))
    assert result(TagLists(documents).get(UP, "a")) == TagList(["a", "b"], 1.0)
