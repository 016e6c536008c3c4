"""pullcache import, against an appliance in memory."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from appliance.bundle.minisign import SecretKey
from appliance.bundle.receipt import Change, Receipt
from tests.rooms.cli.runs import Answer, Appliance, ask

OLD, NEW = "sha256:" + "1" * 64, "sha256:" + "2" * 64


def change(name: str, outcome: Any, previous: str | None = None, **more: Any) -> Change:
    return Change(
        name=f"docker.io/library/{name}:1",
        upstream="docker.io",
        repository=f"library/{name}",
        tag="1",
        digest=NEW,
        outcome=outcome,
        previous=previous,
        **more,
    )


def receipt(*refs: Change, **more: Any) -> Receipt:
    bundle = "sha256:" + "b" * 64
    return Receipt(bundle=bundle, format="pullcache bundle", files=["/a.tar"], finished="now", refs=list(refs), **more)


def answering(*lines: Any) -> Appliance:
    """An appliance that says C{lines} while it imports."""
    encoded = [each.encode() if isinstance(each, Receipt) else json.dumps(each).encode() for each in lines]
    return Appliance({"POST imports": Answer(b"".join(line + b"\n" for line in encoded))})


def ending(result: Receipt) -> Appliance:
    return answering({"receipt": json.loads(result.encode())})


def test_the_appliance_is_sent_absolute_paths(tmp_path: Path, monkeypatch: Any) -> None:
    """A name that is relative to my folder means the same file to the appliance."""
    monkeypatch.chdir(tmp_path)
    appliance = ending(receipt())
    assert ask(appliance, "import", "a.tar", "../b.tar", "/c.tar").code == 0
    assert appliance.asked[0].json()["files"] == [f"{tmp_path}/a.tar", f"{tmp_path}/../b.tar", "/c.tar"]


def test_options_become_the_order(tmp_path: Path) -> None:
    """Each option arrives; a key file as the key in it, which the appliance need not be able to read."""
    key = SecretKey.generate().public
    (tmp_path / "k.pub").write_text(key.dump())
    appliance = ending(receipt())
    trust = ("--trust", str(tmp_path / "k.pub"))
    ask(appliance, "import", "/a", "--dry-run", *trust, "--as", "docker.io/a/b:1", "--on-existing-tag", "keep")
    assert appliance.asked[0].json() == {
        "files": ["/a"],
        "dryRun": True,
        "trust": [str(key)],
        "as": "docker.io/a/b:1",
        "onExistingTag": "keep",
    }


def test_renames_are_sent_as_a_mapping() -> None:
    """Each given once; the same twice is no mistake."""
    appliance = ending(receipt())
    renames = ("--rename", "a.corp:5000/x=docker.io/x", "--rename", "b.corp=ghcr.io", "--rename", "b.corp=ghcr.io")
    ask(appliance, "import", "/a", *renames)
    assert appliance.asked[0].json()["rename"] == {"a.corp:5000/x": "docker.io/x", "b.corp": "ghcr.io"}


@pytest.mark.parametrize(
    "given", [["a.corp"], ["=b"], ["a="], ["a/=b"], ["a=b:c"], ["a=B"], ["a=b=c"], ["a=b", "a=c"], ["a:tag/x=b"]]
)
def test_a_rename_that_makes_no_sense_is_wrong_usage(given: list[str], capsys: Any) -> None:
    """Exit 2, and no appliance is asked."""
    appliance = ending(receipt())
    try:
        code = ask(appliance, "import", "/a", *(word for each in given for word in ("--rename", each))).code
    except SystemExit as end:
        code = end.code
    assert code == 2 and appliance.asked == []


def test_the_name_in_the_archive_is_shown_where_it_is_another() -> None:
    """Before and after the import I see what became of what."""
    ended = ask(
        ending(receipt(change("nginx", "new", renamed_from="cache:5000/docker.io/library/nginx:1"))), "import", "/a"
    )
    assert "docker.io/library/nginx:1 is called cache:5000/docker.io/library/nginx:1 in the archive" in ended.out


def test_a_dry_run_under_an_upstream_that_is_not_configured_fails() -> None:
    """As the import itself would."""
    assert ask(ending(receipt(dry_run=True, unknown_upstreams=["a.corp"])), "import", "--dry-run", "/a.tar").code == 1


def test_the_receipt_shows_old_and_new_digests() -> None:
    """I see which tags moved, and from where to where."""
    ended = ask(ending(receipt(change("nginx", "moved", OLD), change("redis", "new"))), "import", "/a.tar")
    assert ended.code == 0
    rows = [line.split() for line in ended.out.splitlines()]
    assert ["docker.io/library/nginx:1", "sha256:111111111111", "->", "sha256:222222222222", "moved"] in rows
    assert ["docker.io/library/redis:1", "-", "->", "sha256:222222222222", "new"] in rows


def test_a_tag_that_was_kept_shows_what_it_still_means() -> None:
    """A kept tag is not read as a moved one."""
    ended = ask(ending(receipt(change("nginx", "kept", OLD))), "import", "/a.tar")
    assert "sha256:111111111111  <-  sha256:222222222222  kept" in ended.out


def test_a_rebuilt_manifest_is_said_to_be_one() -> None:
    """The digest of an image from docker save is not the original's, and the receipt says so."""
    assert "manifest rebuilt" in ask(ending(receipt(change("nginx", "new", rebuilt=True))), "import", "/a.tar").out


def test_signatures_do_not_crowd_the_table() -> None:
    """They are counted."""
    out = ask(ending(receipt(change("nginx", "new"), change("sig", "new", refers=True))), "import", "/a.tar").out
    assert "library/sig" not in out and "1 signature" in out


def test_json_is_the_receipt_itself() -> None:
    """What is kept beside the bundle is what is printed."""
    result = receipt(change("nginx", "new"), id="7")
    assert json.loads(ask(ending(result), "import", "--json", "/a.tar").out) == json.loads(result.encode())


def test_a_dry_run_that_finds_a_gap_fails() -> None:
    """Exit 1, and each digest that is missing."""
    ended = ask(ending(receipt(dry_run=True, missing=[OLD])), "import", "--dry-run", "/a.tar")
    assert ended.code == 1
    assert f"missing: {OLD}" in ended.err


@pytest.mark.parametrize("said", [{"code": "bundle-damaged", "message": "a.tar: cut off"}, "a.tar: cut off"])
def test_a_refusal_is_one_line(said: Any) -> None:
    """Whether it comes at once or half-way, the reason is the appliance's own, and the exit status 1."""
    half_way = ask(answering({"error": said}), "import", "/a.tar")
    at_once = ask(Appliance({"POST imports": Answer({"error": said}, 422)}), "import", "/a.tar")
    assert (half_way.code, half_way.err) == (1, "pullcache: a.tar: cut off\n")
    assert (at_once.code, at_once.err) == (1, "pullcache: a.tar: cut off\n")


def test_an_import_without_a_receipt_has_failed() -> None:
    """An appliance that dies half-way is not taken for one that is done."""
    ended = ask(answering(), "import", "/a.tar")
    assert ended.code == 1
    assert "import again" in ended.err


def test_a_proxy_that_answers_in_html_is_found_out() -> None:
    """Something else than an appliance at that address is said to be something else."""
    ended = ask(Appliance({"POST imports": Answer(b"<html>")}), "import", "/a.tar")
    assert ended.code == 1
    assert "is it a pullcache admin endpoint" in ended.err


def test_an_unknown_upstream_is_reported() -> None:
    """I should know what to configure."""
    assert "quay.io" in ask(ending(receipt(unknown_upstreams=["quay.io"])), "import", "/a.tar").err


def test_the_command_looks_at_a_path_before_it_asks(tmp_path: Path) -> None:
    """The appliance does not say what is on its disk; what is to be seen from here is said all the same."""
    (tmp_path / "good.tar").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe")
    appliance = Appliance(
        {"POST imports": Answer({"error": {"code": "bundle-unreadable", "message": "it cannot be opened"}})}
    )
    ended = ask(appliance, "import", *(f"{tmp_path}/{name}" for name in ("good.tar", "absent.tar", "pipe")))
    assert ended.code == 1 and len(appliance.asked) == 1
    assert ended.err.splitlines() == [
        f"{tmp_path}/absent.tar: No such file or directory, as seen from here",
        f"{tmp_path}/pipe: is neither a file nor a folder, as seen from here",
        "pullcache: it cannot be opened",
    ]


def test_a_name_that_is_not_utf8_is_said_to_be(tmp_path: Path) -> None:
    """It cannot be asked for over JSON; no appliance is asked."""
    appliance = ending(receipt())
    ended = ask(appliance, "import", f"{tmp_path}/caf\udce9.tar")
    assert ended.code == 1 and "is not UTF-8" in ended.err and appliance.asked == []
