"""The hot lane gives what the routes give, and only to requests that cannot mean anything else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from appliance.errors import UpstreamUnavailable
from appliance.oci.digest import Digest
from appliance.oci.mediatypes import OCI_MANIFEST
from appliance.registry import hotlane
from appliance.registry.login import Peer
from appliance.settings import ListenSettings
from appliance.store.memory import MemoryBlobStore
from appliance.upstream.interfaces import Availability
from tests.doubles.deferreds import result
from tests.doubles.manifests import CONFIG, image
from tests.wire.line import IMAGE, LARGE, LAYER, Line, Shop, blob, manifest, parse, request

HOT = [
    ("GET", manifest()),
    ("HEAD", manifest()),
    ("GET", manifest(Digest.of(IMAGE))),
    ("HEAD", manifest(Digest.of(IMAGE))),
    ("GET", blob(LAYER)),
    ("HEAD", blob(LAYER)),
    ("GET", blob(b"")),
    ("GET", "/v2/docker.io/app/manifests/v1"),
    ("GET", "/v2/team/app/manifests/latest?ns=ghcr.io"),
    ("HEAD", "/v2/team/app/manifests/latest?ns=ghcr.io"),
]


class Counter:
    """Counts what the hot lane answers."""

    def __init__(self, shop: Shop) -> None:
        self.served = 0
        self._lane = shop.listener._lane
        self._serve = self._lane.serve
        self._lane.serve = self._counted  # type: ignore[method-assign]

    def _counted(self, transport: object, data: bytes, peer: Peer) -> int:
        octets = self._serve(transport, data, peer)
        self.served += data[:octets].count(b"\r\n\r\n")
        return octets


def held(**more: object) -> Shop:
    """Everything is held, and nothing prepared."""
    shop = Shop(**more)  # type: ignore[arg-type]
    for path in (
        manifest(),
        manifest("v1"),
        "/v2/team/app/manifests/latest?ns=ghcr.io",
        blob(LAYER),
        blob(LARGE),
        blob(CONFIG),
        blob(b""),
    ):
        shop.get(path)
    shop.listener.configure(shop.settings, shop.listen)
    shop.accounts.told.clear()
    return shop


@pytest.mark.parametrize(("method", "path"), HOT)
def test_both_ways_give_the_same_bytes_and_the_same_account(method: str, path: str) -> None:
    """Byte for byte but the moment, with every header in its place, and one like line in log and counters."""
    shop = held()
    counter = Counter(shop)
    routed, hot = shop.ask(method, path), shop.ask(method, path)
    assert counter.served == 1
    assert hot.undated == routed.undated
    assert hot["Cache-Status"] == "pullcache; hit"
    first, second = shop.accounts.told
    assert first == second


def test_its_date_is_that_of_now() -> None:
    """In the form of RFC 9110, and moving."""
    shop = held()
    shop.get(blob(LAYER))
    assert shop.get(blob(LAYER))["Date"] == "Fri, 15 Jan 2027 08:00:00 GMT"
    shop.clock.advance(3600.0)
    assert shop.get(blob(LAYER))["Date"] == "Fri, 15 Jan 2027 09:00:00 GMT"


ODD = [
    [("Range", "bytes=0-1")],
    [("If-None-Match", '"x"')],
    [("If-Range", '"x"')],
    [("if-modified-since", "x")],
    [("Connection", "close")],
    [("Connection", "keep-alive")],
    [("Expect", "100-continue")],
    [("Content-Length", "0")],
    [("Authorization", "Basic eDp5"), ("Authorization", "Basic eDp5")],
    [("X-Forwarded-For", "192.0.2.1"), ("X-Forwarded-For", "192.0.2.1")],
    [("Cookie", "a=b")],
    [("Upgrade", "h2c")],
    [("RANGE", "bytes=0-1")],
    [(f"X-{n}", "a") for n in range(80)],
]


@pytest.mark.parametrize("fields", ODD, ids=lambda fields: fields[0][0])
def test_a_header_that_could_change_the_answer_takes_the_route(fields: list[tuple[str, str]]) -> None:
    """And gets what the route gives, whatever was prepared."""
    shop = held()
    plain = shop.get(blob(LAYER))
    counter = Counter(shop)
    line = Line(shop.listener).send(request("GET", blob(LAYER), fields))
    answer, _ = parse(line.received().removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n"), "GET")
    assert counter.served == 0
    assert answer.status == (206 if fields[0][0].lower() == "range" else 200)
    assert plain.status == 200


@pytest.mark.parametrize(
    "data",
    [
        request("GET", blob(LAYER), version="HTTP/1.0"),
        request("GET", blob(LAYER)).replace(b"\r\n", b"\n"),
        request("GET", blob(LAYER)).replace(b"Host: ", b"Host : "),
        request("GET", blob(LAYER)).replace(b"Host: ", b" folded\r\nHost: "),
        request("GET", blob(LAYER))[:-2] + b"X: a\r\n b\r\n\r\n",
        request("GET", blob(LAYER))[:-2] + b"X: \x00\r\n\r\n",
        request("GET", "/v2/") + request("GET", blob(LAYER)),
        request("POST", blob(LAYER)),
    ],
    ids=range(8),
)
def test_anything_but_a_plain_request_takes_the_route(data: bytes) -> None:
    """Other versions, line ends, odd or folded lines, and what comes behind a request that is not plain."""
    shop = held()
    shop.get(blob(LAYER))
    counter = Counter(shop)
    Line(shop.listener).send(data)
    assert counter.served == 0


@pytest.mark.parametrize("tail", [b"", b"GET /v2/ HT", request("GET", "/v2/") + request("GET", blob(LAYER))])
def test_requests_that_come_together_are_answered_together(tail: bytes) -> None:
    """In one write, in their order; what is not prepared, or not whole yet, takes the route behind them."""
    shop = held()
    for method, path in HOT[:5]:
        shop.ask(method, path)
    shop.accounts.told.clear()
    counter, writes = Counter(shop), []
    line = Line(shop.listener)
    write = line.transport.write
    line.transport.write = lambda data: (writes.append(data), write(data))  # type: ignore[method-assign,func-returns-value,assignment]
    line.send(b"".join(request(method, path) for method, path in HOT[:5]) + tail)
    assert counter.served == 5 and len(shop.accounts.told) >= 5
    if tail == b"GET /v2/ HT":
        line.send(b"TP/1.1\r\nHost: cache.test\r\n\r\n")
    more = ["GET"] * (tail.count(b"GET"))
    answers = line.answers(*(method for method, _ in HOT[:5]), *more)
    assert [answer.body for answer in answers[:5]] == [IMAGE, b"", IMAGE, b"", LAYER]
    assert writes[0] == b"".join(answer.raw for answer in answers[:5])
    assert [answer.status for answer in answers[5:]] == [200] * len(more)
    assert not more[1:] or answers[6].body == LAYER


def test_only_so_much_is_joined_for_one_write() -> None:
    """What a client asked for beyond that, in the same few bytes, is answered by the route."""
    shop = held()
    shop.get(blob(LAYER))
    counter, each = Counter(shop), len(shop.get(blob(LAYER)).raw)
    many = hotlane._TOGETHER // each + 50
    line = Line(shop.listener).send(request("GET", blob(LAYER)) * many)
    assert 1 + (counter.served - 2) * each < hotlane._TOGETHER + each
    assert len(line.answers(*["GET"] * many)) == many


def test_what_requests_say_is_remembered_and_no_password_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only so much of it, and only until something changes."""
    monkeypatch.setattr(hotlane, "_SAID", 20 * hotlane._OVERHEAD)
    shop = held()
    lane = shop.listener._lane
    shop.get(blob(LAYER))
    assert not lane._said
    for number in range(3):
        shop.ask("GET", blob(LAYER), [("Authorization", f"Basic {number}")])
    assert not lane._said
    for number in range(30):
        shop.get(blob(LAYER), ("User-Agent", str(number)))
        assert 0 < len(lane._said) < 20
    shop.get(blob(LAYER), ("User-Agent", "a" * 5000))
    assert max(map(len, lane._said)) <= hotlane._LONGEST_SAID
    shop.listener.forget_answers()
    assert not lane._said


def test_a_request_in_two_pieces_takes_the_route_and_gets_the_same() -> None:
    """No half is mistaken for a whole."""
    shop = held()
    shop.get(blob(LAYER))
    counter, data = Counter(shop), request("GET", blob(LAYER))
    shop.line.send(data[:30]).send(data[30:])
    assert shop.line.answers("GET")[0].body == LAYER
    assert counter.served == 0


def test_it_never_overtakes_an_answer_under_way() -> None:
    """Pipelined behind a slow request, the prepared answer comes second."""
    shop = held()
    shop.get(blob(LAYER))
    shop.hub.hang("head")
    shop.line.send(request("GET", manifest("multi")))
    shop.line.send(request("GET", blob(LAYER)))
    assert shop.line.received() == b""
    shop.hub.hanging[0].answer()
    first, second = shop.line.answers("GET", "GET")
    assert second.body == LAYER and first.status == 200


def test_a_tag_leaves_it_when_it_is_stale() -> None:
    """From that moment the upstream is asked again; a digest stays."""
    shop = held()
    for _ in range(2):
        shop.get(manifest()), shop.get(manifest(Digest.of(IMAGE)))
    counter = Counter(shop)
    shop.clock.advance(59.0)
    shop.get(manifest())
    assert counter.served == 1
    shop.clock.advance(2.0)
    asked = shop.calls()
    assert shop.get(manifest())["Cache-Status"] == "pullcache; fwd=stale; fwd-status=304"
    assert shop.calls() == asked + 1 and counter.served == 1
    shop.get(manifest(Digest.of(IMAGE)))
    assert counter.served == 2


def test_a_new_configuration_empties_it() -> None:
    """What is no longer meant or allowed is not served from memory."""
    shop = held()
    shop.get(manifest()), shop.get(manifest())
    shop.listener.configure(shop.settings, ListenSettings(default_upstream=None))
    assert shop.get(manifest()).status == 404


@pytest.mark.parametrize(
    "path",
    [blob(LARGE), "/v2/", "/v2/app/tags/list", manifest("-bad"), manifest("absent"), "/v2/none.test/a/manifests/b"],
)
def test_what_is_large_short_lived_or_wrong_is_not_prepared(path: str) -> None:
    """Large blobs go by sendfile, lists and errors are made anew each time."""
    shop = held()
    counter = Counter(shop)
    for _ in range(3):
        shop.get(path)
    assert counter.served == 0


def test_an_answer_to_a_closing_client_is_not_prepared_for_others() -> None:
    """Its Connection: close would close theirs."""
    shop = held()
    shop.ask("GET", manifest(), [("Connection", "close")])
    shop.line.ask("GET", manifest())
    assert not shop.line.closed
    shop.line.ask("GET", manifest())
    assert not shop.line.closed


def test_stale_answers_are_not_prepared_while_asking_may_help() -> None:
    """A Warning is said each time anew, and the upstream is asked each time."""
    shop = held()
    shop.clock.advance(100.0)
    shop.hub.fail(UpstreamUnavailable("docker.io", "down"))
    counter = Counter(shop)
    for _ in range(3):
        assert shop.get(manifest())["Warning"] is not None
    assert counter.served == 0


def test_while_an_upstream_is_known_to_be_down_a_stale_answer_costs_no_more_than_a_fresh_one() -> None:
    """Prepared until the next probe, with its Warning, and counted as stale; then the upstream's return is noticed."""
    shop = held()
    shop.clock.advance(100.0)
    down = UpstreamUnavailable("docker.io", "refused")
    shop.hub.availabilities["*"] = Availability(ask=False, wait=False, fault=down, until=shop.clock.seconds() + 1.0)
    counter, asked = Counter(shop), shop.calls()
    routed, hot = shop.get(manifest()), shop.get(manifest())
    assert counter.served == 1 and hot.undated == routed.undated
    assert hot["Cache-Status"] == "pullcache; hit; detail=stale-unavailable"
    assert hot["Warning"] == '299 - "stale: docker.io: refused"'
    assert [told[-1] for told in shop.accounts.told] == ["stale", "stale"]
    assert shop.accounts.told[0] == shop.accounts.told[1]
    assert shop.calls() == asked
    shop.clock.advance(1.0)
    shop.hub.availabilities.clear()
    assert shop.get(manifest())["Cache-Status"] == "pullcache; fwd=stale; fwd-status=304"
    assert counter.served == 1


def test_a_remembered_404_is_prepared_for_as_long_as_it_is_believed() -> None:
    """The tag is gone upstream: what is cached is served, for missing_for without a question."""
    shop = held()
    shop.clock.advance(100.0)
    del shop.hub.shelves["library/app"].tags["latest"]
    counter = Counter(shop)
    told = {shop.get(manifest())["Cache-Status"] for _ in range(3)}
    assert told == {"pullcache; hit; detail=stale-missing"} and counter.served == 1
    shop.clock.advance(30.0)
    asked = shop.calls()
    shop.get(manifest())
    assert counter.served == 1 and shop.calls() == asked + 1


def test_offline_answers_are_prepared_and_an_import_ends_them() -> None:
    """However old; for a minute at a time, since a bundle may bring what the tag means by then."""
    shop = Shop(before=held(), offline=True)
    shop.clock.advance(1e6)
    counter = Counter(shop)
    shop.get(manifest()), shop.get(manifest())
    assert counter.served == 1
    shop.listener.forget_answers()
    shop.get(manifest())
    assert counter.served == 1
    shop.get(manifest())
    assert counter.served == 2
    shop.clock.advance(60.0)
    shop.get(manifest())
    assert counter.served == 2


def test_a_tag_that_is_never_asked_for_stays() -> None:
    """revalidate: never."""
    shop = held(fresh_for=None)
    shop.get(manifest())
    counter = Counter(shop)
    shop.clock.advance(1e8)
    assert shop.get(manifest())["Cache-Status"] == "pullcache; hit"
    assert counter.served == 1


# -- answers under way ----------------------------------------------------------------------------------------------


class SlowStore(MemoryBlobStore):
    """
    One whose reads end when the test says so.

    @ivar slow: whether that is so now; C{waiting}: the ends of the reads that began meanwhile.
    """

    slow = False

    def __init__(self) -> None:
        super().__init__()
        self.waiting: list[Deferred[None]] = []

    def read(self, digest: Digest, limit: int) -> Deferred[bytes]:
        reading = super().read(digest, limit)
        if not self.slow:
            return reading
        end: Deferred[None] = Deferred()
        self.waiting.append(end)
        return end.addCallback(lambda _: reading)


def reloaded(shop: Shop) -> None:
    shop.listener.configure(shop.settings, shop.listen)


def imported(shop: Shop) -> None:
    shop.listener.forget_answers()


NEWER = image(b"newer")


@pytest.mark.parametrize("change", [imported, reloaded])
@pytest.mark.parametrize("path", [manifest(), blob(CONFIG)])
def test_an_answer_that_was_under_way_is_not_repeated_afterwards(path: str, change: Callable[[Shop], None]) -> None:
    """A bundle brings a newer image, or a configuration comes, while an answer is read from the disk."""
    store = SlowStore()
    shop = Shop(before=held(store=store), offline=True, store=store)
    counter = Counter(shop)
    store.slow = True
    line = Line(shop.listener).send(request("GET", path))
    store.slow = False
    result(store.put(Digest.of(NEWER), NEWER))
    repository = result(shop.cache.repositories.get("docker.io", "library/app"))
    repository.hold(Digest.of(NEWER), OCI_MANIFEST, len(NEWER))
    repository.tag("latest", Digest.of(NEWER), shop.clock.seconds(), "bundle")
    change(shop)
    for end in store.waiting:
        end.callback(None)
    assert line.answers("GET")[0].status == 200
    assert shop.get(path).body == (NEWER if path == manifest() else CONFIG)
    assert counter.served == 0
    shop.get(path)
    assert counter.served == 1


# -- memory ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [manifest(), blob(LAYER)])
def test_a_query_multiplies_no_answers(path: str) -> None:
    """Whatever a client adds, or spells in its own way, gets the same answer and takes no memory."""
    shop = held()
    plain = shop.get(path)
    before = shop.listener._lane._used
    for written in (f"{path}?x={{}}", f"{path}?{{}}", f"{path}?platform=linux/{{}}", f"{path}?x{'y' * 1000}={{}}"):
        for number in range(20):
            for _ in range(2):
                assert shop.get(written.format(number)).body == plain.body
    for written in (path.replace("app", "DOCKER.io/app"), f"{path}?ns=Docker.io", path.replace("sha256:", "sha256%3a")):
        if written != path:
            assert shop.get(written).body == plain.body
    assert shop.listener._lane._used == before > 0


def test_what_is_kept_is_bounded_in_bytes_names_included(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long names of little images, each asked for once."""
    monkeypatch.setattr(hotlane, "BUDGET", 40_000)
    shop = Shop()
    name = "/".join(["n" * 60] * 4)
    little = image(b"x")
    tags = [f"{number:03}" + "t" * 120 for number in range(60)]
    shop.hub.add_manifest(name, little, OCI_MANIFEST, *tags)
    for tag in tags:
        shop.get(manifest(tag, name)), shop.get(manifest(tag, name))
    answers: Any = shop.listener._lane._answers
    octets = [
        len(key) + len(kept.before) + len(kept.after) + len(kept.repository.name) + len(kept.pulls.reference)
        for key, kept in answers.items()
    ]
    assert 0 < sum(octets) + 1024 * len(octets) <= 40_000
    counter = Counter(shop)
    shop.get(manifest(tags[-1], name))
    assert counter.served == 1
