"""Passwords: when one is shown, and that a wrong one is not shown again."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from appliance import errors
from appliance.flow.disk import InlineThreads
from appliance.upstream.credentials.configured import PasswordFile
from appliance.upstream.interfaces import Secret
from tests.doubles.deferreds import failing, result
from tests.rooms.upstream.guarded import (
    BASIC,
    MANIFEST,
    OK,
    Guarded,
    basic_registry,
    password,
)
from tests.rooms.upstream.net import AUTH, REGISTRY, Asked, Net, Reply, Server, upstream


def test_basic_is_answered_with_the_password(tmp_path: Path) -> None:
    """Private registries, and ECR."""
    net = Net()
    basic_registry(net, [BASIC])
    asking = upstream(net, username="user", password_file=password(tmp_path))
    assert net.result(asking.manifest("a", "t")).data == MANIFEST
    net.asked.clear()
    net.result(asking.manifest("a", "t"))
    assert [asked.one("authorization") for asked in net.asked] == [BASIC]


def test_a_token_is_preferred_to_the_password(tmp_path: Path) -> None:
    """A registry that offers both does not get the password."""
    net = Net()
    guarded = Guarded(net, AUTH + "/token")
    registry: Server = guarded.registry

    def both(asked: Asked) -> Reply | None:
        reply = registry(asked)
        if reply is not None and reply.status == 401:
            reply.fields["WWW-Authenticate"] = [
                'Negotiate, Basic realm="a, b"',
                f'bEaReR realm="{AUTH}/token", service="reg"',
            ]
        return reply

    net.servers[REGISTRY] = both
    asking = upstream(net, auth_hosts=("auth.example",), username="user", password_file=password(tmp_path))
    assert net.result(asking.manifest("a", "t")).data == MANIFEST
    assert [asked.origin for asked in net.asked if asked.one("authorization") == BASIC] == [AUTH]


def test_no_password_no_basic() -> None:
    """Nothing is sent when there is nothing to send."""
    net = Net()
    basic_registry(net, [])
    assert type(net.fault(upstream(net).manifest("a", "t"))) is errors.UpstreamDenied
    assert len(net.asked) == 1


def test_a_wrong_password_is_not_sent_again_for_one_question(tmp_path: Path) -> None:
    """Registries lock accounts. The error says which file is to be put right."""
    net = Net()
    basic_registry(net, [])
    asking = upstream(net, username="user", password_file=password(tmp_path))
    fault = net.fault(asking.manifest("a", "t"))
    assert type(fault) is errors.UpstreamDenied
    assert [asked.one("authorization") for asked in net.asked] == [None, BASIC]
    assert f"password_file {tmp_path}/password" in str(fault)
    assert "pa ss" not in str(fault)


def test_a_wrong_password_is_not_sent_for_the_next_hundred_questions_either(tmp_path: Path) -> None:
    """A cluster that pulls on gets no account locked: nothing is sent at all, and the answer comes at once."""
    net = Net()
    basic_registry(net, [])
    asking = upstream(net, username="user", password_file=password(tmp_path))
    net.fault(asking.manifest("a", "t"))
    net.asked.clear()
    for number in range(100):
        net.clock.advance(0.5)
        fault = failing(asking.manifest(f"repository{number}", "t"))
        assert type(fault) is errors.UpstreamDenied
        assert f"password_file {tmp_path}/password" in str(fault)
    assert net.asked == []


def test_a_refused_password_is_tried_by_one_question_a_minute_later(tmp_path: Path) -> None:
    """The registry may have been put right; if not, it sees one try, not a hundred."""
    net = Net()
    basic_registry(net, [])
    asking = upstream(net, username="user", password_file=password(tmp_path))
    net.fault(asking.manifest("a", "t"))
    net.asked.clear()
    net.clock.advance(60)
    asked = [asking.manifest("a", f"t{number}") for number in range(100)]
    assert {type(net.fault(each)) for each in asked} == {errors.UpstreamDenied}
    assert [each.one("authorization") for each in net.asked] == [BASIC]
    basic_registry(net, [BASIC])
    net.clock.advance(60)
    assert net.result(asking.manifest("a", "t")).data == MANIFEST
    assert net.result(asking.manifest("a", "t")).data == MANIFEST


def test_a_refused_password_is_shown_again_as_soon_as_its_file_changes(tmp_path: Path) -> None:
    """Who corrects it does not have to wait or to restart anything."""
    net = Net()
    path = password(tmp_path, "wrong")
    basic_registry(net, [BASIC])
    asking = upstream(net, username="user", password_file=path)
    net.fault(asking.manifest("a", "t"))
    password(tmp_path)
    assert net.result(asking.manifest("a", "t")).data == MANIFEST


def test_a_password_the_token_server_refuses_is_not_sent_to_it_again(tmp_path: Path) -> None:
    """Docker Hub bans who tries too often; what is asked for another repository is the same login."""
    net = Net()
    guarded = Guarded(net)
    guarded.grant = lambda asked: Reply(401, {}, b'{"details":"incorrect username or password"}')
    asking = upstream(net, username="user", password_file=password(tmp_path))
    assert type(net.fault(asking.manifest("a", "t"))) is errors.UpstreamDenied
    net.asked.clear()
    for number in range(100):
        fault = failing(asking.manifest(f"repository{number}", "t"))
        assert type(fault) is errors.UpstreamDenied
        assert "password_file" in str(fault)
    assert net.asked == []


def test_a_challenge_that_cannot_be_read_is_not_counted_against_the_password(tmp_path: Path) -> None:
    """A realm that is no URL says nothing of a password that was accepted before: other repositories go on with it."""
    net = Net()
    basic_registry(net, [BASIC])
    registry: Server = net.servers[REGISTRY]
    broken = Reply(401, {"WWW-Authenticate": 'Bearer realm=""'})
    net.servers[REGISTRY] = lambda asked: broken if "/broken/" in asked.target else registry(asked)
    asking = upstream(net, username="user", password_file=password(tmp_path))
    net.result(asking.manifest("a", "t"))
    assert type(net.fault(asking.manifest("broken", "t"))) is errors.UpstreamInvalid
    assert net.timers() == []
    assert net.result(asking.manifest("a", "t")).data == MANIFEST


def test_a_refusal_that_no_client_waits_for_any_more_is_no_mistake(
    tmp_path: Path, logged_errors: list[dict[str, Any]]
) -> None:
    """The client leaves while the token server looks at the password: nothing is written into the log as ours."""
    net = Net()
    guarded = Guarded(net)
    guarded.grant = lambda asked: None
    asking = upstream(net, username="user", password_file=password(tmp_path))
    leaving = asking.manifest("a", "t")
    net.settle()
    leaving.cancel()
    failing(leaving)
    refusal = Reply(401)
    answered = [wire for wire in net.wires if getattr(wire.protocol, "state", "") == "WAITING"]
    assert len(answered) == 1
    answered[0].send(refusal.head("GET") + refusal.rest())
    net.settle()
    assert logged_errors == []


@pytest.mark.parametrize("status", [401, 403])
def test_one_forbidden_repository_does_not_keep_us_from_the_others(tmp_path: Path, status: int) -> None:
    """GitLab and GHCR refuse a token for what one may not have just as they refuse a wrong password."""
    net = Net()
    guarded = Guarded(net)
    guarded.grant = lambda asked: Reply(status) if "secret" in asked.target else guarded.give(asked)
    asking = upstream(net, username="user", password_file=password(tmp_path))
    net.result(asking.manifest("a", "t"))
    assert type(net.fault(asking.manifest("secret", "t"))) is errors.UpstreamDenied
    net.asked.clear()
    assert net.result(asking.manifest("b", "t")).data == MANIFEST
    assert [asked.one("authorization") for asked in net.asked] == [BASIC, "Bearer t3"]


def test_a_forbidden_repository_may_be_the_first_one_that_is_asked_for(tmp_path: Path) -> None:
    """Before the password has been accepted once, a 403 says nothing of it."""
    net = Net()
    guarded = Guarded(net)
    guarded.grant = lambda asked: Reply(403) if "secret" in asked.target else guarded.give(asked)
    asking = upstream(net, username="user", password_file=password(tmp_path))
    assert type(net.fault(asking.manifest("secret", "t"))) is errors.UpstreamDenied
    assert net.result(asking.manifest("b", "t")).data == MANIFEST


def test_one_repository_forbidden_by_a_registry_with_passwords_does_not_either(tmp_path: Path) -> None:
    """Nexus answers 401 to users it knows; /v2/ shows whether it does."""
    net = Net()

    def registry(asked: Asked) -> Reply:
        known = asked.one("authorization") == BASIC and "/secret/" not in asked.target
        return OK if known else Reply(401, {"WWW-Authenticate": 'Basic realm="x"'})

    net.servers[REGISTRY] = registry
    asking = upstream(net, username="user", password_file=password(tmp_path))
    net.result(asking.manifest("a", "t"))
    assert type(net.fault(asking.manifest("secret", "t"))) is errors.UpstreamDenied
    assert net.result(asking.manifest("b", "t")).data == MANIFEST


@pytest.mark.parametrize(
    ("username", "secret"),
    [("robot$project+name", "p+a:s$s"), ("üser", "pässwörd €"), ("u", "a b\tc"), ("", "x"), ("u", "%41&=+;")],
)
def test_any_password_arrives_as_it_is(tmp_path: Path, username: str, secret: str) -> None:
    """Harbor's robots are called robot$project+name, and passwords hold what people put into them (RFC 7617, UTF-8)."""
    net = Net()
    basic_registry(net, ["Basic " + base64.b64encode(f"{username}:{secret}".encode()).decode()])
    path = tmp_path / "password"
    path.write_text(secret, encoding="utf-8")
    assert net.result(upstream(net, username=username, password_file=path).manifest("a", "t")).data == MANIFEST


def test_a_new_password_is_taken_up_without_a_restart(tmp_path: Path) -> None:
    """ECR's passwords live twelve hours; a timer writes the next one into the file."""
    net = Net()
    path = password(tmp_path, "old")
    new = "Basic " + base64.b64encode(b"user:new").decode()
    basic_registry(net, ["Basic " + base64.b64encode(b"user:old").decode()])
    asking = upstream(net, username="user", password_file=path)
    net.result(asking.manifest("a", "t"))
    basic_registry(net, [new])
    path.write_text("new\n")
    os.utime(path, ns=(1, 1))
    assert net.result(asking.manifest("a", "t")).data == MANIFEST


def test_a_new_password_gets_a_token_of_its_own(tmp_path: Path) -> None:
    """A token belongs to the credentials it was asked with."""
    net = Net()
    guarded = Guarded(net)
    path = password(tmp_path, "old")
    asking = upstream(net, username="user", password_file=path)
    net.result(asking.manifest("a", "t"))
    path.write_text("new")
    os.utime(path, ns=(1, 1))
    net.result(asking.manifest("a", "t"))
    assert guarded.given == 2


def test_a_missing_password_file_is_named(tmp_path: Path) -> None:
    """Said as what it is, not as the registry's refusal."""
    net = Net()
    basic_registry(net, [BASIC])
    fault = net.fault(upstream(net, username="user", password_file=tmp_path / "gone").manifest("a", "t"))
    assert type(fault) is errors.UpstreamDenied
    assert "password_file" in str(fault) and "No such file" in str(fault)


@pytest.mark.parametrize(
    ("written", "meant"),
    [("x", "x"), ("x\n", "x"), ("x\r\n", "x"), ("x\n\n", "x\n"), (" x ", " x "), ("", ""), ("x\r", "x\r")],
)
def test_one_newline_at_the_end_is_not_part_of_the_password(tmp_path: Path, written: str, meant: str) -> None:
    """Editors and echo put one there; everything else may be meant."""
    source = PasswordFile("user", password(tmp_path, written), "up.example", InlineThreads())
    assert result(Deferred.fromCoroutine(source.read(again=False))) == Secret("", "user", meant)
