"""pullcache keygen, and the keys that other commands take."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from appliance.bundle.minisign import SecretKey, verify
from appliance.cli.failures import WrongUsage
from appliance.cli.keys import public_key, secret_key
from tests.rooms.cli.runs import run


def test_a_new_pair_signs_and_verifies(tmp_path: Path) -> None:
    """What NAME.key signs, NAME.pub verifies."""
    assert run("keygen", "-o", str(tmp_path / "site")).code == 0
    signature = secret_key(tmp_path / "site.key").sign(b"bundle", "comment")
    _, comment = verify(b"bundle", signature, [public_key(str(tmp_path / "site.pub"))])
    assert comment == "comment"


def test_the_secret_key_is_for_its_owner_only(tmp_path: Path) -> None:
    """No other user of this machine can read it, whatever my umask, and it is not printed."""
    ended = run("--json", "keygen", "-o", str(tmp_path / "site"))
    assert stat.S_IMODE((tmp_path / "site.key").stat().st_mode) == 0o600
    secret = (tmp_path / "site.key").read_text().splitlines()[1]
    assert secret not in ended.out + ended.err


@pytest.mark.parametrize("there", ["site.key", "site.pub"])
def test_a_key_is_never_replaced(tmp_path: Path, there: str) -> None:
    """A key that bundles were signed with cannot be lost by calling keygen twice."""
    (tmp_path / there).write_text("precious")
    ended = run("keygen", "-o", str(tmp_path / "site"))
    assert (ended.code, ended.err.count("\n")) == (1, 1)
    assert f"{there} exists" in ended.err
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(there, "precious")]


def test_a_folder_that_is_not_there_is_an_error_of_one_line(tmp_path: Path) -> None:
    """No traceback, no half pair."""
    ended = run("keygen", "-o", str(tmp_path / "no-such" / "site"))
    assert (ended.code, ended.err.count("\n")) == (1, 1)


def test_json_names_the_key_and_both_files(tmp_path: Path) -> None:
    """A script need not read words."""
    document = json.loads(run("keygen", "-o", str(tmp_path / "site"), "--json").out)
    assert public_key(document["public"]) == public_key(document["pub"])
    assert document["id"] == secret_key(Path(document["key"])).public.key_id


def test_a_public_key_may_be_given_as_its_line(tmp_path: Path) -> None:
    """I can paste the key that was read to me."""
    key = SecretKey.generate().public
    assert public_key(str(key)) == key


def test_what_is_no_key_is_wrong_usage(tmp_path: Path) -> None:
    """A file named by mistake is named in the error."""
    (tmp_path / "note").write_text("hello\n")
    with pytest.raises(WrongUsage, match="note"):
        public_key(str(tmp_path / "note"))
    with pytest.raises(WrongUsage, match="note"):
        secret_key(tmp_path / "note")
    with pytest.raises(WrongUsage, match="no such file"):
        public_key("missing.pub")


def test_a_public_key_is_not_taken_to_sign(tmp_path: Path) -> None:
    """Mixing up the two files is said before anything is exported."""
    run("keygen", "-o", str(tmp_path / "site"))
    with pytest.raises(WrongUsage, match=r"site\.pub"):
        secret_key(tmp_path / "site.pub")
