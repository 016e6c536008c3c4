"""The rows about who asks: a user with a password beside one whom nobody asks, and a person at the prompt."""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Callable

from benchmarks.contenders import PULLCACHE, REGISTRY
from benchmarks.contents import TAG
from benchmarks.field import Bench, interleaved
from benchmarks.reading import Hammered, hammer
from tests.clients import tools
from tests.clients.tools import Skopeo
from tests.doubles.passwords import write_users
from tests.process.service import UPSTREAM

ASKING = "pullcache with logins"


def login(bench: Bench) -> None:
    """A held manifest for a user with a password and by a rule, beside an appliance that asks nobody."""
    findings, effort = bench.findings, bench.effort
    if reason := tools.missing("wrk"):
        findings.leave_out("login", reason)
        return
    image = bench.pushed("login", 64 * 1024)
    with bench.servers("login") as servers:
        open_to_all, asking = servers.appliance(), servers.configured("asking")
        users = write_users(asking.folder / "htpasswd", {"ann": "password"})
        asking.settings["listen"][0].update(login="required", checkers=[f"htpasswd:{users}"])
        asking.settings["access"] = [
            {"deny": {"networks": ["192.0.2.0/24"]}},
            {"allow": {"users": ["ann"], "repositories": [f"{UPSTREAM}/**"]}},
        ]
        asking.write()
        asking.start()
        shown = f"Authorization: Basic {b64encode(b'ann:password').decode()}"
        sent = {PULLCACHE: (open_to_all.authority, ()), ASKING: (asking.authority, (shown,))}
        for authority, headers in sent.values():
            hammer(authority, image.tag_path, 1, *headers)

        def measure(name: str) -> Hammered:
            authority, headers = sent[name]
            return hammer(authority, image.tag_path, effort.seconds, *headers)

        for name, each in interleaved(effort.rounds, list(sent), measure).items():
            findings.add("login", name, "manifests", "/s", [one.rate for one in each])
    promise = "warm manifest: requests a second with a password and a rule, of without"
    findings.at_least("login", promise, 0.8, findings.ratio("login", "manifests", ASKING, PULLCACHE))


def inspect(bench: Bench) -> None:
    """What a person waits for at the prompt."""
    findings, effort = bench.findings, bench.effort
    if reason := tools.missing("skopeo"):
        findings.leave_out("inspect", reason)
        return
    image = bench.pushed("inspect", 64 * 1024)
    with bench.servers("inspect") as servers:
        skopeo = Skopeo(bench.folder)
        authorities = {PULLCACHE: servers.appliance().authority, REGISTRY: bench.registry.authority}

        def measure(name: str) -> float:
            start = time.perf_counter()
            skopeo.run("inspect", "--tls-verify=false", f"docker://{authorities[name]}/{image.repository}:{TAG}")
            return (time.perf_counter() - start) * 1e3

        for name in authorities:
            measure(name)
        for name, values in interleaved(effort.inspections, list(authorities), measure).items():
            findings.add("inspect", name, "skopeo inspect", "ms", values)
    mine, theirs = (findings.find("inspect", name, "skopeo inspect") for name in (PULLCACHE, REGISTRY))
    assert mine is not None and theirs is not None
    findings.at_most(
        "inspect", "skopeo inspect, warm: ms more than from docker-registry", 50, mine.median - theirs.median, 1
    )


ROWS: dict[str, Callable[[Bench], None]] = {"login": login, "inspect": inspect}
