"""
The rows of the table. Each starts an appliance with an empty store, and measures it in the same run, in interleaved
rounds, beside the server that its figures are held against.
"""

from __future__ import annotations

import os
import shutil
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contents import TAG, Image, Images
from benchmarks.findings import Findings
from benchmarks.reading import Fetched, Hammered, fetch, hammer
from benchmarks.servers import Line, Nginx, Registry, appliance, forget_peak, memory, received
from tests.clients import plain, tools
from tests.clients.tools import Skopeo
from tests.doubles.passwords import write_users
from tests.process.service import UPSTREAM, Appliance, until

APPLIANCE, NGINX, REGISTRY, PROXY = "appliance", "nginx", "docker-registry", "docker-registry proxy"
ASKING = "appliance with logins"
DIRECT = "straight from upstream"
MB = 1e6
MIB = 1024.0 * 1024.0
# Times the size of a blob: its file, and what sockets and processes hold of it on the way.
TOUCHED = 3
_BLANK = bytes(1024 * 1024)


@dataclass(frozen=True)
class Effort:
    """
    How much is measured.

    @ivar rounds: of everything but skopeo.
    @ivar times: a warm client asks for the blob so often in a round.
    @ivar seconds: of one run of wrk.
    @ivar herds: rounds of the row that moves the most bytes.
    @ivar rate: bytes a second of the limited line.
    @ivar round_trip: its length in seconds, where it is a long one.
    @ivar bundles: rounds of the row about bundles.
    @ivar bundle_bytes: of all layers of a bundle together.
    @ivar bundle_images: how many these are.
    @ivar images: in the largest store.
    """

    rounds: int
    times: int
    seconds: int
    herds: int
    inspections: int
    bundles: int
    bundle_bytes: int
    bundle_images: int
    images: int
    rate: float = 100e6
    round_trip: float = 0.02
    warm_clients: int = 4
    herd_clients: int = 50


@dataclass(frozen=True)
class Bench:
    """What all rows share: the upstream, which holds everything, and where servers may have their folders."""

    folder: Path
    images: Images
    registry: Registry
    findings: Findings
    effort: Effort

    def pushed(self, purpose: str) -> Image:
        """A new image that the upstream holds."""
        image = self.images.make(purpose)
        self.registry.push(image)
        return image

    @contextmanager
    def servers(self, name: str) -> Iterator[Servers]:
        """Servers for one row, gone with their files afterwards."""
        folder = self.folder / name
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            yield Servers(folder, self.registry, stack)


class Servers:
    """Starts servers that end with their row."""

    def __init__(self, folder: Path, upstream: Registry, stack: ExitStack) -> None:
        self._folder = folder
        self._upstream = upstream
        self._stack = stack

    def appliance(self, name: str = "appliance", upstream_url: str | None = None, **upstream: Any) -> Appliance:
        """With an empty store; C{upstream} goes into that part of its configuration."""
        return self.configured(name, upstream_url, **upstream).start()

    def configured(self, name: str, upstream_url: str | None = None, **upstream: Any) -> Appliance:
        """As L{appliance}, not started yet: its folder may be filled first."""
        made = appliance(self._folder / name, upstream_url or self._upstream.url, **upstream)
        self._stack.callback(made.kill)
        return made

    def proxy(self) -> Registry:
        """docker-registry as a pull-through cache with an empty store."""
        started = Registry(self._folder / "proxy", self._upstream.url)
        self._stack.callback(started.kill)
        return started.start()

    def nginx(self, image: Image) -> Nginx | None:
        """nginx with the files of an image; C{None} where there is none."""
        if tools.missing("nginx"):
            return None
        started = Nginx(self._folder / "nginx")
        self._stack.callback(started.kill)
        started.hold(image)
        return started.start()

    def line(self, rate: float, round_trip: float, each: bool = False) -> Line:
        """A limited line to the upstream, or one for C{each} connection."""
        line = Line(self._upstream.authority, rate, round_trip, each)
        self._stack.callback(line.kill)
        return line


def interleaved(rounds: int, names: Sequence[str], measure: Callable[[str], Any]) -> dict[str, list[Any]]:
    """
    Measure each once a round, beginning each round with another one.

    @return: what C{measure} returned, by name, in the order of the rounds.
    """
    results: dict[str, list[Any]] = {name: [] for name in names}
    for number in range(rounds):
        start = number % len(names)
        for name in (*names[start:], *names[:start]):
            results[name].append(measure(name))
    return results


def settle(bench: Bench, octets: int | None = None) -> None:
    """
    What was written before is on disk before the next clock starts, and memory for the blob has just been in use.

    A virtual machine gets memory from its host when it first touches it, and may give it back after seconds: a new file
    of 200 MB can take half a second instead of a thirtieth, for any writer.

    @param octets: as many as will be touched; C{None}: those of a blob on its way.
    """
    os.sync()
    scratch = bench.folder / "scratch"
    with scratch.open("wb", buffering=0) as file:
        for _ in range((octets or TOUCHED * bench.images.size) // len(_BLANK) + 1):
            file.write(_BLANK)
    scratch.unlink()


# -- the rows ---------------------------------------------------------------------------------------------------------


def warm(bench: Bench) -> None:
    """A held blob, several clients at once."""
    findings, effort = bench.findings, bench.effort
    image = bench.pushed("warm")
    with bench.servers("warm") as servers:
        authorities = {APPLIANCE: servers.appliance().authority, REGISTRY: bench.registry.authority}
        if (nginx := servers.nginx(image)) is not None:
            authorities[NGINX] = nginx.authority
        for authority in authorities.values():
            _check(authority, image)
        settle(bench)
        fetched = interleaved(
            effort.rounds,
            list(authorities),
            lambda name: fetch(authorities[name], image.blob_path, effort.warm_clients, effort.times),
        )
    for name, rounds in fetched.items():
        findings.add("warm", name, "speed", "MB/s", [each.rate for each in rounds])
    clients = f"blob, {effort.warm_clients} clients: speed against"
    findings.at_least("warm", f"{clients} nginx", 0.9, findings.ratio("warm", "speed", APPLIANCE, NGINX))
    findings.at_least("warm", f"{clients} docker-registry", 1.0, findings.ratio("warm", "speed", APPLIANCE, REGISTRY))


def cold(bench: Bench) -> None:
    """
    A blob that was not pulled yet, against the same blob without the appliance between: over the loopback, over a
    limited line, and over one that is also long.
    """
    images = [bench.pushed("cold") for _ in range(bench.effort.rounds)]
    rate, round_trip = bench.effort.rate, bench.effort.round_trip
    with bench.servers("cold") as servers:
        targets = {
            DIRECT: bench.registry.authority,
            APPLIANCE: servers.appliance().authority,
            PROXY: servers.proxy().authority,
        }
        _cold(bench, "cold", "loopback", images, targets)
    for row, seconds in (("cold-line", 0.0), ("cold-far", round_trip)):
        with bench.servers(row) as servers:
            line = servers.line(rate, seconds)
            targets = {DIRECT: line.authority, APPLIANCE: servers.appliance(upstream_url=line.url).authority}
            _cold(bench, row, f"{rate / MB:.0f} MB/s, {seconds * 1e3:.0f} ms away", images, targets)


def cold_blobs(bench: Bench, images: list[Image], targets: dict[str, str]) -> Callable[[str], Fetched]:
    """Fetches, from a target by its name, the blob of the next image that was not fetched there."""
    left = {name: iter(images) for name in targets}

    def measure(name: str) -> Fetched:
        image = next(left[name])
        # A client has the manifest before it asks for a blob.
        plain.get(targets[name], image.digest_path, image.content.digest)
        settle(bench)
        return fetch(targets[name], image.blob_path)

    return measure


def _cold(bench: Bench, row: str, where: str, images: list[Image], targets: dict[str, str]) -> None:
    for authority in targets.values():
        warm_up(bench, authority)
    findings = bench.findings
    for name, rounds in interleaved(bench.effort.rounds, list(targets), cold_blobs(bench, images, targets)).items():
        findings.add(row, name, "seconds", "s", [each.seconds for each in rounds])
        findings.add(row, name, "first byte", "ms", [each.first * 1e3 for each in rounds])
    for figure, said, limit in (("seconds", "time", 1.15), ("first byte", "first byte", 1.5)):
        promise = f"blob, upstream {where}: {said} against direct"
        findings.at_most(row, promise, limit, findings.ratio(row, figure, APPLIANCE, DIRECT))


def herd(bench: Bench) -> None:
    """Many clients that pull the same cold blob at the same moment."""
    findings, effort = bench.findings, bench.effort
    images = [bench.pushed("herd") for _ in range(effort.herds)]
    measured: dict[str, list[dict[str, float]]] = {}
    with bench.servers("herd") as servers:
        through, proxy = servers.appliance(), servers.proxy()
        targets = {APPLIANCE: (through.authority, through.process.pid), PROXY: (proxy.authority, proxy.pid)}
        for authority, _ in targets.values():
            warm_up(bench, authority)
        left = {name: iter(images) for name in targets}
        before = received(through)
        measured = interleaved(effort.herds, list(targets), lambda name: _herd(bench, next(left[name]), *targets[name]))
        told = (received(through) - before) / sum(len(image.layer.data) for image in images)
    for name, rounds in measured.items():
        findings.add("herd", name, "seconds", "s", [each["seconds"] for each in rounds])
        findings.add("herd", name, "first byte", "ms", [each["first"] * 1e3 for each in rounds])
        findings.add("herd", name, "upstream bytes", "x blob", [each["upstream"] for each in rounds])
        findings.add("herd", name, "memory growth", "MiB", [each["growth"] / MIB for each in rounds])
    findings.add("herd", APPLIANCE, "bytes counted by metrics", "x blob", [told])
    clients = f"{effort.herd_clients} clients, one cold blob:"
    mine = measured[APPLIANCE]
    findings.at_most("herd", f"{clients} upstream bytes / blob", 1.0, max(each["upstream"] for each in mine), 4)
    findings.at_most(
        "herd", f"{clients} resident memory grows by MiB", 64, max(each["growth"] for each in mine) / MIB, 1
    )


def _herd(bench: Bench, image: Image, authority: str, pid: int) -> dict[str, float]:
    plain.get(authority, image.digest_path, image.content.digest)
    settle(bench)
    size = len(image.layer.data)
    sent = bench.registry.sent(image)
    forget_peak(pid)
    start, _ = memory(pid)
    fetched = fetch(authority, image.blob_path, bench.effort.herd_clients)
    _, peak = memory(pid)
    # The upstream logs a response when it has ended, which may be a moment later.
    until(lambda: bench.registry.sent(image) - sent >= size, "the upstream has logged what it sent")
    time.sleep(0.5)
    upstream = (bench.registry.sent(image) - sent) / size
    return {"seconds": fetched.seconds, "first": fetched.first, "upstream": upstream, "growth": max(0, peak - start)}


def manifest(bench: Bench) -> None:
    """A held manifest, as often as it can be asked for."""
    findings, effort = bench.findings, bench.effort
    if reason := tools.missing("wrk"):
        findings.leave_out("manifest", reason)
        return
    image = bench.pushed("manifest")
    with bench.servers("manifest") as servers:
        authorities = {
            APPLIANCE: servers.appliance().authority,
            REGISTRY: bench.registry.authority,
            PROXY: servers.proxy().authority,
        }
        if (nginx := servers.nginx(image)) is not None:
            authorities[NGINX] = nginx.authority
        for by, path in (("by tag", image.tag_path), ("by digest", image.digest_path)):
            for authority in authorities.values():
                plain.get(authority, path, image.content.digest)
            rounds = max(2, effort.rounds // 2)

            def measure(name: str, path: str = path) -> Hammered:
                return hammer(authorities[name], path, effort.seconds)

            hammered = interleaved(rounds, list(authorities), measure)
            for name, each in hammered.items():
                findings.add("manifest", name, by, "/s", [one.rate for one in each])
                findings.add("manifest", name, f"{by}, 99 %", "ms", [one.tail for one in each])
            findings.at_least(
                "manifest",
                f"warm, {by}: requests a second against docker-registry",
                2.0,
                findings.ratio("manifest", by, APPLIANCE, REGISTRY),
            )


def login(bench: Bench) -> None:
    """A held manifest for a user with a password and by a rule, beside an appliance that asks nobody."""
    findings, effort = bench.findings, bench.effort
    if reason := tools.missing("wrk"):
        findings.leave_out("login", reason)
        return
    image = bench.pushed("login")
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
        sent = {APPLIANCE: (open_to_all.authority, ()), ASKING: (asking.authority, (shown,))}
        for authority, headers in sent.values():
            hammer(authority, image.tag_path, 1, *headers)

        def measure(name: str) -> Hammered:
            authority, headers = sent[name]
            return hammer(authority, image.tag_path, effort.seconds, *headers)

        for name, each in interleaved(effort.rounds, list(sent), measure).items():
            findings.add("login", name, "manifests", "/s", [one.rate for one in each])
    promise = "warm manifest: requests a second with a password and a rule, of without"
    findings.at_least("login", promise, 0.8, findings.ratio("login", "manifests", ASKING, APPLIANCE))


def inspect(bench: Bench) -> None:
    """What a person waits for at the prompt."""
    findings, effort = bench.findings, bench.effort
    if reason := tools.missing("skopeo"):
        findings.leave_out("inspect", reason)
        return
    image = bench.pushed("inspect")
    with bench.servers("inspect") as servers:
        skopeo = Skopeo(bench.folder)
        authorities = {APPLIANCE: servers.appliance().authority, REGISTRY: bench.registry.authority}

        def measure(name: str) -> float:
            start = time.perf_counter()
            skopeo.run("inspect", "--tls-verify=false", f"docker://{authorities[name]}/{image.repository}:{TAG}")
            return (time.perf_counter() - start) * 1e3

        for name in authorities:
            measure(name)
        for name, values in interleaved(effort.inspections, list(authorities), measure).items():
            findings.add("inspect", name, "skopeo inspect", "ms", values)
    mine, theirs = (findings.find("inspect", name, "skopeo inspect") for name in (APPLIANCE, REGISTRY))
    assert mine is not None and theirs is not None
    findings.at_most(
        "inspect", "skopeo inspect, warm: ms more than from docker-registry", 50, mine.median - theirs.median, 1
    )


ROWS: dict[str, Callable[[Bench], None]] = {
    "warm": warm,
    "cold": cold,
    "herd": herd,
    "manifest": manifest,
    "login": login,
    "inspect": inspect,
}


def _check(authority: str, image: Image) -> None:
    """Every server gives the same bytes; what has been pulled once is held from then on."""
    plain.get(authority, image.tag_path, image.content.digest)
    plain.get(authority, image.blob_path, image.layer.digest)


def warm_up(bench: Bench, authority: str) -> None:
    """A first pull, so that nothing is measured that happens once in the life of a process."""
    image = Images(64 * 1024).make("first")
    bench.registry.push(image)
    _check(authority, image)
