"""Rules of who may pull what, read again by SIGHUP."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys

import pytest

from tests.clients.plain import Transfer, ask, get, pull
from tests.doubles.remote import RemoteRegistry
from tests.process.service import CHECKOUT, PATIENCE, UPSTREAM, Appliance, until

SIZE = 2_000_000
NOT_HERE = {"deny": {"networks": ["127.0.0.0/8"], "repositories": [f"{UPSTREAM}/team/**"]}}

pytestmark = pytest.mark.process


def explained(appliance: Appliance, *arguments: str) -> dict[str, tuple[int, str]]:
    """What C{pullcache access explain} says of each listener: the status, and the rule."""
    command = [sys.executable, "-m", "appliance.cli.main", "--admin", f"http://{appliance.admin}", "--json"]
    ended = subprocess.run(
        [*command, "access", "explain", *arguments],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    )
    return {each["listener"]: (each["status"], each["rule"]) for each in json.loads(ended.stdout)["answers"]}


def test_rules_are_in_force_from_sighup_on(appliance: Appliance, upstream: RemoteRegistry) -> None:
    """
    What was pulled a moment ago is not there any more on a connection that is kept, a transfer under way ends whole, a
    file that opens a private upstream changes nothing, and without the rule all is as before.
    """
    added = upstream.add("team/app", sizes=[SIZE])
    cold = added["blobs"][1][0]
    path = "/v2/team/app/manifests/latest"
    get(appliance.authority, path)
    upstream.set(rate=SIZE)
    transfer = Transfer(appliance.authority, f"/v2/team/app/blobs/{cold}")

    appliance.settings["access"] = [NOT_HERE, {"allow": {}}]
    appliance.reload()
    refused = ask(appliance.authority, path)
    assert refused.status == 404 and b"may not be read from 127.0.0.1" in refused.body
    assert ask(appliance.authority, f"/v2/team/app/blobs/{cold}").status == 404
    assert "sha256:" + hashlib.sha256(transfer.rest()).hexdigest() == cold
    rule = f"access[0]: deny networks 127.0.0.0/8, repositories {UPSTREAM}/team/**"
    assert explained(appliance, "127.0.0.1", f"{UPSTREAM}/team/app") == dict.fromkeys(
        ("listen-1", "listen-2"), (404, rule)
    )
    elsewhere = explained(appliance, "10.0.0.1", f"{UPSTREAM}/team/app", "--listener", "listen-2")
    assert elsewhere == {"listen-2": (200, "access[1]: allow everything")}

    del appliance.settings["access"]
    appliance.settings["upstreams"][UPSTREAM]["private"] = True
    appliance.write()
    appliance.signal(signal.SIGHUP)
    until(lambda: "no rule says who may pull" in appliance.log(), "reported")
    assert ask(appliance.authority, path).status == 404

    appliance.settings["upstreams"][UPSTREAM]["private"] = False
    appliance.reload()
    assert pull(appliance.authority, "team/app", "latest").digest == added["digest"]
