"""pullcache access explain, against an appliance in memory."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.rooms.cli.runs import Appliance, ask

RULE = "access[1]: allow groups ops, repositories ghcr.io/**"
REPORT: dict[str, Any] = {
    "repository": "ghcr.io/team/app",
    "action": "pull",
    "user": "ann",
    "address": "10.0.0.7",
    "answers": [{"listener": "nodes", "allowed": True, "status": 200, "rule": RULE, "notes": []}],
}


def explained(*arguments: str, **more: Any) -> tuple[dict[str, str], str]:
    """What the appliance was asked, and what was shown."""
    appliance = Appliance({"GET access": REPORT | more})
    ended = ask(appliance, "access", "explain", *arguments)
    assert ended.code == 0, ended.err
    return appliance.asked[0].parameters, ended.out


@pytest.mark.parametrize(
    ("client", "parameters"),
    [
        ("ann@10.0.0.7", {"user": "ann", "address": "10.0.0.7"}),
        ("ann@site@2001:db8::1", {"user": "ann@site", "address": "2001:db8::1"}),
        ("10.0.0.7", {"address": "10.0.0.7"}),
        ("@10.0.0.7", {"address": "10.0.0.7"}),
        ("ann", {"user": "ann"}),
        ("ann@site@", {"user": "ann@site"}),
    ],
)
def test_the_client_is_written_as_user_at_address(client: str, parameters: dict[str, str]) -> None:
    """Either may be left out."""
    asked, _ = explained(client, "ghcr.io/team/app:1")
    assert asked == {"reference": "ghcr.io/team/app:1", "action": "pull", **parameters}


def test_a_mistyped_address_is_no_user() -> None:
    """It would be explained for somebody who is nobody."""
    with pytest.raises(SystemExit) as ended:
        ask(Appliance({}), "access", "explain", "ann@10.0.0.300", "ghcr.io/team/app")
    assert ended.value.code == 2


def test_the_rule_that_decides_is_shown_for_each_listener() -> None:
    """With what the client is told."""
    answers = [
        *REPORT["answers"],
        {"listener": "edge", "allowed": False, "status": 401, "rule": "no rule matches", "notes": ["x"]},
        {"listener": "open", "allowed": True, "status": 200, "rule": "", "notes": []},
    ]
    asked, out = explained("ann", "a", "--listener", "nodes", "--list", answers=answers)
    assert (asked["listener"], asked["action"]) == ("nodes", "list")
    assert [" ".join(line.split()) for line in out.splitlines()] == [
        "ann at 10.0.0.7: pull ghcr.io/team/app",
        "LISTENER ANSWER DECIDED BY",
        f"nodes allowed {RULE}",
        "edge 401, log in no rule matches; x",
        "open allowed there are no rules",
    ]


def test_a_machine_gets_what_the_appliance_said() -> None:
    """As it came."""
    assert json.loads(explained("ann", "a", "--json")[1]) == REPORT
