"""An upstream that wants fewer requests (429, 503 with Retry-After) gets fewer."""

from __future__ import annotations

from appliance import errors
from appliance.upstream.interfaces import RateLimit
from tests.doubles.deferreds import failing
from tests.rooms.upstream.net import AUTH, Asked, Reply
from tests.rooms.upstream.outages import DIGEST, MANIFEST, RATE_LIMITED, UP, Outages, PullsLeft


def test_a_limit_on_one_repository_leaves_the_others_alone() -> None:
    """The next question fails with what remains of the Retry-After, and no request is sent."""
    outages = Outages()
    outages.serve(lambda asked: Reply(429, {"Retry-After": "30"}) if "/busy/" in asked.target else Reply(body=MANIFEST))
    fault = outages.fault("busy")
    assert isinstance(fault, errors.UpstreamRateLimited) and fault.retry_after == 30
    outages.pass_time(10)
    fault = outages.fault("busy")
    assert isinstance(fault, errors.UpstreamRateLimited) and fault.retry_after == 20
    assert len(outages.asked(of="/busy/")) == 1
    availability = outages.upstream.availability("busy")
    assert (availability.ask, availability.until) == (False, outages.net.clock.seconds() + 20)
    assert isinstance(availability.fault, errors.UpstreamRateLimited)
    assert outages.pull("other") == MANIFEST
    assert outages.upstream.condition().resting == ("busy",)
    outages.pass_time(20)
    outages.fault("busy")
    assert len(outages.asked(of="/busy/")) == 2
    outages.end()


def test_limits_on_three_repositories_are_a_limit_on_the_registry() -> None:
    """Then nothing at all is asked until the longest of them is over."""
    outages = Outages()
    waits = {"a": "10", "b": "40", "c": "20"}
    outages.serve(
        lambda asked: (
            Reply(429, {"Retry-After": waits[name]}) if (name := asked.target[4]) in waits else Reply(body=MANIFEST)
        )
    )
    for name in "ab":
        outages.fault(name)
        assert outages.states == [UP]
    outages.fault("c")
    assert outages.states == [RATE_LIMITED]
    fault = outages.fault("d")
    assert isinstance(fault, errors.UpstreamRateLimited) and fault.retry_after == 40
    assert len(outages.net.asked) == 3
    outages.pass_time(40)
    assert outages.states == [UP]
    assert outages.pull("d") == MANIFEST and outages.net.timers() == []
    outages.end()


def test_a_server_that_says_when_to_come_back_is_left_alone_until_then() -> None:
    """503 with a Retry-After; the question that met it and the later ones say when."""
    outages = Outages()
    outages.answer(Reply(503, {"Retry-After": "120"}), Reply(body=MANIFEST))
    for seconds in (120, 90):
        fault = outages.fault("a" if seconds == 120 else "b")
        assert isinstance(fault, errors.UpstreamRateLimited) and fault.retry_after == seconds
        outages.pass_time(30)
    assert len(outages.net.asked) == 1
    outages.pass_time(60)
    assert outages.pull() == MANIFEST
    outages.end()


def test_a_token_server_that_wants_fewer_requests_stops_all() -> None:
    """Without a token nothing can be asked about any repository."""
    outages = Outages(auth_hosts=("auth.example",))
    outages.answer(Reply(401, {"WWW-Authenticate": f'Bearer realm="{AUTH}/token",service="s"'}))
    outages.net.servers[AUTH] = lambda asked: Reply(429, {"Retry-After": "15"})
    outages.fault("a")
    assert outages.states == [RATE_LIMITED]
    fault = outages.fault("b")
    assert isinstance(fault, errors.UpstreamRateLimited) and fault.retry_after == 15
    outages.end()


def test_pulls_are_left_to_others_before_the_limit_is_hit() -> None:
    """C{keep_pulls}: manifests are not fetched any more; checks and blobs, which cost nothing, go on."""
    outages = Outages(adapter=PullsLeft(), keep_pulls=10)
    left = iter([11, 10, 10, 10])

    def server(asked: Asked) -> Reply:
        fields: dict[str, str | list[str]] = {} if "blobs" in asked.target else {"RateLimit-Remaining": str(next(left))}
        return Reply(200, fields, MANIFEST)

    outages.serve(server)
    for _ in range(2):
        outages.pull()
    fault = failing(outages.upstream.manifest("b", "t"))
    assert isinstance(fault, errors.UpstreamRateLimited) and "keep_pulls" in str(fault)
    assert len(outages.net.asked) == 2
    outages.net.result(outages.upstream.head("b", "t"))
    outages.net.result(outages.upstream.blob("b", DIGEST)).abandon()
    assert outages.upstream.condition().rate_limit == RateLimit(100, 10, 21600.0)
    assert [limit.remaining for limit in outages.observer.limits] == [11, 10, 10]
    assert outages.states == [UP]
    outages.end()


def test_a_used_up_budget_is_looked_at_again_without_a_pull() -> None:
    """The window slides: a minute later one HEAD, which costs nothing, says how many are left by now."""
    outages = Outages(adapter=PullsLeft(), keep_pulls=10)
    left = iter([5, 5, 60, 59])
    outages.serve(lambda asked: Reply(200, {"RateLimit-Remaining": str(next(left))}, MANIFEST))
    outages.pull()
    outages.net.clock.advance(60)
    assert isinstance(outages.fault(), errors.UpstreamRateLimited)
    assert [asked.method for asked in outages.net.asked] == ["GET", "HEAD"]
    assert isinstance(outages.fault(), errors.UpstreamRateLimited)
    outages.net.clock.advance(60)
    assert outages.pull() == MANIFEST
    assert [asked.method for asked in outages.net.asked] == ["GET", "HEAD", "HEAD", "GET"]
    outages.end()
