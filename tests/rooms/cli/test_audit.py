"""pullcache audit, against an appliance in memory."""

from __future__ import annotations

import json
from typing import Any

from tests.rooms.cli.runs import Answer, Appliance, ask

REMOVED = {
    "time": "2027-01-15T08:00:00.250Z",
    "action": "remove",
    "what": "docker.io/library/nginx:1",
    "outcome": "done",
    "user": "token 2",
    "means": "token",
    "address": "192.0.2.1",
}
REFUSED = {
    "time": "2027-01-15T08:00:01.000Z",
    "action": "pull",
    "what": "ghcr.io/team/app",
    "outcome": "refused",
    "means": "address",
    "address": "192.0.2.9",
    "rule": "access[2]: deny",
    "times": 12,
}
OURS = {"time": "2027-01-15T08:00:02.000Z", "action": "start", "what": "", "outcome": "done"}


def rows(out: str) -> list[str]:
    return [" ".join(line.split()) for line in out.splitlines()]


def test_a_line_says_when_what_and_who() -> None:
    """Of what was done, of what was refused and how often, and of the appliance itself."""
    ended = ask(Appliance({"GET audit": {"entries": [REMOVED, REFUSED, OURS], "isCut": False}}), "audit")
    assert (ended.code, ended.err) == (0, "")
    assert rows(ended.out) == [
        "TIME ACTION OUTCOME WHO WHAT",
        "2027-01-15 08:00:00 remove done token 2@192.0.2.1 docker.io/library/nginx:1",
        "2027-01-15 08:00:01 pull refused anonymous@192.0.2.9 ghcr.io/team/app; 12 times; access[2]: deny",
        "2027-01-15 08:00:02 start done - -",
    ]


def test_what_is_asked_for_is_asked_of_the_appliance() -> None:
    """Which has all of it, in more files than one."""
    appliance = Appliance({"GET audit": {"entries": [], "isCut": False}})
    ended = ask(appliance, "audit", "--since", "7d", "--action", "pull", "--outcome", "refused", "--user", "bob")
    assert appliance.asked[0].parameters == {"since": "604800s", "action": "pull", "outcome": "refused", "user": "bob"}
    assert (ended.code, ended.out, ended.err) == (0, "", "nothing of that kind was written down\n")


def test_it_is_said_when_there_is_more() -> None:
    """On standard error, as the lines themselves may go to another program."""
    document: Any = {"entries": [OURS], "isCut": True}
    ended = ask(Appliance({"GET audit": document}), "audit", "--limit", "1")
    assert ended.code == 0 and "there is more" in ended.err
    assert json.loads(ask(Appliance({"GET audit": document}), "audit", "--json").out) == document


def test_an_appliance_that_keeps_none_says_so() -> None:
    """In its own words."""
    refused = Answer({"error": {"code": "no-audit", "message": "no audit log is kept"}}, 409)
    ended = ask(Appliance({"GET audit": refused}), "audit")
    assert (ended.code, ended.err) == (1, "pullcache: no audit log is kept\n")
