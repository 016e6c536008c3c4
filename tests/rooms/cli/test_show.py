"""pullcache status, list, show, inventory and wants, against an appliance in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from twisted.web.server import Request

from tests.rooms.cli.runs import URL, Answer, Appliance, ask

DIGEST = "sha256:" + "a" * 64
CHILD = "sha256:" + "c" * 64
PLATFORMS = [
    {"platform": "linux/amd64", "digest": DIGEST, "state": "held", "missing": 0},
    {"platform": "linux/arm64", "digest": CHILD, "state": "incomplete", "missing": 2},
    {"platform": "linux/s390x", "digest": CHILD, "state": "absent", "missing": 0},
]
IMAGE: dict[str, Any] = {
    "name": "docker.io/library/nginx:1.27",
    "upstream": "docker.io",
    "repository": "library/nginx",
    "tag": "1.27",
    "digest": DIGEST,
    "mediaType": "application/vnd.oci.image.index.v1+json",
    "size": 70_000_000,
    "platforms": PLATFORMS,
    "offline": False,
    "pulls": 3,
    "lastPulled": "2026-11-20T07:00:00Z",
    "pinned": None,
}
DETAIL = {
    "image": IMAGE,
    "missing": [{"digest": CHILD, "size": 5000, "kind": "layer"}],
    "referrers": [
        {"digest": CHILD, "artifactType": "application/sig", "subject": DIGEST, "size": 5000, "state": "held"},
        {"digest": DIGEST, "mediaType": "m", "subject": CHILD, "tag": "x.sig", "state": "incomplete", "missing": 1},
        {"digest": DIGEST, "subject": CHILD, "state": "absent"},
    ],
    "verifiable": "incomplete",
    "warning": None,
    "tagged": "2026-11-19T07:00:00Z",
    "checked": None,
}
STATUS = {
    "version": "1.2",
    "site": "site-a",
    "started": "2026-11-20T07:00:00Z",
    "uptime": 3700.0,
    "offline": True,
    "upstreams": [
        {
            "name": "docker.io",
            "aliases": [],
            "urls": [
                {
                    "url": "https://x",
                    "health": "down",
                    "since": "2026-11-20T07:30:00Z",
                    "fault": "GET https://x/v2/: the server closed the connection",
                    "next": "2026-11-20T08:01:45Z",
                },
                {"url": "https://y", "health": "up", "since": "2026-11-20T07:00:00Z", "fault": "", "next": None},
            ],
            "kind": "distribution",
            "offline": False,
            "rateLimit": {"limit": 100, "remaining": 20, "window": 21600.0},
            "resting": ["library/nginx", "library/redis"],
        },
        {
            "name": "quay.io",
            "aliases": [],
            "urls": [{"url": "https://q", "health": None, "since": None, "fault": "", "next": None}],
            "kind": "distribution",
            "offline": True,
            "rateLimit": None,
            "resting": [],
        },
    ],
    "flights": 1,
    "storeBytes": 1_500_000,
    "counts": {"repositories": 1, "tags": 2, "manifests": 3, "wants": 4},
    "damaged": [{"document": "a.json", "keptAs": "b.json"}],
}


def test_list_says_which_platforms_can_be_served_offline() -> None:
    """Before the link goes away, one look shows what I have, and what I have only half of."""
    ended = ask(Appliance({"GET images": {"images": [IMAGE]}}), "list")
    assert ended.code == 0
    row = ended.out.splitlines()[1]
    assert row.split()[:5] == ["docker.io/library/nginx:1.27", "sha256:aaaaaaaaaaaa", "70.0", "MB", "2026-11-20"]
    assert row.endswith("linux/amd64 linux/arm64 (incomplete)")


def test_list_and_show_say_what_is_on_its_way() -> None:
    """What clients did not ask for of an image that they pulled is coming; I have to do nothing but wait."""
    coming = [each | {"fetching": each["state"] == "incomplete"} for each in PLATFORMS]
    image = IMAGE | {"platforms": coming, "fetching": True}
    chart = IMAGE | {"platforms": [], "fetching": True}
    out = ask(Appliance({"GET images": {"images": [image, chart]}}), "list").out
    assert [line.split("  ")[-1].strip() for line in out.splitlines()[1:]] == [
        "linux/amd64 linux/arm64 (on its way)",
        "no (on its way)",
    ]
    out = ask(Appliance({"GET images/nginx": DETAIL | {"image": image}}), "show", "nginx").out
    assert f"linux/arm64 incomplete, 2 blobs missing (on its way) {CHILD}" in [
        " ".join(line.split()) for line in out.splitlines()
    ]


@pytest.mark.parametrize(
    ("marks", "shown"),
    [
        ({}, "-"),
        ({"pinned": DIGEST}, "bundle"),
        ({"pinned": "operator"}, "operator"),
        ({"pinned": "operator", "locked": True}, "locked"),
    ],
)
def test_list_says_how_often_it_was_pulled_and_what_keeps_it(marks: dict[str, Any], shown: str) -> None:
    """Beside its size and the last pull: that is what retention goes by."""
    heading, row = ask(Appliance({"GET images": {"images": [IMAGE | marks]}}), "list").out.splitlines()
    assert heading.split() == ["REFERENCE", "DIGEST", "SIZE", "LAST", "PULLED", "PULLS", "PINNED", "OFFLINE"]
    assert row.split()[4:8] == ["2026-11-20", "07:00", "3", shown]


@pytest.mark.parametrize("order", ["size", "last-pulled", "pulls"])
def test_list_is_sorted_by_the_appliance(order: str) -> None:
    """It comes whole, in that order."""
    images = [IMAGE | {"name": f"app:{number}"} for number in (2, 1, 3)]
    appliance = Appliance({"GET images": {"images": images}})
    out = ask(appliance, "list", "--sort", order, "app").out
    assert [each.parameters for each in appliance.asked] == [{"pattern": "app", "sort": order}]
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["app:2", "app:1", "app:3"]


@pytest.mark.parametrize("options", [("list",), ("--json", "list")])
def test_list_takes_page_after_page(options: tuple[str, ...]) -> None:
    """However many there are: what is shown is one list, and each page is asked for behind the one before."""

    class Paged(Appliance):
        def render(self, request: Request) -> bytes:
            last = int(request.args.get(b"last", [b"0"])[0])
            page = {"images": [IMAGE | {"name": f"app:{last + 1}"}]} | ({} if last == 2 else {"next": str(last + 1)})
            self.answers = {"GET images": page}
            return super().render(request)

    appliance = Paged({})
    ended = ask(appliance, *options)
    assert [each.parameters.get("last") for each in appliance.asked] == [None, "1", "2"]
    if "--json" in options:
        found = json.loads(ended.out)
        assert set(found) == {"images"}
        assert [each["name"] for each in found["images"]] == ["app:1", "app:2", "app:3"]
    else:
        assert [line.split()[0] for line in ended.out.splitlines()] == ["REFERENCE", "app:1", "app:2", "app:3"]


def test_list_takes_a_pattern() -> None:
    """The pattern is the appliance's to understand."""
    appliance = Appliance({"GET images": {"images": []}})
    ended = ask(appliance, "list", "ghcr.io/a&b/*:1.*")
    assert appliance.asked[0].parameters == {"pattern": "ghcr.io/a&b/*:1.*", "n": "500"}
    assert (ended.code, ended.out, ended.err) == (0, "", "nothing of that is held\n")


def test_an_image_of_no_known_platform_says_yes_or_no() -> None:
    """A chart or another artifact has no platform, and can be served or not."""
    charts = [IMAGE | {"platforms": [], "offline": offline} for offline in (True, False)]
    out = ask(Appliance({"GET images": {"images": charts}}), "list").out
    assert [line.split()[-1] for line in out.splitlines()[1:]] == ["yes", "no"]


@pytest.mark.parametrize("reference", ["nginx:1.27", "docker.io/library/nginx:1.27", f"nginx@{DIGEST}"])
def test_show_tells_all_of_one_image(reference: str) -> None:
    """Platforms held and absent, referrers, what is missing, whole digests to copy."""
    ended = ask(Appliance({f"GET images/{reference}": DETAIL}), "show", reference)
    assert ended.code == 0, ended.err
    lines = [" ".join(line.split()) for line in ended.out.splitlines()]
    assert f"digest {DIGEST}" in lines
    assert f"linux/amd64 held {DIGEST}" in lines
    assert f"linux/arm64 incomplete, 2 blobs missing {CHILD}" in lines
    assert f"linux/s390x absent {CHILD}" in lines
    assert f"layer 5.00 kB {CHILD}" in lines
    assert f"{CHILD} application/sig 5.00 kB held -" in lines
    assert f"{DIGEST} m 0 B incomplete, 1 blob missing x.sig" in lines
    assert f"{DIGEST} - 0 B absent -" in lines
    assert "verifiable not wholly: 2 of 3 referrers cannot be served offline" in lines
    assert "pulled 3 times, last 2026-11-20 07:00" in lines


@pytest.mark.parametrize(
    ("verifiable", "warning", "shown"),
    [
        ("yes", None, "verifiable offline, with 3 referrers"),
        ("yes", "only what is held", "verifiable offline, with 3 referrers (only what is held)"),
        ("nothing", None, "verifiable nothing refers to it, its upstream said"),
        ("unknown", None, "verifiable unknown: its upstream never said what refers to it, and nothing of that is held"),
        ("", None, None),
    ],
)
def test_show_tells_whether_signatures_can_be_verified_offline(
    verifiable: str, warning: str | None, shown: str | None
) -> None:
    """Nothing that refers to it, and nothing that is known of it, are two things; an older appliance says neither."""
    found = DETAIL | {"verifiable": verifiable, "warning": warning}
    lines = [
        " ".join(line.split()) for line in ask(Appliance({"GET images/a:1": found}), "show", "a:1").out.splitlines()
    ]
    assert [line for line in lines if line.startswith("verifiable")] == ([] if shown is None else [shown])


def test_show_tells_how_a_tag_moved_and_what_keeps_it() -> None:
    """When, by whom, from what to what, with whole digests; and what its upstream says of a locked one."""
    moves = [
        {"at": "2026-11-20T07:00:00Z", "from": DIGEST, "to": CHILD, "by": "upstream", "refused": True},
        {"at": "2026-11-19T07:00:00Z", "from": CHILD, "to": DIGEST, "by": f"sha256:{'b' * 64}", "refused": False},
    ]
    image = IMAGE | {"pinned": "operator", "locked": True}
    found = DETAIL | {"image": image, "moves": moves, "upstreamDigest": CHILD}
    out = ask(Appliance({"GET images/a:1": found}), "show", "a:1").out
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "pinned by an operator; locked: the tag does not move" in lines
    assert f"upstream says {CHILD} instead, which is not served" in lines
    assert f"2026-11-20 07:00 upstream {DIGEST} {CHILD} (refused)" in lines
    assert f"2026-11-19 07:00 bundle sha256:bbbbbbbbbbbb {CHILD} {DIGEST}" in lines


def test_an_image_that_is_not_held_is_an_error_of_one_line() -> None:
    """The appliance's own words, exit 1."""
    answer = Answer({"error": {"code": "not-held", "message": "x:1 is not held"}}, 404)
    ended = ask(Appliance({"GET images/x:1": answer}), "show", "x:1")
    assert (ended.code, ended.out, ended.err) == (1, "", "pullcache: x:1 is not held\n")


def test_status_tells_how_the_appliance_is() -> None:
    """Where it is, since when, what it holds, what was asked for in vain, what broke."""
    ended = ask(Appliance({"GET status": STATUS}), "status")
    assert ended.code == 0
    held = "2 tags, 3 manifests in 1 repository; 1.50 MB"
    for shown in (URL, "offline", "1 h 1 min ago", held, "1 transfer", "4 ref"):
        assert shown in ended.out
    assert "damaged: a.json" in ended.err


def test_status_tells_what_is_left_over_and_which_tags_are_kept_from_moving() -> None:
    """Bytes that are no image's, by kind; nothing of it where there is nothing."""
    left = {"beginnings": {"count": 2, "bytes": 5000}, "staged": {"count": 1, "bytes": 7}, "documents": {"count": 0}}
    refused = {"name": "docker.io/library/nginx:1", "digest": DIGEST, "since": "2026-11-20T07:00:00Z"}
    ended = ask(Appliance({"GET status": STATUS | {"leftOver": left, "refused": [refused]}}), "status")
    lines = [" ".join(line.split()) for line in ended.out.splitlines()]
    assert "left over 2 blobs of cut fetches (5.00 kB), 1 blob of a cut import (7 B)" in lines
    assert f"locked: docker.io/library/nginx:1: its upstream says {DIGEST}, which is not served\n" in ended.err
    assert "left over" not in ask(Appliance({"GET status": STATUS}), "status").out


def test_status_tells_what_waits_in_the_inbox() -> None:
    """Each archive with its reason, and when it is tried again."""
    full = {"files": ["a.tar"], "kind": "BundleNotStored", "reason": "make room", "next": "2026-11-20T08:01:45Z"}
    volumes = {"files": ["m.v01of02.tar"], "kind": "", "reason": "of 2 volumes these are not here yet: 2"}
    ended = ask(Appliance({"GET status": STATUS | {"inbox": [full, volumes]}}), "status")
    assert "inbox: a.tar: make room (tried again in 5 s)" in ended.err
    assert "inbox: m.v01of02.tar: of 2 volumes these are not here yet: 2\n" in ended.err


def test_status_shows_upstreams_and_outages() -> None:
    """One line a URL, then why one is down, how many pulls are left, and which repositories rest."""
    lines = ask(Appliance({"GET status": STATUS}), "status").out.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("UPSTREAM"))
    assert [line.split() for line in lines[start : start + 4]] == [
        ["UPSTREAM", "STATE", "SINCE", "NEXT", "URL"],
        ["docker.io", "down", "2026-11-20", "07:30", "in", "5", "s", "https://x"],
        ["docker.io", "up", "2026-11-20", "07:00", "-", "https://y"],
        ["quay.io", "offline", "-", "-", "https://q"],
    ]
    assert lines[start + 4 :] == [
        "docker.io: GET https://x/v2/: the server closed the connection",
        "docker.io: 20 of 100 pulls in 6 h are left",
        "docker.io: fewer requests were wanted for library/nginx, library/redis",
    ]


@pytest.mark.parametrize(
    ("path", "document", "arguments"),
    [("status", STATUS, ["status"]), ("images", {"images": []}, ["list"]), ("images/a:1", DETAIL, ["show", "a:1"])],
)
def test_json_is_what_the_appliance_says(path: str, document: Any, arguments: list[str]) -> None:
    """Nothing is lost between the API and a script that uses the command, before the command or after it."""
    for line in (["--json", *arguments], [*arguments, "--json"]):
        assert json.loads(ask(Appliance({f"GET {path}": document}), *line).out) == document


def test_an_answer_of_another_version_is_said_to_be_one() -> None:
    """No traceback when the appliance speaks otherwise."""
    ended = ask(Appliance({"GET images": {"images": [{"title": 1}]}}), "list")
    assert (ended.code, ended.err.count("\n")) == (1, 1)


# -- the return path --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "document", "shown"),
    [("wants", {"wants": [{}]}, "1 want"), ("inventory", {"blobs": [{}, {}]}, "2 blobs")],
)
def test_the_papers_are_written_as_they_came(tmp_path: Path, name: str, document: Any, shown: str) -> None:
    """The other side reads exactly what this side said."""
    body = json.dumps(document, indent=3).encode()
    ended = ask(Appliance({f"GET {name}": Answer(body)}), name, "-o", str(tmp_path / "paper"))
    assert ended.code == 0, ended.err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"paper": body}
    assert shown in ended.out


def test_a_dash_is_standard_output() -> None:
    """It can be piped, to a printer if need be."""
    assert ask(Appliance({"GET wants": Answer(b'{"wants":[]}')}), "wants", "-o", "-").out == '{"wants":[]}'


def test_something_else_than_a_paper_is_not_kept(tmp_path: Path) -> None:
    """An error page is not carried across the gap."""
    ended = ask(Appliance({"GET wants": Answer(b"<html>")}), "wants", "-o", str(tmp_path / "paper"))
    assert (ended.code, list(tmp_path.iterdir())) == (1, [])


HOSTILE = "\x1b]0;x\x07\x9b2J\u202eexe.\u2066\u2069\u200f\u061c"


@pytest.mark.parametrize("command", [("list",), ("show", "nginx"), ("status",), ("wants", "-o", "-")])
@pytest.mark.parametrize("as_json", [True, False])
def test_no_name_drives_my_terminal(command: tuple[str, ...], as_json: bool) -> None:
    """Neither in a table nor in JSON, where it still says the same."""
    image = {**IMAGE, "name": HOSTILE, "mediaType": HOSTILE}
    status = {**STATUS, "site": HOSTILE}
    wants = {"site": HOSTILE, "wants": []}
    answers = {"images": {"images": [image]}, "images/nginx": {**DETAIL, "image": image}, "status": status}
    raw = json.dumps(wants, ensure_ascii=False).encode()
    appliance = Appliance({f"GET {path}": answer for path, answer in answers.items()} | {"GET wants": Answer(raw)})
    ended = ask(appliance, *command, *(["--json"] if as_json else []))
    assert ended.code == 0
    assert all(line.isprintable() for line in (ended.out + ended.err).split("\n"))
    if as_json or command[0] == "wants":
        assert HOSTILE in str(list(json.loads(ended.out).values())) or repr(HOSTILE)[1:-1] in repr(
            json.loads(ended.out)
        )
