"""Starting, refusing to start, reading the configuration again, and stopping."""

from __future__ import annotations

import hashlib
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients.plain import Transfer, ask, get, pull
from tests.doubles.remote import RemoteRegistry
from tests.process.service import UPSTREAM, Appliance, until

SIZE = 2_000_000

pytestmark = pytest.mark.process


def refusal(appliance: Appliance, *options: str) -> str:
    """The one line on standard error with which it refuses to start."""
    ended = appliance.run(*options)
    lines = ended.stderr.strip().splitlines()
    assert ended.returncode == 1, ended
    assert "Traceback" not in ended.stdout + ended.stderr
    assert len(lines) == 1, ended.stderr
    return lines[0]


def check_clean(appliance: Appliance, status: int) -> None:
    """Twisted shut down in order; twistd then ends by the signal that stopped it (L{twisted.application.app})."""
    assert status == -signal.SIGTERM
    assert "Server Shut Down" in appliance.log()


def unknown_key(appliance: Appliance) -> str:
    appliance.settings["upstreams"][UPSTREAM]["fresh_fro"] = "1s"
    return "fresh_fro"


def wrong_duration(appliance: Appliance) -> str:
    appliance.settings["upstreams"][UPSTREAM]["fresh_for"] = "1 fortnight"
    return "fresh_for"


def unknown_default(appliance: Appliance) -> str:
    appliance.settings["listen"][0]["default_upstream"] = "nowhere.test"
    return "nowhere.test"


def wrong_endpoint(appliance: Appliance) -> str:
    appliance.settings["listen"][0]["endpoint"] = "carrier-pigeon:port=1"
    return "carrier-pigeon"


def credentials_for_everybody(appliance: Appliance) -> str:
    token = appliance.folder / "token"
    token.write_text("hunter2")
    appliance.settings["upstreams"][UPSTREAM]["token_file"] = str(token)
    return f"access: [{{allow: {{networks: [10.0.0.0/8], repositories: ['{UPSTREAM}/**']}}}}"


MISTAKES = [unknown_key, wrong_duration, unknown_default, wrong_endpoint, credentials_for_everybody]


@pytest.mark.parametrize("mistake", MISTAKES)
@pytest.mark.parametrize("options", [(), ("--check",)], ids=["start", "check"])
def test_a_wrong_configuration_is_refused_in_one_line(
    idle: Appliance, mistake: Callable[[Appliance], str], options: tuple[str, ...]
) -> None:
    """The line names the file and what is wrong in it; the exit status is 1."""
    named = mistake(idle)
    idle.write()
    line = refusal(idle, *options)
    assert named in line
    assert str(idle.config) in line


def test_a_missing_configuration_is_refused_in_one_line(idle: Appliance) -> None:
    """The line names the file."""
    idle.config.unlink()
    assert str(idle.config) in refusal(idle)


def test_a_port_in_use_is_refused_in_one_line(idle: Appliance) -> None:
    """The line names the port."""
    host, _, port = idle.authority.partition(":")
    with socket.socket() as taken:
        taken.bind((host, int(port)))
        taken.listen()
        assert port in refusal(idle)


def test_a_store_that_cannot_be_written_is_refused_in_one_line(idle: Appliance) -> None:
    """A file stands where the store's folder should be; the line names it."""
    idle.store.write_text("in the way")
    assert str(idle.store) in refusal(idle)


def test_a_store_that_another_process_owns_is_refused_in_one_line(appliance: Appliance, tmp_path: Path) -> None:
    """The second process names the store and ends; the first goes on."""
    second = Appliance(tmp_path / "second", "http://127.0.0.1:9", store=str(appliance.store))
    assert str(appliance.store) in refusal(second)
    assert ask(appliance.authority, "/v2/").status == 200


def test_a_store_of_a_newer_version_is_refused_in_one_line(idle: Appliance) -> None:
    """Nothing in it is changed."""
    idle.store.mkdir()
    (idle.store / "VERSION").write_text("999\n")
    assert "999" in refusal(idle)
    assert (idle.store / "VERSION").read_text() == "999\n"


def test_check_says_what_a_good_configuration_means(idle: Appliance) -> None:
    """Exit status 0, the upstream's name on standard output, and nothing started or made."""
    ended = idle.run("--check")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert UPSTREAM in ended.stdout
    assert not idle.store.exists()


def test_options_override_the_file(idle: Appliance, tmp_path: Path) -> None:
    """C{--store} goes before C{store:}."""
    ended = idle.run("--check", "--store", str(tmp_path / "elsewhere"))
    assert ended.returncode == 0
    assert str(tmp_path / "elsewhere") in ended.stdout


def test_a_bad_file_at_sighup_changes_nothing(appliance: Appliance, upstream: RemoteRegistry) -> None:
    """It is reported in the log, and the old configuration stays in force."""
    digest = upstream.add("team/app")["digest"]
    unknown_key(appliance)
    appliance.write()
    appliance.signal(signal.SIGHUP)
    until(lambda: "fresh_fro" in appliance.log(), "reported")
    assert pull(appliance.authority, "team/app", "latest").digest == digest


def test_a_certificate_that_is_none_at_sighup_leaves_the_old_file_in_force(
    appliance: Appliance, upstream: RemoteRegistry
) -> None:
    """What is only noticed when the upstream is set up is reported like any other fault."""
    digest = upstream.add("team/app")["digest"]
    certificate = appliance.folder / "ca.pem"
    certificate.write_text("no certificate")
    appliance.settings["upstreams"][UPSTREAM]["ca_file"] = str(certificate)
    appliance.write()
    appliance.signal(signal.SIGHUP)
    until(lambda: "was not read again" in appliance.log(), "reported")
    assert pull(appliance.authority, "team/app", "latest").digest == digest


def test_a_good_file_at_sighup_is_in_force_while_transfers_go_on(
    appliance: Appliance, upstream: RemoteRegistry
) -> None:
    """A new upstream can be pulled from, and a transfer that was under way ends whole."""
    added = upstream.add("team/app", sizes=[SIZE])
    digest = added["blobs"][1][0]
    get(appliance.authority, "/v2/team/app/manifests/latest")
    upstream.set(rate=SIZE)
    transfer = Transfer(appliance.authority, f"/v2/team/app/blobs/{digest}")
    appliance.settings["upstreams"]["second.test"] = {"url": upstream.url}
    appliance.write()
    appliance.signal(signal.SIGHUP)
    path = "/v2/second.test/team/app/manifests/latest"
    until(lambda: ask(appliance.bare, path).status == 200, "the new upstream is known")
    assert "sha256:" + hashlib.sha256(transfer.rest()).hexdigest() == digest


def test_sigterm_lets_a_transfer_end(idle: Appliance, upstream: RemoteRegistry) -> None:
    """The client gets every byte, then the process ends cleanly."""
    # However little of the machine this test has.
    idle.settings["shutdown_grace"] = "2m"
    idle.write()
    appliance = idle.start()
    digest = upstream.add("team/app", sizes=[SIZE])["blobs"][1][0]
    get(appliance.authority, "/v2/team/app/manifests/latest")
    upstream.set(rate=SIZE)
    transfer = Transfer(appliance.authority, f"/v2/team/app/blobs/{digest}")
    head = transfer.read(1000)
    appliance.signal(signal.SIGTERM)
    body = head + transfer.rest()
    assert "sha256:" + hashlib.sha256(body).hexdigest() == digest
    check_clean(appliance, appliance.wait())


def test_sigterm_does_not_wait_for_ever(idle: Appliance, upstream: RemoteRegistry) -> None:
    """A transfer that does not end is broken off after C{shutdown_grace}."""
    idle.settings["shutdown_grace"] = "1s"
    idle.write()
    idle.start()
    digest = upstream.add("team/app", sizes=[SIZE])["blobs"][1][0]
    get(idle.authority, "/v2/team/app/manifests/latest")
    upstream.misbehave("GET /v2/*/blobs/*", ("stall", {"after": SIZE // 2}))
    transfer = Transfer(idle.authority, f"/v2/team/app/blobs/{digest}")
    transfer.read(1000)
    check_clean(idle, idle.stop())
    transfer.leave()


def test_an_appliance_without_traffic_stops_cleanly(appliance: Appliance) -> None:
    """SIGTERM, and it is down."""
    check_clean(appliance, appliance.stop())
