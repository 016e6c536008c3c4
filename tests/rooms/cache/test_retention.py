"""Which images go, in any store: the planner, with its numbers and counts, against sets and a loop."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from hypothesis import given
from hypothesis import strategies as st

from appliance.cache.references import KEPT, TAG, BlobTable, RepositoryRoots
from appliance.cache.retention import Limits, Rules, plan
from appliance.interfaces import Stored
from appliance.oci.digest import Digest, number_of

NOW = 1000.0
BLOBS = {Digest.of(bytes([number])): size for number, size in enumerate((1, 2, 4, 8, 16, 32, 64, 128))}
NUMBERS = {number_of(digest): size for digest, size in BLOBS.items()}
ALL = sorted(NUMBERS)
UPSTREAMS = ("docker.io", "quay.io")


@dataclass(frozen=True)
class Drawn:
    """One root: its last pull, what it refers to, its own manifest first."""

    last: float
    tag: bool
    kept: bool
    blobs: tuple[int, ...]


roots = st.builds(
    Drawn,
    st.integers(0, 5).map(lambda each: NOW - 10.0 * each),
    st.booleans(),
    st.sampled_from([False, False, False, True]),
    st.lists(st.sampled_from(ALL), min_size=1, max_size=4, unique=True).map(tuple),
)
repositories = st.lists(st.tuples(st.sampled_from(UPSTREAMS), st.lists(roots, max_size=5)), max_size=4)
durations = st.sampled_from([inf, 5.0, 15.0, 25.0])
lasts = st.sampled_from([inf, 1, 2])
sizes = st.sampled_from([inf, 1, 50, 120])
numbers = st.frozensets(st.sampled_from(ALL), max_size=2)


def expected(
    drawn: list[tuple[str, list[Drawn]]], limits: Limits, spare: int
) -> tuple[list[tuple[int, int, str]], set[int]]:
    """What goes, in its order, and the blobs that nothing refers to then."""
    there = {(at, root): each for at, (_, found) in enumerate(drawn) for root, each in enumerate(found)}
    went: list[tuple[int, int, str]] = []

    def referred(places: set[int]) -> set[int]:
        gone = {(at, root) for at, root, _ in went}
        return {blob for key, each in there.items() if key not in gone and key[0] in places for blob in each.blobs}

    everywhere = set(range(len(drawn)))
    before = referred(everywhere)

    def freed(counting_leased: bool) -> int:
        dead = before - referred(everywhere) - limits.young
        return sum(NUMBERS[each] for each in dead if counting_leased or each not in limits.leased)

    for at, (upstream, found) in enumerate(drawn):
        rules = limits.rules[upstream]
        tags = sorted((root for root, each in enumerate(found) if each.tag), key=lambda r, f=found: (-f[r].last, r))
        latest = tags if rules.keep_last == inf else tags[: int(rules.keep_last)]
        for root, each in enumerate(found):
            if each.kept or each.blobs[0] in limits.leased or rules.keep_for == rules.keep_last == inf:
                continue
            by_age = rules.keep_for != inf and NOW - each.last <= rules.keep_for
            by_rank = rules.keep_last != inf and root in latest
            untouched = rules.keep_for == inf and not each.tag
            if not (by_age or by_rank or untouched):
                went.append((at, root, "keep_for" if rules.keep_for != inf else "keep_last"))

    def reduce(places: set[int], why: str, is_enough: object) -> None:
        assert callable(is_enough)
        order = sorted((each.last, at, root) for (at, root), each in there.items() if at in places)
        for _, at, root in order:
            each = there[at, root]
            if is_enough():
                return
            is_gone = (at, root) in {key[:2] for key in went}
            if not (is_gone or each.kept or each.blobs[0] in limits.leased or limits.young & set(each.blobs)):
                went.append((at, root, why))

    for upstream, rules in limits.rules.items():
        places = {at for at, (name, _) in enumerate(drawn) if name == upstream}
        reduce(places, "max_size", lambda p=places, m=rules.max_size: sum(NUMBERS[b] for b in referred(p)) <= m)
    reduce(everywhere, "max_size", lambda: limits.held - freed(True) <= limits.max_size)
    reduce(everywhere, "reserve", lambda: freed(False) >= limits.lacking)
    return went, before - referred(everywhere)


@given(
    repositories,
    st.dictionaries(st.sampled_from(UPSTREAMS), st.builds(Rules, durations, lasts, sizes)),
    sizes,
    st.sampled_from([0, 1, 100]),
    numbers,
    numbers,
)
def test_what_goes_is_what_a_simple_loop_says(
    drawn: list[tuple[str, list[Drawn]]],
    given_rules: dict[str, Rules],
    max_size: float,
    lacking: int,
    young: frozenset[int],
    leased: frozenset[int],
) -> None:
    """Shared blobs, ties, pins, several budgets, blobs in use: the same images, in the same order, for the same why."""
    rules = {upstream: given_rules.get(upstream, Rules()) for upstream in UPSTREAMS}
    found, table = [], BlobTable()
    for upstream, inside in drawn:
        repository = RepositoryRoots(upstream, "r")
        for each in inside:
            repository.add(each.last, (TAG if each.tag else 0) | (KEPT if each.kept else 0), each.blobs)
        found.append(repository)
        table.refer(repository.blobs)
    for _ in table.settle():
        pass
    held = sum(size for digest, size in BLOBS.items() if table.found(Stored(digest, size, 0.0)))
    limits = Limits(rules, max_size, held, lacking, young, leased)
    planned = plan(found, table, limits, NOW)
    went, dead = expected(drawn, limits, 0)
    assert [(each.repository, each.root, each.why) for each in planned.removals] == went
    assert {blob for each in planned.removals for blob in each.blobs} == dead
    assert sum(each.freed for each in planned.removals) == sum(NUMBERS[each] for each in dead - young - leased)
    assert {number for number in ALL if table.count(number)} == {b for r in found for b in r.blobs} - dead
    if held - sum(NUMBERS[each] for each in dead - young) > max_size:
        assert any("max_size" in note for note in planned.notes)
