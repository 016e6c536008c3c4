"""What a client may have in a second, seen from its connection."""

from __future__ import annotations

import pytest

from appliance.flow.rates import PATIENCE, ClientRates
from appliance.registry.listener import Listener
from appliance.settings import ClientRateSettings
from tests.wire.line import LAYER, Line, Shop, blob, manifest, request


def limited(requests: int) -> Shop:
    """A listener that answers so many requests a second of each client."""
    shop = Shop()
    shop.line.lose()
    shop.get(manifest())
    rates = ClientRates(shop.clock, ClientRateSettings(requests=requests))
    shop.listener = Listener(
        shop.cache.through, shop.settings, shop.listen, shop.accounts, shop.cache.audit, shop.clock, rates=rates
    )
    return shop


@pytest.mark.parametrize("path", ["/v2/", manifest(), blob(LAYER), "/v2/app/tags/list"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_request_above_the_rate_waits_and_is_answered(path: str, method: str) -> None:
    """By every route, and by the hot lane: the same answer, a little later."""
    shop = limited(requests=1)
    line = Line(shop.listener)
    first = [line.ask(method, path).status for _ in range(2)]
    assert first == [200, 200]
    line.send(request(method, path))
    assert line.received() == b""
    shop.clock.advance(1)
    assert line.answers(method)[0].status == 200
    line.lose()


def test_who_waits_in_vain_is_told_when_to_come_again() -> None:
    """429 as OCI JSON; the connection is good for the next request."""
    shop = limited(requests=1)
    lines = [Line(shop.listener) for _ in range(20)]
    for line in lines:
        line.send(request("GET", "/v2/"))
    shop.clock.advance(PATIENCE)
    last = lines[-1].answers("GET")[0]
    assert (last.status, last.error["code"]) == (429, "TOOMANYREQUESTS")
    seconds = int(last["Retry-After"] or 0)
    assert 1 <= seconds <= PATIENCE + 1
    shop.clock.advance(seconds)
    assert lines[-1].ask("GET", "/v2/").status == 200
    for line in lines:
        line.lose()


def test_who_leaves_while_it_waits_leaves_nothing_behind() -> None:
    """No timer, and no error in the log."""
    shop = limited(requests=1)
    line = Line(shop.listener)
    for _ in range(2):
        line.ask("GET", "/v2/")
    line.send(request("GET", "/v2/"))
    line.lose()
    shop.clock.advance(PATIENCE)
