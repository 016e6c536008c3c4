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


# -- remove ---------------------------------------------------------------------------------------------------------

REPORT: dict[str, Any] = {
    "images": [{"name": "docker.io/library/nginx:1", "digest": DIGEST, "why": "removed", "bytes": 30_000_000}],
    "blobs": [{"digest": DIGEST, "why": "removed", "bytes": 10_000_000}, {"digest": BUNDLE, "bytes": 20_000_000}],
    "stays": {"blobs": 4, "bytes": 120_000_000, "users": ["docker.io/library/nginx:1.27", "a:1"], "others": 1},
    "notes": [],
    "dryRun": False,
}


def test_remove_says_what_it_freed_and_what_others_use() -> None:
    """Bytes that stay are no surprise."""
    ended = ask(Appliance({"DELETE images/nginx:1": REPORT}), "remove", "nginx:1")
    assert ended.code == 0, ended.err
    assert rows(ended.out) == [
        "REFERENCE DIGEST FREES",
        "docker.io/library/nginx:1 sha256:aaaaaaaaaaaa 30.0 MB",
        "freed 2 blobs (30.0 MB)",
        "4 blobs (120 MB) stay: docker.io/library/nginx:1.27 and 2 other images use them",
    ]


@pytest.mark.parametrize(
    ("stays", "shown"),
    [
        ({"blobs": 0, "bytes": 0, "users": [], "others": 0}, None),
        ({"blobs": 1, "bytes": 5, "users": ["a:1"], "others": 0}, "1 blob (5 B) stays: a:1 uses it"),
        (
            {"blobs": 2, "bytes": 5, "users": ["a:1", "b:1"], "others": 0},
            "2 blobs (5 B) stay: a:1 and 1 other image use them",
        ),
        ({"blobs": 2, "bytes": 5, "users": [], "others": 0}, "2 blobs (5 B) stay: another image uses them"),
    ],
)
def test_remove_puts_what_stays_in_words(stays: Any, shown: str | None) -> None:
    """Nothing where nothing stays."""
    ended = ask(Appliance({"DELETE images/nginx:1": REPORT | {"stays": stays}}), "remove", "nginx:1")
    assert rows(ended.out)[3:] == ([] if shown is None else [shown])


@pytest.mark.parametrize("options", [[], ["--dry-run"], ["--force"], ["--dry-run", "--force"]])
def test_remove_passes_on_how_it_is_meant(options: list[str]) -> None:
    """A dry run says that it is one; notes stand on standard error."""
    dry = "--dry-run" in options
    appliance = Appliance({"DELETE images/nginx:1": REPORT | {"dryRun": dry, "notes": ["1 blobs stay: in use"]}})
    ended = ask(appliance, "remove", "nginx:1", *options)
    given = {name for name in ("dry_run", "force") if f"--{name.replace('_', '-')}" in options}
    assert appliance.asked[0].parameters == dict.fromkeys(given, "1")
    assert rows(ended.out)[2] == f"{'would free' if dry else 'freed'} 2 blobs (30.0 MB)"
    assert ended.err == "1 blobs stay: in use\n"


def test_remove_goes_on_behind_what_is_refused() -> None:
    """As JSON, one document of all that was not."""
    refused = Answer({"error": {"code": "not-removable", "message": "x is pinned: unpin it first"}}, 409)
    other = REPORT | {"notes": ["a note"], "blobs": []}
    answers: dict[str, Any] = {"DELETE images/x": refused, "DELETE images/a:1": REPORT, "DELETE images/b:1": other}
    ended = ask(Appliance(answers), "--json", "remove", "x", "a:1", "b:1")
    assert (ended.code, ended.err) == (1, "pullcache: x is pinned: unpin it first\na note\n")
    found = json.loads(ended.out)
    assert (found["images"], found["blobs"]) == (REPORT["images"] * 2, REPORT["blobs"])
    assert found["stays"] == REPORT["stays"] | {"blobs": 8, "bytes": 240_000_000, "others": 2}
    assert json.loads(ask(Appliance(answers), "--json", "remove", "a:1").out) == REPORT
