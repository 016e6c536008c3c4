"""Who may pull what, over the API: the same decision as for a client."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import pytest
from msgspec import structs

from appliance import config
from appliance.settings import ListenSettings
from tests.doubles.appliance import Appliance

LISTENERS = (
    "listen: [{endpoint: 'tcp:1', name: nodes}, {endpoint: 'tls:/p:port=2', name: edge,"
    " login: offered, checkers: 'file:/p'}, {endpoint: 'tls:/p:port=3', name: desk, login: required,"
    " checkers: 'file:/p'}]\n"
)
ACCESS = (
    "access: [{deny: {networks: 10.9.0.0/16}}, {allow: {users: ann}}, {allow: {listeners: nodes, actions: pull}}]\n"
)
ANN, NODES = "access[1]: allow users ann", "access[2]: allow listeners nodes, actions pull"


@pytest.fixture
def guarded(site: Appliance) -> Appliance:
    """With three listeners, of which one wants a login and one offers it."""
    read = config.parse(LISTENERS + ACCESS, "/p")
    site.settings = structs.replace(site.settings, listen=read.listen, access=read.access)
    site.services.access.rules = type(site.services.access.rules).of(site.settings)
    return site


def explain(site: Appliance, **given: str) -> Any:
    answer = site.ask("GET", f"access?{urlencode({'reference': 'nginx', **given})}")
    assert answer.code == 200, answer.body
    return answer.json


def told(report: Any) -> list[tuple[str, int, str]]:
    assert all(each["allowed"] is (each["status"] == 200) for each in report["answers"])
    return [(each["listener"], each["status"], each["rule"]) for each in report["answers"]]


@pytest.mark.parametrize(
    ("given", "answers"),
    [
        (
            {"address": "10.0.0.1"},
            [("nodes", 200, NODES), ("edge", 401, "no rule matches"), ("desk", 401, "")],
        ),
        ({"user": "ann"}, [("nodes", 200, NODES), ("edge", 200, ANN), ("desk", 200, ANN)]),
        (
            {"user": "bob"},
            [("nodes", 200, NODES), ("edge", 404, "no rule matches"), ("desk", 404, "no rule matches")],
        ),
        (
            {"user": "ann", "address": "10.9.1.1"},
            [(name, 404, "access[0]: deny networks 10.9.0.0/16") for name in ("nodes", "edge", "desk")],
        ),
        ({"action": "list", "listener": "nodes"}, [("nodes", 404, "no rule matches")]),
    ],
)
def test_each_listener_says_what_a_client_there_is_answered(
    guarded: Appliance, given: dict[str, str], answers: list[tuple[str, int, str]]
) -> None:
    """With the rule that decides; where nobody logs in, the user counts for nothing."""
    report = explain(guarded, **given)
    assert report["repository"] == "docker.io/library/nginx"
    assert told(report) == answers


@pytest.mark.parametrize(
    ("login", "user", "address", "status", "rule"),
    [
        ("offered", "ann", "127.0.0.1", 200, ANN),
        ("offered", "ann", "10.0.0.1", 403, ""),
        ("offered", "", "127.0.0.1", 401, "no rule matches"),
        ("offered", "", "10.0.0.1", 404, "no rule matches"),
        ("required", "ann", "10.0.0.1", 403, ""),
    ],
)
def test_a_password_over_plain_http_counts_from_loopback_alone(
    guarded: Appliance, login: str, user: str, address: str, status: int, rule: str
) -> None:
    """As on the listener itself; and it is said why."""
    plain = ListenSettings(name="plain", login=login, checkers=("file:/p",))
    guarded.settings = structs.replace(guarded.settings, listen=(plain,))
    report = explain(guarded, user=user, address=address)
    assert told(report) == [("plain", status, rule)]
    notes = report["answers"][0]["notes"]
    assert any("is not encrypted" in note for note in notes) is (address == "10.0.0.1")


def test_without_rules_everybody_is_allowed_by_none(site: Appliance) -> None:
    """And allow and deny of the upstream still count."""
    assert [each[1:] for each in told(explain(site))] == [(200, "")]
    remote = site.services.access.remotes["docker.io"]
    denying = structs.replace(remote.settings, deny=("library/*",))
    site.services.access.remotes = {"docker.io": type(remote)(denying, remote.registry, False)}
    [answer] = explain(site)["answers"]
    assert answer["status"] == 403 and "(allow, deny)" in answer["notes"][0]


@pytest.mark.parametrize(
    ("given", "code", "why"),
    [
        ({"reference": ""}, 400, "is no reference"),
        ({"reference": "nginx*"}, 400, "is no repository name"),
        ({"reference": "quay.io/a/b"}, 404, "no upstream quay.io is configured"),
        ({"address": "cache.site"}, 400, "is no IP address"),
        ({"action": "push"}, 400, "the actions are pull, list"),
        ({"listener": "gone"}, 404, "there are: nodes, edge, desk"),
    ],
)
def test_what_cannot_be_explained_is_said(guarded: Appliance, given: dict[str, str], code: int, why: str) -> None:
    """With what would be right."""
    answer = guarded.ask("GET", f"access?{urlencode({'reference': 'nginx', **given})}")
    assert answer.code == code and why in answer.json["error"]["message"]
