"""pullcache pin and unpin, against an appliance in memory."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.rooms.cli.runs import Answer, Appliance, ask

DIGEST = "sha256:" + "a" * 64
BUNDLE = "sha256:" + "b" * 64
PINNED = {"name": "docker.io/library/nginx:1", "digest": DIGEST, "before": None, "pinned": "operator", "locked": False}
UNPINNED = PINNED | {"before": "operator", "pinned": None}
REFUSED = Answer({"error": {"code": "not-held", "message": "x is not held; pull it first, then pin it"}}, 404)


def rows(out: str) -> list[str]:
    return [" ".join(line.split()) for line in out.splitlines()]


@pytest.mark.parametrize(("options", "digest"), [([], False), (["--digest"], True)])
def test_pin_names_what_it_pinned(options: list[str], digest: bool) -> None:
    """With the digest, which is what is locked with --digest."""
    appliance = Appliance({"POST pins": {"pins": [PINNED | {"locked": digest}]}})
    ended = ask(appliance, "pin", *options, "nginx:1")
    assert [json.loads(each.body) for each in appliance.asked] == [{"reference": "nginx:1", "digest": digest}]
    shown = "locked: the tag does not move" if digest else "yes"
    assert ended.code == 0, ended.err
    assert rows(ended.out) == ["REFERENCE DIGEST PINNED", f"docker.io/library/nginx:1 {DIGEST} {shown}"]


@pytest.mark.parametrize(
    ("before", "shown"), [("operator", "no longer"), (BUNDLE, "no longer; bundle sha256:bbbbbbbbbbbb had pinned it")]
)
def test_unpin_says_who_had_pinned_it(before: str, shown: str) -> None:
    """A bundle's pin goes as well, and that should be no surprise."""
    appliance = Appliance({"DELETE pins/ghcr.io/a%26b:%2A": {"pins": [UNPINNED | {"before": before}]}})
    ended = ask(appliance, "unpin", "ghcr.io/a&b:*")
    assert ended.code == 0, ended.err
    assert rows(ended.out)[1] == f"docker.io/library/nginx:1 {DIGEST} {shown}"


def test_unpin_says_when_nothing_was_pinned() -> None:
    """It is no error: it is as it should be."""
    ended = ask(Appliance({"DELETE pins/nginx": {"pins": []}}), "unpin", "nginx")
    assert (ended.code, ended.out, ended.err) == (0, "", "nginx was not pinned\n")


@pytest.mark.parametrize("as_json", [False, True])
def test_what_is_refused_keeps_no_other_from_being_unpinned(as_json: bool) -> None:
    """The exit status and standard error tell of it, standard output of what was done."""
    answers: dict[str, Any] = {"DELETE pins/x": REFUSED, "DELETE pins/nginx:1": {"pins": [UNPINNED]}}
    ended = ask(Appliance(answers), "unpin", "x", "nginx:1", *(["--json"] if as_json else []))
    assert (ended.code, ended.err) == (1, "pullcache: x is not held; pull it first, then pin it\n")
    if as_json:
        assert json.loads(ended.out) == {"pins": [UNPINNED]}
    else:
        assert len(rows(ended.out)) == 2


def test_something_has_to_be_named() -> None:
    """Nothing is no pattern."""
    with pytest.raises(SystemExit) as ended:
        ask(Appliance({}), "pin")
    assert ended.value.code == 2
