"""Forms that are sent to an upstream for an exchange of tokens."""

from __future__ import annotations

from urllib.parse import urlencode

import pytest

from appliance.errors import (
    UpstreamDenied,
    UpstreamInvalid,
    UpstreamMissing,
    UpstreamRateLimited,
)
from tests.rooms.upstream.net import Reply
from tests.rooms.upstream.registries import post, problem


def test_a_form_is_sent_as_forms_are() -> None:
    """At the origin of the upstream, with its own agent."""
    fields = {"access_token": "a+b/c=", "service": "\u00e9 &"}
    net, answer = post(Reply(200, {}, b"given"), fields)
    assert net.result(answer) == b"given"
    (asked,) = net.asked
    assert (asked.method, asked.url, asked.agent) == ("POST", "https://registry.example/oauth2/exchange", "own")
    assert asked.one("content-type") == "application/x-www-form-urlencoded"
    assert asked.body.decode() == urlencode(fields)


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply(400), UpstreamDenied),
        (Reply(401), UpstreamDenied),
        (Reply(404), UpstreamDenied),
        (Reply(307, {"Location": "https://elsewhere.example/"}), UpstreamDenied),
        (Reply(429, {"Retry-After": "5"}), UpstreamRateLimited),
        (Reply(503), Exception),
        (Reply(200, {}, b"x" * (1024 * 1024 + 1)), UpstreamInvalid),
    ],
)
def test_a_form_that_is_refused_fails(reply: Reply, kind: type[Exception]) -> None:
    """It goes nowhere else, and nothing is missing because of it."""
    net, answer = post(reply, {"access_token": "x"})
    fault = net.fault(answer)
    assert isinstance(fault, kind)
    assert not isinstance(fault, UpstreamMissing)
    assert len(net.asked) == 1


def test_a_secret_that_comes_back_in_a_message_goes_no_further() -> None:
    """A server may repeat what it was sent; we do not."""
    net, answer = post(problem(401, "UNAUTHORIZED", "bad token s3cret-text"), {"access_token": "s3cret-text"})
    fault = net.fault(answer)
    assert "s3cret" not in str(fault)
    assert "401" in str(fault)
