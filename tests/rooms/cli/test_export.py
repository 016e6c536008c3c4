"""pullcache export, against an appliance in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from appliance.bundle import bundlejson
from appliance.bundle.minisign import SecretKey, verify
from tests.rooms.cli import bundles
from tests.rooms.cli.runs import Answer, Appliance, Asked, Ended, ask, run

VOLUME = b"the bytes of a volume"


def offering(*volumes: bytes, **more: Any) -> Appliance:
    """An appliance that offers these volumes."""
    offered = [{"n": n, "file": f"weekly-0.v{n}.tar", "size": len(data)} for n, data in enumerate(volumes, 1)]
    answers: dict[str, Any] = {"POST exports": Answer({"id": "7", "volumes": offered, **more}, 201)}
    return Appliance(answers | {f"GET exports/7/volumes/{n}": Answer(data) for n, data in enumerate(volumes, 1)})


def ordered(tmp_path: Path, *arguments: str) -> Any:
    """What the appliance is asked for."""
    appliance = offering(VOLUME)
    ended = ask(appliance, "export", "-o", str(tmp_path / "a.tar"), *arguments)
    assert ended.code == 0, ended.err
    return appliance.asked[0].json()


def test_a_bundle_is_written_to_the_file_i_name(tmp_path: Path) -> None:
    """One file, whole, and its name and size on standard output."""
    ended = ask(offering(VOLUME), "export", "--all", "-o", str(tmp_path / "a.tar"))
    assert (ended.code, ended.out) == (0, f"{tmp_path}/a.tar  21 B\n")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.tar": VOLUME}


def test_what_is_fetched_first_is_followed_to_the_bundle(tmp_path: Path) -> None:
    """Lines of progress, then what is offered."""
    appliance = offering(VOLUME)
    offer = {
        "id": "7",
        "volumes": [{"n": 1, "file": "a.tar", "size": len(VOLUME)}],
        "unanswered": ["a/b:1"],
        "notes": ["w"],
    }
    steps = [{"stage": "fetching", "done": done, "total": 20, "entry": "a"} for done in (0, 10, 20)]
    appliance.answers["POST exports"] = Answer(
        b"".join(json.dumps(each).encode() + b"\n" for each in [*steps, {"export": offer}])
    )
    (tmp_path / "wants.json").write_text('{"wants": []}')
    ended = ask(appliance, "export", "--want", str(tmp_path / "wants.json"), "-o", str(tmp_path / "a.tar"))
    assert (ended.code, (tmp_path / "a.tar").read_bytes()) == (1, VOLUME)
    assert "fetching" in ended.err and "nothing of that is held: a/b:1" in ended.err


@pytest.mark.parametrize("lines", [[{"error": {"message": "no room"}}], [{"stage": "fetching"}]])
def test_an_export_that_ends_while_it_fetches_writes_nothing(tmp_path: Path, lines: list[Any]) -> None:
    """With the appliance's reason, or without one: exit 1, one line."""
    appliance = offering(VOLUME)
    appliance.answers["POST exports"] = Answer(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    ended = ask(appliance, "export", "--all", "--complete", "-o", str(tmp_path / "a.tar"))
    assert (ended.code, ended.err.count("\n"), list(tmp_path.iterdir())) == (1, 1, [])


def test_a_folder_takes_the_bundle_under_its_own_name(tmp_path: Path) -> None:
    """A stick that is mounted somewhere is enough of an answer."""
    assert ask(offering(VOLUME), "export", "--all", "-o", str(tmp_path)).code == 0
    assert [path.name for path in tmp_path.iterdir()] == ["weekly-0.v1.tar"]


def test_volumes_go_into_a_folder_that_is_made(tmp_path: Path) -> None:
    """Each volume is a file of its own."""
    ended = ask(offering(b"one", b"two"), "export", "--all", "--volume-size", "dvd", "-o", str(tmp_path / "discs"))
    assert ended.code == 0
    assert [path.read_bytes() for path in sorted((tmp_path / "discs").iterdir())] == [b"one", b"two"]


def test_several_volumes_do_not_fit_one_file(tmp_path: Path) -> None:
    """That is said before anything is written."""
    ended = ask(offering(b"1", b"2"), "export", "--all", "--volume-size", "1KB", "-o", str(tmp_path / "a.tar"))
    assert (ended.code, ended.err.count("\n"), list(tmp_path.iterdir())) == (1, 1, [])
    assert "2 volumes" in ended.err


def test_a_bundle_that_comes_short_is_not_kept(tmp_path: Path) -> None:
    """Fewer bytes than were announced: exit 1 and no file, whatever ended the transfer."""
    appliance = offering(VOLUME)
    appliance.answers["GET exports/7/volumes/1"] = Answer(VOLUME[:-1])
    ended = ask(appliance, "export", "--all", "-o", str(tmp_path / "a.tar"))
    assert (ended.code, list(tmp_path.iterdir())) == (1, [])
    assert "20 bytes came of 21" in ended.err


def test_a_volume_cannot_be_written_elsewhere(tmp_path: Path) -> None:
    """An answer with ../ in a file's name leads nowhere."""
    appliance = offering(VOLUME)
    appliance.answers["POST exports"] = {"id": "7", "volumes": [{"n": 1, "file": "../evil.tar", "size": 21}]}
    assert ask(appliance, "export", "--all", "-o", str(tmp_path / "in") + "/").code == 1
    assert not (tmp_path / "evil.tar").exists()


def test_too_small_a_medium_is_said_before_it_is_filled(tmp_path: Path) -> None:
    """I learn at once, and not after an hour, that the stick is too small."""
    appliance = offering(VOLUME)
    appliance.answers["POST exports"] = {"id": "7", "volumes": [{"n": 1, "file": "a.tar", "size": 10**18}]}
    ended = ask(appliance, "export", "--all", "-o", str(tmp_path / "a.tar"))
    assert ended.code == 1
    assert "1000 PB are needed" in ended.err
    assert len(appliance.asked) == 1


def test_what_is_left_out_is_named_and_makes_the_exit_status(tmp_path: Path) -> None:
    """The bundle of the others is written, and is not taken for all of it."""
    left_out = [{"ref": "docker.io/library/half:1", "why": "not whole", "missing": [{"digest": "d", "size": 2000}]}]
    ended = ask(offering(VOLUME, leftOut=left_out), "export", "--all", "-o", str(tmp_path / "a.tar"))
    assert (ended.code, (tmp_path / "a.tar").read_bytes()) == (1, VOLUME)
    assert "left out: docker.io/library/half:1: not whole (1 blob, 2.00 kB)" in ended.err
    assert "--complete" in ended.err


def test_json_tells_files_and_what_is_left_out(tmp_path: Path) -> None:
    """For scripts: one document on standard output, and no words on it."""
    left_out = [{"ref": "a:1", "why": "not held", "missing": []}]
    ended = ask(offering(VOLUME, leftOut=left_out), "--json", "export", "--all", "-o", str(tmp_path / "a.tar"))
    document = json.loads(ended.out)
    assert document["volumes"] == [{"n": 1, "file": str(tmp_path / "a.tar"), "size": 21}]
    assert document["leftOut"] == left_out


# -- what is asked for ------------------------------------------------------------------------------------------------


def test_options_become_the_order(tmp_path: Path) -> None:
    """Each option arrives, in bytes and seconds."""
    arguments = ("nginx", "ghcr.io/**", "--since", "7d", "--platform", "linux/arm64", "--platform", "linux/amd64")
    more = ("--volume-size", "fat32", "--title", "weekly", "--partial", "--complete")
    assert ordered(tmp_path, *arguments, *more) == {
        "refs": ["nginx", "ghcr.io/**"],
        "since": 604800.0,
        "platforms": ["linux/arm64", "linux/amd64"],
        "volumeSize": 2**32 - 1,
        "title": "weekly",
        "partial": True,
        "complete": True,
    }


def test_a_list_file_may_have_comments(tmp_path: Path) -> None:
    """The list that is kept under version control says why a line is in it."""
    (tmp_path / "list").write_text("# base\nnginx:1  # web\n\nredis\n")
    assert ordered(tmp_path, "alpine", "--list", str(tmp_path / "list"))["refs"] == ["alpine", "nginx:1", "redis"]


def test_the_papers_of_the_other_side_are_handed_in(tmp_path: Path) -> None:
    """Inventory and wants go to the appliance as they came."""
    for name in ("have", "want"):
        (tmp_path / name).write_text(json.dumps({name: 1}))
    order = ordered(tmp_path, "--have", str(tmp_path / "have"), "--want", str(tmp_path / "want"))
    assert order == {"have": {"have": 1}, "want": {"want": 1}}


def test_of_a_base_bundle_the_digests_are_handed_in(tmp_path: Path) -> None:
    """The earlier bundle may lie on another machine than the appliance."""
    bundle = bundles.bundle()
    order = ordered(tmp_path, "--all", "--base", str(bundles.single(tmp_path / "base.tar")))
    assert order["base"] == [{"id": bundle.id, "blobs": [blob.digest for blob in bundle.blobs]}]


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--title", "x"),
        ("--all", "--since", "7"),
        ("--all", "--volume-size", "4 gigs"),
        ("--all", "--have", "no-such-file"),
        ("--list", "no-such-file"),
        ("--all", "--have", "/dev/null", "--base", "/dev/null"),
        ("--all", "--have", "/dev/null"),
        ("--all", "--sign", "/dev/null"),
    ],
)
def test_wrong_usage_asks_no_appliance(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Exit 2, and the appliance is left in peace."""
    appliance = offering(VOLUME)
    assert status_of(appliance, "export", "-o", str(tmp_path / "a.tar"), *arguments) == 2
    assert appliance.asked == []


def status_of(appliance: Appliance, *arguments: str) -> Any:
    """The exit status, of argparse's own refusals too."""
    try:
        return ask(appliance, *arguments).code
    except SystemExit as end:
        return end.code


# -- signatures -------------------------------------------------------------------------------------------------------


class Signing(Appliance):
    """An appliance whose volume is the signature it was given."""

    def __init__(self) -> None:
        self.document = bundlejson.encode(bundles.bundle())
        super().__init__({"GET exports/7/document": Answer(self.document), "PUT exports/7/signature": Answer(b"", 204)})
        self._offer(b"")

    def _offer(self, volume: bytes) -> None:
        offer = {"id": "7", "volumes": [{"n": 1, "file": "a.tar", "size": len(volume)}]}
        self.answers |= {"POST exports": offer, "GET exports/7": offer, "GET exports/7/volumes/1": Answer(volume)}

    def render(self, request: Any) -> bytes:
        """Take the signature."""
        answer = super().render(request)
        if self.asked[-1].method == "PUT":
            self._offer(self.asked[-1].body)
        return answer


def signed(tmp_path: Path) -> tuple[Signing, Ended]:
    """An export that is signed with a new key."""
    run("keygen", "-o", str(tmp_path / "k"))
    appliance = Signing()
    sign = ("--sign", str(tmp_path / "k.key"))
    return appliance, ask(appliance, "export", "--all", "-o", str(tmp_path / "a.tar"), *sign)


def test_the_list_of_contents_is_signed_here(tmp_path: Path) -> None:
    """The volume carries a signature that my public key verifies, with the bundle's id in its comment."""
    appliance, ended = signed(tmp_path)
    assert ended.code == 0, ended.err
    key = SecretKey.load((tmp_path / "k.key").read_text()).public
    _, comment = verify(appliance.document, (tmp_path / "a.tar").read_text(), [key])
    assert bundles.bundle().id in comment


def test_the_secret_key_stays_here(tmp_path: Path) -> None:
    """Nothing of it is sent to the appliance."""
    appliance, _ = signed(tmp_path)
    secret = (tmp_path / "k.key").read_text().splitlines()[1].encode()
    asked: list[Asked] = appliance.asked
    assert asked and all(secret not in each.body for each in asked)
