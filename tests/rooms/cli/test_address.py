"""Where the command finds its appliance, and what it shows there."""

from __future__ import annotations

import socket
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from appliance.cli import main
from appliance.cli.address import ADMIN, DEFAULT_ADMIN, TOKEN_FILE, AdminAddress, admin_address, agent_for, token_of
from appliance.cli.client import AdminClient
from appliance.cli.command import Session
from appliance.cli.failures import WrongUsage
from appliance.cli.screen import Screen
from tests.doubles.deferreds import result


def test_the_option_wins_over_the_environment_and_that_over_the_default(tmp_path: Path) -> None:
    """Each may name a socket or a URL; a URL's last slash does not count."""
    path = str(tmp_path / "admin.sock")
    variables = {ADMIN: "http://b.example:1/"}
    assert admin_address("unix:/a", variables, path).name == "unix:/a"
    assert admin_address(None, variables, path) == AdminAddress("http://b.example:1", "http://b.example:1")
    assert admin_address(None, {ADMIN: ""}, path) == AdminAddress(DEFAULT_ADMIN, DEFAULT_ADMIN)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        # A file on which no process listens is what a kill leaves.
        left = admin_address(None, {}, path)
        assert left.name == DEFAULT_ADMIN and f"at {path} no appliance answers" in left.note
        listening.listen()
        assert admin_address(None, {}, path) == AdminAddress(f"unix:{path}", "http://localhost", path)
        assert admin_address("http://c.example", {}, path).name == "http://c.example"


def test_who_may_not_open_the_socket_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The URL is asked then, where another appliance may answer."""

    def forbidden(self: socket.socket, address: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("appliance.cli.address.socket.socket.connect", forbidden)
    address = admin_address(None, {}, "/run/x.sock")
    assert (address.name, address.path) == (DEFAULT_ADMIN, None)
    assert "/run/x.sock cannot be opened" in address.note and f"{DEFAULT_ADMIN} is asked instead" in address.note


def test_the_command_says_so_before_it_asks_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each time: what it then shows may be another appliance's."""

    async def ask(session: Session, options: Namespace) -> int:
        return 0

    monkeypatch.setattr(main, "admin_address", lambda option: AdminAddress(DEFAULT_ADMIN, DEFAULT_ADMIN, note="here"))
    options = Namespace(admin=None, token_file=None, ca_file=None, cert_file=None, ask=ask)
    assert result(Deferred.fromCoroutine(main._command(Clock(), options, Screen(sys.stdout, sys.stderr)))) == 0
    assert capsys.readouterr().err == "pullcache: here\n"


@pytest.mark.parametrize("wrong", ["unix:", "unix:a.sock", "ftp://a", "localhost:5001", "http://", "http://me:pw@a"])
def test_what_is_no_address_is_wrong_usage(wrong: str) -> None:
    """With what would be right."""
    with pytest.raises(WrongUsage, match="unix:/"):
        admin_address(wrong, {})


@pytest.mark.parametrize(
    ("text", "token"),
    [
        ("abc\n", "abc"),
        ("# ours\n\nmanage abc\nread def\n", "abc"),
        ("  abc  ", "abc"),
        ("abc\r\n", "abc"),
        ("\ufeffabc\r\n", "abc"),
        ("\ufeff# ours\nread abc", "abc"),
    ],
)
def test_the_token_is_the_first_of_its_file(tmp_path: Path, text: str, token: str) -> None:
    """An appliance's own file will do."""
    file = tmp_path / "token"
    file.write_text(text)
    assert token_of(str(file), {}) == token_of(None, {TOKEN_FILE: str(file)}) == token
    assert token_of(None, {}) is None and token_of(None, {TOKEN_FILE: ""}) is None


@pytest.mark.parametrize("text", [None, "", "# abc", "a b abc", "\u00e9abc"])
def test_a_file_without_a_token_is_wrong_usage(tmp_path: Path, text: str | None) -> None:
    """The message names the file and nothing that it holds."""
    file = tmp_path / "token"
    if text is not None:
        file.write_text(text)
    with pytest.raises(WrongUsage) as refused:
        token_of(str(file), {})
    assert str(file) in str(refused.value) and "abc" not in str(refused.value)


@pytest.mark.parametrize("option", ["ca_file", "cert_file"])
@pytest.mark.parametrize(
    "text", [None, "", "none", "-----BEGIN CERTIFICATE-----\nbm9uZQ==\n-----END CERTIFICATE-----\n"]
)
def test_files_that_hold_no_certificate_are_wrong_usage(tmp_path: Path, option: str, text: str | None) -> None:
    """Before anything is asked."""
    file = tmp_path / "file.pem"
    if text is not None:
        file.write_text(text)
    options = Namespace(**{"ca_file": None, "cert_file": None, option: str(file)})
    with pytest.raises(WrongUsage, match=f"--{option.replace('_', '-')}"):
        agent_for(None, AdminAddress("https://a", "https://a"), options)


class Listening:
    """Stands for what asks; keeps the fields of the last request."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}

    async def request(self, method: str, url: str, **more: Any) -> None:
        """Note the fields, and answer nothing."""
        self.headers = more["headers"]
        raise OSError("nothing")


def test_the_token_is_shown_at_a_url_and_not_at_a_socket() -> None:
    """Where the socket's mode decides it would only be one more place that has it."""
    url, at_socket = AdminAddress("http://a", "http://a"), AdminAddress("unix:/a", "http://localhost", "/a")
    for address, shown in ((url, "Bearer abc"), (at_socket, None)):
        http = Listening()
        client = AdminClient(address, http, "abc")  # type: ignore[arg-type]
        with pytest.raises(Exception, match="no appliance answers") as refused:
            client.fetch("status").send(None)
        assert http.headers.get("Authorization") == shown and "abc" not in str(refused.value)
