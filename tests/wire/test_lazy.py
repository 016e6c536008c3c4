"""Lazy pullers (stargz, SOCI) read the end of a layer first, and the layer is fetched once all the same."""

from __future__ import annotations

from typing import Any

import pytest

from appliance import errors
from appliance.oci.mediatypes import OCI_MANIFEST
from tests.doubles.manifests import image
from tests.wire.line import HUB, Line, Shop, blob, manifest, parse, request

LAYER = b"".join(number.to_bytes(4, "big") for number in range(2 * 1024 * 1024))
SIZE = len(LAYER)
FOOTER = (SIZE - 51, SIZE)


class Lazy:
    """A shop whose upstream answers for a layer of eight megabytes only when the test says so."""

    def __init__(self, named: bool = True) -> None:
        self.shop = Shop()
        self.shop.hub.add_blob("library/app", LAYER)
        if named:
            digest = self.shop.hub.add_manifest("library/app", image(LAYER), OCI_MANIFEST)
            assert self.shop.get(manifest(digest)).status == 200
        self.shop.hub.calls.clear()
        self.shop.hub.by_hand = True
        self.shop.hub.hang("blob")

    def ask(self, header: str, *fields: tuple[str, str]) -> Line:
        line = Line(self.shop.listener)
        line.send(request("GET", blob(LAYER), [("Range", header), *fields]))
        return line

    @property
    def hanging(self) -> list[Any]:
        return self.shop.hub.hanging

    def asked(self) -> list[tuple[int, int | None]]:
        return [(call.start, call.stop) for call in self.shop.hub.asked("blob")]

    def answer(self, number: int) -> None:
        """Answer that question, and send all of it."""
        self.hanging[number].answer()
        self.shop.hub.bodies[-1].complete()


@pytest.mark.parametrize("header", [f"bytes={FOOTER[0]}-{SIZE - 1}", "bytes=-51", f"bytes={FOOTER[0]}-"])
def test_the_first_range_at_the_end_of_a_cold_layer_costs_one_round_trip(header: str) -> None:
    """The layer and the range are asked for together; the range is answered as soon as it is there, no time passes."""
    lazy = Lazy()
    line = lazy.ask(header)
    assert lazy.asked() == [(0, None), FOOTER]
    lazy.answer(1)
    [answer] = parse(line.received(), "GET")[:1]
    assert (answer.status, answer.body) == (206, LAYER[-51:])
    assert answer["Content-Range"] == f"bytes {FOOTER[0]}-{SIZE - 1}/{SIZE}"
    assert answer["Cache-Status"] == "pullcache; fwd=partial; fwd-status=206"
    lazy.answer(0)
    assert lazy.shop.get(blob(LAYER)).body == LAYER and len(lazy.asked()) == 2


def test_it_costs_one_round_trip_when_a_flight_has_begun_too() -> None:
    """stargz asks for two bytes at the beginning before: they, and others near them, wait for the flight."""
    lazy = Lazy()
    probes = [lazy.ask("bytes=0-1"), lazy.ask("bytes=100-199")]
    assert lazy.asked() == [(0, None)]
    lazy.hanging[0].answer()
    footer = lazy.ask("bytes=-51")
    assert lazy.asked() == [(0, None), FOOTER]
    lazy.answer(1)
    assert parse(footer.received(), "GET")[0].body == LAYER[-51:]
    lazy.shop.hub.bodies[0].complete()
    answers = [parse(each.received(), "GET")[0] for each in probes]
    assert [each.body for each in answers] == [LAYER[:2], LAYER[100:200]] and len(lazy.asked()) == 2
    told = ["pullcache; fwd=uri-miss; stored", "pullcache; fwd=uri-miss; collapsed"]
    assert [each["Cache-Status"] for each in answers] == told


def test_a_layer_of_unknown_size_is_asked_for_first() -> None:
    """What its last bytes are is known when its flight is open: then they are fetched on the side."""
    lazy = Lazy(named=False)
    line = lazy.ask("bytes=-51")
    assert lazy.asked() == [(0, None)]
    lazy.hanging[0].answer()
    assert lazy.asked() == [(0, None), FOOTER]
    lazy.answer(1)
    assert parse(line.received(), "GET")[0].body == LAYER[-51:]
    lazy.shop.hub.bodies[0].complete()


def test_a_range_on_the_side_that_fails_comes_with_the_flight() -> None:
    """Too many requests, no ranges, or the line: the client waits for the whole to get there."""
    lazy = Lazy()
    line = lazy.ask("bytes=-51")
    lazy.hanging[1].refuse(errors.UpstreamRateLimited(HUB, "x"))
    lazy.answer(0)
    assert parse(line.received(), "GET")[0].body == LAYER[-51:] and len(lazy.asked()) == 2


def test_a_cold_layer_that_is_not_there_is_missing_by_range_too() -> None:
    """404, with nothing of it tried again meanwhile."""
    lazy = Lazy()
    lazy.shop.hub.shelves["library/app"].blobs.clear()
    lazy.shop.hub.heal()
    for _ in range(2):
        answer = lazy.shop.get(blob(LAYER), ("Range", "bytes=-51"))
        assert (answer.status, answer.error["code"]) == (404, "BLOB_UNKNOWN")
    assert len(lazy.asked()) == 2


def test_a_client_that_leaves_drops_its_range_and_not_the_flight() -> None:
    """The side request is cancelled, before its answer and amid it."""
    for answered in (False, True):
        lazy = Lazy()
        line = lazy.ask("bytes=-51")
        if answered:
            lazy.hanging[1].answer()
            lazy.shop.hub.bodies[-1].feed(10)
        line.lose()
        assert lazy.shop.hub.bodies[-1].dropped if answered else lazy.hanging[1].cancelled
        assert not lazy.hanging[0].cancelled
        lazy.answer(0)
        assert lazy.shop.get(blob(LAYER)).body == LAYER


@pytest.mark.parametrize(
    ("field", "status"),
    [(("If-None-Match", "*"), 304), (("If-Range", '"other"'), 200), (("Range", "bytes=0-1"), 200)],
)
def test_a_condition_goes_before_the_range(field: tuple[str, str], status: int) -> None:
    """Not changed, changed, two ranges fields: answered as ever, and nothing on the side."""
    lazy = Lazy()
    line = lazy.ask("bytes=-51", field)
    lazy.answer(0)
    assert parse(line.received(), "GET")[0].status == status and lazy.asked() == [(0, None)]
