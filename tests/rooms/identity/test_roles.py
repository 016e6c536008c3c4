"""Tokens of operators: what a file may say, and that it is followed when it changes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from appliance.errors import ConfigError
from appliance.identity.roles import FILE_LIMIT, OperatorTokens, Role

LONG = "0123456789abcdef"


def tokens(path: Path, text: str) -> OperatorTokens:
    path.write_text(text)
    return OperatorTokens(path)


def found(held: OperatorTokens, token: str) -> tuple[str, str] | None:
    """Name and role of what a token gives."""
    grant = held.find(token)
    return None if grant is None else (grant.name, grant.role.word)


def rewrite(path: Path, text: str) -> None:
    """Replace the file as an operator does."""
    path.with_suffix(".new").write_text(text)
    os.replace(path.with_suffix(".new"), path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens"


def test_a_line_gives_a_role_to_a_token(file: Path) -> None:
    """Comments and empty lines do not count; a token alone manages."""
    held = tokens(file, f"# ours\n\nread a{LONG}\n operate\tb{LONG} \n{LONG}\n")
    assert found(held, f"a{LONG}") == ("token 1", "read")
    assert found(held, f"b{LONG}") == ("token 2", "operate")
    assert found(held, LONG) == ("token 3", "manage")
    for other in ("", "read", f"read a{LONG}", LONG[:-1], LONG + "0", "# ours", "é", "\udcff"):
        assert found(held, other) is None


def test_roles_are_ordered() -> None:
    """Who may do more may do all that is less."""
    assert Role.READ < Role.OPERATE < Role.MANAGE


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "manage",
        "admin hush-hush-hush-hush",
        "read hush-hush-hush-hush more",
        "read manage",
        "read hush\u00e9",
        "read " + "x" * 2000,
        "read hush-hush-hush-hush\nmanage hush-hush-hush-hush",
        "x" * (FILE_LIMIT + 1),
    ],
)
def test_a_file_that_is_not_understood_is_refused(file: Path, text: str) -> None:
    """With its path and what would be right, and nothing of what might be a token."""
    with pytest.raises(ConfigError) as refused:
        tokens(file, text)
    assert str(file) in str(refused.value) and "hush" not in str(refused.value) and "xxx" not in str(refused.value)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """With what the system says."""
    with pytest.raises(ConfigError, match="No such file"):
        OperatorTokens(tmp_path / "none")


def test_a_changed_file_is_in_force_at_once(file: Path) -> None:
    """A token that is gone opens nothing any more, also one that was looked up before."""
    held = tokens(file, f"read a{LONG}\n")
    before = held.find(f"a{LONG}")
    assert before is not None
    rewrite(file, f"operate b{LONG}\n")
    assert (found(held, f"a{LONG}"), found(held, f"b{LONG}")) == (None, ("token 1", "operate"))
    assert held.held(before.digest) is None
    rewrite(file, f"manage a{LONG}\n")
    again = held.held(before.digest)
    assert again is not None and again.role is Role.MANAGE


@pytest.mark.parametrize("text", ["manage\n", None])
def test_a_changed_file_that_cannot_be_used_leaves_the_old_one_in_force(
    file: Path, text: str | None, logged_errors: list[dict[str, Any]]
) -> None:
    """Which is said once; nothing of a token is in the log."""
    held = tokens(file, f"read a{LONG}\n")
    if text is None:
        file.unlink()
    else:
        rewrite(file, text)
    assert [found(held, f"a{LONG}") for _ in range(3)] == [("token 1", "read")] * 3
    [event] = logged_errors
    assert str(file) in str(event["error"]) and LONG not in str(event)
    logged_errors.clear()


def test_no_repr_has_a_token(file: Path) -> None:
    """What lands in a traceback says which token, and not what it is."""
    held = tokens(file, f"read a{LONG}\n")
    grant = held.find(f"a{LONG}")
    assert repr(grant) == "Grant(token 1, read)" and LONG not in repr(vars(held))
