"""The audit log of a running appliance, as an operator reads it: after refusals, a kill, and a new configuration."""

from __future__ import annotations

import json
import subprocess
from base64 import b64encode
from typing import Any

import pytest

from tests.clients.plain import ask
from tests.doubles.passwords import write_users
from tests.doubles.remote import RemoteRegistry
from tests.process.service import UPSTREAM, Appliance, until
from tests.process.test_admin import command

pytestmark = pytest.mark.process

TOKEN = "0123456789abcdef0123456789abcdef"
PASSWORD = "canary0of0a0password"


def asked(appliance: Appliance, *options: str) -> subprocess.CompletedProcess[str]:
    """C{pullcache audit}, with the token."""
    here = ["--admin", f"http://{appliance.admin}", "--token-file", str(appliance.folder / "token")]
    return command(appliance, *here, "audit", *options)


def audit(appliance: Appliance, *options: str) -> list[dict[str, Any]]:
    """What C{pullcache audit} tells."""
    ended = asked(appliance, "--json", *options)
    assert ended.returncode == 0, ended.stderr
    return list(json.loads(ended.stdout)["entries"])


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": f"Basic {b64encode(f'{user}:{password}'.encode()).decode()}"}


@pytest.fixture
def guarded(idle: Appliance, upstream: RemoteRegistry) -> Appliance:
    """Ann may pull what is of the team, others nothing; operators show a token."""
    upstream.add("team/app")
    users = write_users(idle.folder / "htpasswd", {"ann": PASSWORD, "bob": "two"})
    tokens = idle.folder / "tokens"
    tokens.write_text(f"manage {TOKEN}\n")
    (idle.folder / "token").write_text(TOKEN)
    idle.settings["listen"][0] |= {"name": "door", "login": "offered"}
    idle.settings["checkers"] = [f"htpasswd:{users}"]
    idle.settings["access"] = [{"allow": {"users": ["ann"], "repositories": [f"{UPSTREAM}/team/**"]}}]
    idle.settings["admin"]["token_file"] = str(tokens)
    idle.settings["access_log"] = str(idle.folder / "access.log")
    idle.write()
    return idle.start()


def test_it_says_who_was_refused_what_and_who_changed_what(guarded: Appliance) -> None:
    """The access log has the user; a kill loses nothing of what an operator was answered, and no secret is told."""
    path = "/v2/team/app/manifests/latest"
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    assert ask(guarded.authority, path).status == 401
    assert ask(guarded.authority, path, headers=basic("bob", "two")).status == 404
    assert ask(guarded.authority, path, headers=basic("bob", PASSWORD)).status == 401
    assert ask(guarded.authority, path, headers=basic(PASSWORD, "x")).status == 401
    assert ask(guarded.authority, path, headers=basic("ann", PASSWORD)).status == 200
    assert ask(guarded.admin, "/api/v1/status", headers={"Authorization": "Bearer wrong"}).status == 401
    assert ask(guarded.admin, f"/api/v1/pins/{UPSTREAM}/team/app:latest", method="DELETE", headers=bearer).status == 200
    log = guarded.folder / "access.log"
    logged = until(lambda: log.exists() and (found := log.read_text().splitlines())[4:] and found, "logged")
    assert [line.split()[-1] for line in logged] == ["-", "bob", "-", "-", "ann"]
    guarded.kill()
    guarded.start()
    found = audit(guarded)
    who = [(each["action"], each["what"], each["outcome"], each.get("user")) for each in found]
    image = f"{UPSTREAM}/team/app:latest"
    assert who[0][0] == "start" and who[-1][0] == "start"
    assert set(who[1:-1]) == {
        ("pull", image, "refused", None),
        ("pull", image, "refused", "bob"),
        ("login", "door", "refused", "bob"),
        ("login", "door", "refused", None),
        ("login", "GET /api/v1/status", "refused", None),
        ("unpin", image, "done", "token 1"),
    }
    assert {each["address"] for each in found[1:-1]} == {"127.0.0.1"}
    assert all(each["rule"] for each in found if each["action"] == "pull")
    guarded.stop()
    said = guarded.log() + (guarded.store / "audit" / "audit.jsonl").read_text() + "".join(logged)
    assert not any(secret in said for secret in (TOKEN, PASSWORD, b64encode(f"ann:{PASSWORD}".encode()).decode()))


def test_it_follows_the_configuration(guarded: Appliance) -> None:
    """Another file from the next line on, none, and the first one again; each start and stop is in it."""
    elsewhere = guarded.folder / "elsewhere" / "audit.jsonl"
    guarded.settings["audit_log"] = str(elsewhere)
    guarded.reload()
    guarded.settings["audit_size"] = "1KiB"
    guarded.reload()
    assert [each["action"] for each in audit(guarded)] == ["reload"]
    for number in range(20):
        ask(guarded.authority, f"/v2/team/no{number}/manifests/latest")
    assert len([each for each in audit(guarded) if each["action"] == "pull"]) == 20
    assert sorted(path.name for path in elsewhere.parent.iterdir())[:2] == ["audit.jsonl", "audit.jsonl.1"]
    guarded.settings["audit_log"] = "off"
    guarded.reload()
    ended = asked(guarded)
    assert ended.returncode == 1 and "audit_log is off" in ended.stderr
    del guarded.settings["audit_log"]
    guarded.reload()
    guarded.stop()
    lines = (guarded.store / "audit" / "audit.jsonl").read_text().splitlines()
    assert [json.loads(line)["action"] for line in lines] == ["start", "reload", "stop"]
