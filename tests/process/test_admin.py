"""The admin endpoint of a running appliance: its socket, its tokens, and the command that uses them."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clients.plain import ask
from tests.doubles.certificates import authority
from tests.process.service import CHECKOUT, PATIENCE, Appliance, until

pytestmark = pytest.mark.process

TOKEN = "0123456789abcdef0123456789abcdef"


def command(appliance: Appliance, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run C{pullcache}, with none of the variables that this process has of it."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("PULLCACHE_")}
    return subprocess.run(
        [sys.executable, "-m", "appliance.cli.main", *arguments],
        cwd=appliance.folder,
        env=others | {"PYTHONPATH": str(CHECKOUT)} | environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


@pytest.fixture
def path(idle: Appliance) -> Path:
    """Where the socket of C{idle} will be."""
    found = idle.folder / "admin.sock"
    idle.settings["admin"]["socket"] = f"unix:{found}"
    idle.write()
    return found


def test_the_socket_lets_in_its_user_and_group(idle: Appliance, path: Path) -> None:
    """The command is answered there without a token; the file is gone with the appliance."""
    idle.start()
    found = path.stat()
    assert (stat.S_ISSOCK(found.st_mode), stat.S_IMODE(found.st_mode)) == (True, 0o660)
    for where in ({"PULLCACHE_ADMIN": f"unix:{path}"}, {}):
        ended = command(idle, *([] if where else ["--admin", f"unix:{path}"]), "--json", "status", **where)
        assert (ended.returncode, ended.stderr) == (0, "") and json.loads(ended.stdout)["upstreams"]
    connection = http.client.HTTPConnection("localhost", timeout=PATIENCE)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    connection.request("GET", "/api/v1/session")
    who = json.loads(connection.getresponse().read())
    connection.close()
    assert (who["role"], who["name"], who["means"]) == ("manage", f"uid {os.getuid()}", "socket")
    idle.stop()
    assert not path.exists()


def test_a_socket_that_a_kill_left_is_taken_over(idle: Appliance, path: Path) -> None:
    """A power cut needs nobody who cleans up."""
    idle.start().kill()
    assert path.exists()
    idle.start()
    assert command(idle, "--admin", f"unix:{path}", "status").returncode == 0


@pytest.mark.parametrize("taken", ["listening", "file", "folder"])
def test_a_configured_socket_that_cannot_be_had_is_refused_in_one_line(idle: Appliance, path: Path, taken: str) -> None:
    """Another process answers there, a file is in the way, or its folder is not there; nothing is removed."""
    with socket.socket(socket.AF_UNIX) as other:
        if taken == "listening":
            other.bind(str(path))
            other.listen()
        elif taken == "file":
            path.write_text("kept")
        else:
            path = path.parent / "none" / "admin.sock"
            idle.settings["admin"]["socket"] = f"unix:{path}"
            idle.write()
        ended = idle.run()
        [line] = ended.stderr.strip().splitlines()
        assert ended.returncode == 1 and str(path) in line
        assert taken == "folder" or path.exists()


def test_a_token_is_asked_for_and_the_command_shows_it(idle: Appliance, path: Path) -> None:
    """401 without one; a role that is too low says so; the file is followed without a signal."""
    tokens, mine = idle.folder / "tokens", idle.folder / "mine"
    tokens.write_text(f"read {TOKEN}\n")
    mine.write_text(f"{TOKEN}\n")
    idle.settings["admin"]["token_file"] = str(tokens)
    idle.write()
    idle.start()
    assert ask(idle.admin, "/api/v1/status").status == 401
    assert [ask(idle.admin, each).status for each in ("/healthz", "/readyz", "/metrics")] == [200, 200, 200]
    here = ["--admin", f"http://{idle.admin}"]
    ended = command(idle, *here, "status")
    assert ended.returncode == 1 and "--token-file" in ended.stderr
    assert command(idle, *here, "status", "--token-file", str(mine)).returncode == 0
    assert command(idle, *here, "status", PULLCACHE_TOKEN_FILE=str(tokens)).returncode == 0
    ended = command(idle, *here, "reload", "--token-file", str(mine))
    assert ended.returncode == 1 and "takes the role manage" in ended.stderr
    tokens.write_text(f"manage {TOKEN}\n")
    ended = command(idle, *here, "reload", "--token-file", str(mine))
    assert (ended.returncode, ended.stderr) == (0, "")
    idle.stop()
    assert TOKEN not in idle.log()


def test_a_reload_by_the_command_says_what_is_wrong(idle: Appliance, path: Path) -> None:
    """The old configuration stays in force; a good one says what needs a restart."""
    idle.start()
    here = ["--admin", f"unix:{path}", "reload"]
    idle.settings["store"] = str(idle.folder / "elsewhere")
    idle.write()
    ended = command(idle, *here)
    assert ended.returncode == 0 and "store changed: that takes effect with a restart" in ended.stderr
    idle.settings["ofline"] = True
    idle.write()
    ended = command(idle, *here)
    assert ended.returncode == 1 and "ofline" in ended.stderr


def test_an_address_that_others_reach_needs_a_token(idle: Appliance, path: Path) -> None:
    """A start, C{--check} and the option are refused in a line that says what to write; so is a reload without it."""
    port = idle.admin.partition(":")[2]
    idle.settings["admin"]["endpoint"] = f"tcp:port={port}"
    idle.write()
    for options in ((), ("--check",)):
        ended = idle.run(*options)
        [line] = ended.stderr.strip().splitlines()
        assert ended.returncode == 1 and "token_file" in line and str(idle.config) in line
    idle.settings["admin"]["endpoint"] = f"tcp:port={port}:interface=127.0.0.1"
    idle.write()
    assert idle.run("--check", "--admin", f"tcp:port={port}").returncode == 1
    tokens = idle.folder / "tokens"
    tokens.write_text(f"{TOKEN}\n")
    idle.settings["admin"] |= {"endpoint": f"tcp:port={port}", "token_file": str(tokens)}
    idle.write()
    idle.start()
    del idle.settings["admin"]["token_file"]
    for endpoint in (f"tcp:port={port}", f"tcp:port={port}:interface=127.0.0.1"):
        idle.settings["admin"]["endpoint"] = endpoint
        idle.write()
        before = idle.log().count("was not read again")
        idle.signal(signal.SIGHUP)
        until(lambda before=before: idle.log().count("was not read again") > before, "refused")  # type: ignore[misc]
        assert ask(idle.admin, "/api/v1/status").status == 401


def test_an_operator_shows_a_certificate(idle: Appliance, path: Path) -> None:
    """Over TLS, by its name; one without a role may do nothing, one of another authority does not get through."""
    ours, other = authority("Ours"), authority("Other")
    certificate, key = ours.issue("127.0.0.1").write(idle.folder, "server")
    (idle.folder / "ca.pem").write_bytes(ours.certificates)
    for name, by in (("ann", ours), ("bob", ours), ("eve", other)):
        shown = by.issue(name)
        (idle.folder / f"{name}.pem").write_bytes(shown.certificates + shown.private())
    port = idle.admin.partition(":")[2]
    endpoint = f"ssl:port={port}:privateKey={key}:certKey={certificate}:interface=127.0.0.1"
    idle.settings["admin"] |= {"endpoint": endpoint, "client_ca_file": str(idle.folder / "ca.pem")}
    idle.write()
    assert "client_roles" in idle.run("--check").stderr
    idle.settings["admin"]["client_roles"] = {"ann": "operate"}
    idle.write()
    idle.launch()
    until(path.exists, "listening")

    def told(*arguments: str, ca: str = "ca.pem") -> tuple[int, str]:
        ended = command(idle, "--admin", f"https://{idle.admin}", "--ca-file", str(idle.folder / ca), *arguments)
        return ended.returncode, ended.stderr

    assert told("--cert-file", str(idle.folder / "ann.pem"), "status")[0] == 0
    for arguments, words in (
        (("--cert-file", str(idle.folder / "ann.pem"), "reload"), "ann has operate"),
        (("--cert-file", str(idle.folder / "bob.pem"), "status"), "bob has no role"),
        (("status",), "asks who you are"),
    ):
        code, said = told(*arguments)
        assert code == 1 and words in said
    code, said = told("--cert-file", str(idle.folder / "eve.pem"), "status")
    assert code == 1 and said.count("\n") == 1
    code, said = told("--cert-file", str(idle.folder / "ann.pem"), "status", ca="eve.pem")
    assert code == 1 and "--ca-file" in said and said.count("\n") == 1
    idle.settings["admin"]["client_roles"] = {"bob": "read"}
    idle.reload()
    assert told("--cert-file", str(idle.folder / "bob.pem"), "status")[0] == 0
    assert "ann has no role" in told("--cert-file", str(idle.folder / "ann.pem"), "status")[1]
