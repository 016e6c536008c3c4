"""
The row about how much is held: what it costs to start, to look up, to write and to list with a hundred images, with ten
thousand and with a hundred thousand, and how long clients wait meanwhile.

The appliance is held against itself with a hundred images, in the same run. While an operator's request is answered, a
client asks for one manifest again and again: the longest it waits is how long the reactor stands still, and what this
machine adds to that; so the same is measured with nothing else to do.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.contenders import PULLCACHE
from benchmarks.field import MIB, Bench, Servers, interleaved, settle, until_served
from benchmarks.reading import Hammered, hammer, hammer_during
from benchmarks.servers import memory
from benchmarks.stores import EVERYTHING, PER_REPOSITORY, Layout, image, repository, tag
from tests.clients import plain, tools
from tests.clients.tools import Failed
from tests.process.service import PATIENCE, Appliance

ROW = "index"
SCRIPTS = Path(__file__).parents[1]
SMALL, MANY, TAGS = 100, 10_000, 10_000
PAGE = 500
WRITES = 20
"""New tags of each repository in a round."""

LOOKUPS = PER_REPOSITORY - 1
"""Repositories that are looked up in a round; the smallest store has one more, which is warm."""

KEPT = 9
"""Tags that a collection leaves in each repository."""

PAUSE, IDLE = 3.0, 0.05
"""An appliance rests when in so many seconds it uses less than that share of a processor."""

LONG = 1200.0
"""Seconds that a collection may take."""


@dataclass(frozen=True)
class Sized:
    """An appliance and what is in its store."""

    layout: Layout
    appliance: Appliance

    @property
    def name(self) -> str:
        """As the table has it."""
        return f"{self.layout.images:,} images"


def index(bench: Bench) -> None:
    """From the start to a collection; each part goes on with the appliances of the one before."""
    if reason := tools.missing("wrk"):
        bench.findings.leave_out(ROW, reason)
        return
    with bench.servers(ROW) as servers:
        sized = _written(bench, servers, sorted({SMALL, MANY, bench.effort.images}))
        _start(bench, sized)
        _rest(bench, sized)
        _look_up(bench, sized)
        _write(bench, sized)
        _ask(bench, sized)
        _operate(bench, sized)
        _remember(bench, sized)
        _collect(bench, sized)


def growth(bench: Bench) -> None:
    """What stays the same, or nearly, with very many images: the start, a warm manifest, memory at rest."""
    findings, rounds = bench.findings, bench.effort.cold
    with bench.servers("images") as servers:
        for of in _written(bench, servers, bench.effort.stores):
            appliance, path, count = of.appliance, _path(repository(0), tag(0)), of.layout.images
            seconds = []
            for _ in range(rounds):
                start = time.perf_counter()
                appliance.launch()
                until_served(appliance, path)
                seconds.append(time.perf_counter() - start)
                appliance.kill()
            busy = _start_and_rest(appliance)
            rates = [hammer(appliance.authority, path, bench.effort.seconds).rate for _ in range(rounds)]
            resident = memory(appliance.process.pid)[0] / MIB
            appliance.kill()
            for figure, unit, values in (
                ("first answer", "s", seconds),
                ("manifests", "/s", rates),
                ("resident memory", "MiB", [resident]),
                ("busy after the start", "s", [busy]),
            ):
                findings.add("images", PULLCACHE, figure, unit, values, count)


def _written(bench: Bench, servers: Servers, counts: Iterable[int]) -> list[Sized]:
    """Appliances with so many images each, not started yet."""
    sized = []
    for images in counts:
        layout = Layout(images, TAGS if images > TAGS else 0)
        made = servers.configured(str(images), fresh_for="30d")
        layout.write(made.store, time.time())
        sized.append(Sized(layout, made))
    settle(bench, 1)
    return sized


# -- the parts --------------------------------------------------------------------------------------------------------


def _start(bench: Bench, sized: list[Sized]) -> None:
    """From nothing to the first manifest, after an end that could not be prepared for."""
    of = {each.name: each.appliance for each in sized}

    def measure(name: str) -> float:
        of[name].kill()
        start = time.perf_counter()
        of[name].launch()
        until_served(of[name], _path(repository(0), tag(0)))
        seconds = time.perf_counter() - start
        # What it has to do afterwards is not to slow the next one.
        of[name].kill()
        return seconds

    rounds = interleaved(bench.effort.rounds, list(of), measure)
    _told(bench, "start to first answer", "s", rounds)
    _bar(bench, sized, "start to first answer", "start to the first answer", 2.0)


def _rest(bench: Bench, sized: list[Sized]) -> None:
    """What an appliance does by itself after a start: it counts what is held, and looks whether there is room."""
    for of in sized:
        bench.findings.add(ROW, of.name, "busy after the start", "s", [_start_and_rest(of.appliance)])


def _start_and_rest(appliance: Appliance) -> float:
    """Seconds until it has nothing more to do by itself."""
    start = time.perf_counter()
    appliance.start()
    pid, looked = appliance.process.pid, -1.0
    while (spent := _processor_seconds(pid)) - looked > IDLE * PAUSE:
        looked = spent
        time.sleep(PAUSE)
    return time.perf_counter() - start - PAUSE


def _look_up(bench: Bench, sized: list[Sized]) -> None:
    """A manifest by tag: the first of a repository since the start, and the same again."""

    def measure(of: Sized) -> list[float]:
        with _asking(of.appliance) as ask:
            return [ask(_path(repository(1 + number), tag(1))) for number in range(LOOKUPS)]

    for figure in ("look-up, first", "look-up, again"):
        _told(bench, figure, "ms", {of.name: [median(measure(of)) * 1e3] for of in sized})
        _bar(bench, sized, figure, f"manifest by tag, {figure.partition(', ')[2]} time: time", 1.5)


def _write(bench: Bench, sized: list[Sized]) -> None:
    """
    A tag that is not held, of a manifest that is: the upstream is asked what it means, and that is written, durably.
    So a time holds one request to the upstream besides the write.
    """
    targets = {of.name: (of, repository(0)) for of in sized}
    if sized[-1].layout.tags:
        targets[f"{sized[-1].layout.tags:,} tags"] = sized[-1], EVERYTHING
    left: dict[str, Iterator[int]] = {}
    rounds = bench.effort.rounds
    for number in range(rounds * WRITES + 1):
        for name in {place for _, place in targets.values()}:
            bench.registry.add(name, f"new-{number}", image(name, 0))
    for name, (of, place) in targets.items():
        # The first reads the repository.
        with _asking(of.appliance) as ask:
            ask(_path(place, "new-0"))
        left[name] = iter(range(1, rounds * WRITES + 1))

    def measure(name: str) -> float:
        of, place = targets[name]
        with _asking(of.appliance) as ask:
            return 1e3 * median(ask(_path(place, f"new-{next(left[name])}")) for _ in range(WRITES))

    settle(bench, 1)
    _told(bench, "a new tag", "ms", interleaved(rounds, list(targets), measure))
    for name in list(targets)[1:]:
        ratio = bench.findings.ratio(ROW, "a new tag", name, sized[0].name)
        bench.findings.at_most(ROW, f"a new tag with {name}: time against {sized[0].name}", 1.5, ratio)


def _ask(bench: Bench, sized: list[Sized]) -> None:
    """A warm manifest as often as it can be asked for."""
    of = {each.name: each.appliance.authority for each in sized}

    def measure(name: str) -> Hammered:
        return hammer(of[name], _path(repository(0), tag(0)), bench.effort.seconds)

    rounds = interleaved(max(2, bench.effort.rounds // 2), list(of), measure)
    _told(bench, "warm manifest", "/s", {name: [one.rate for one in each] for name, each in rounds.items()})
    name = sized[-1].name
    ratio = bench.findings.ratio(ROW, "warm manifest", name, sized[0].name)
    bench.findings.at_least(ROW, f"warm manifest with {name}: rate against {sized[0].name}", 0.9, ratio)


def _operate(bench: Bench, sized: list[Sized]) -> None:
    """What operators ask for, and how long a client waits meanwhile."""
    middle = f"up.test/{repository(sized[-1].layout.images // PER_REPOSITORY // 2)}:"
    operations = {
        "nothing, 2 s": None,
        "status": "/api/v1/status",
        "first page of list": f"/api/v1/images?n={PAGE}",
        "a page of list": f"/api/v1/images?n={PAGE}&last={middle}",
        "list by last pull": f"/api/v1/images?n={PAGE}&sort=last-pulled",
        "inventory": "/api/v1/inventory",
    }
    for figure, path in operations.items():
        seconds: dict[str, list[float]] = {}
        longest: dict[str, list[float]] = {}
        for of in sized:
            with _probing(of) as probed:
                start = time.perf_counter()
                if path is None:
                    time.sleep(2)
                else:
                    reply = plain.ask(of.appliance.admin, path, patience=LONG)
                    if reply.status != 200:
                        bench.findings.leave_out(figure, f"{path}: {reply.status} {reply.body[:200]!r}")
                        break
                seconds[of.name] = [time.perf_counter() - start]
            longest[of.name] = [probed["longest"] * 1e3]
        else:
            _told(bench, figure, "s", seconds)
            _told(bench, f"{figure}, stall", "ms", longest)
    page, first = (bench.findings.find(ROW, of.name, "a page of list") for of in (sized[-1], sized[0]))
    if page is not None and first is not None:
        bench.findings.at_most(ROW, f"a page of {PAGE} with {sized[-1].name}: seconds", 1.0, page.median)


def _remember(bench: Bench, sized: list[Sized]) -> None:
    """What all of that left in memory."""
    resident = {of.name: [memory(of.appliance.process.pid)[0] / MIB] for of in sized}
    _told(bench, "resident memory", "MiB", resident)
    of = sized[-1]
    bench.findings.at_most(ROW, f"resident memory in MiB, {of.name}", 200, resident[of.name][0], 0)


def _collect(bench: Bench, sized: list[Sized]) -> None:
    """A collection that takes one image of ten, and all but some of the repository of many tags, while clients ask."""
    of = sized[-1]
    of.appliance.settings["retention"] = {"keep_last": KEPT, "grace": "0s"}
    of.appliance.write()
    if (checked := of.appliance.run("--check")).returncode:
        bench.findings.leave_out("collection", checked.stderr.strip())
        return
    authority, path = of.appliance.authority, _path(repository(0), tag(1))
    idle = hammer(authority, path, bench.effort.seconds)
    blobs = of.appliance.store / "blobs" / "sha256"

    def take_away() -> None:
        # A new configuration is obeyed within seconds by a run of its own, which finds nothing left to do.
        of.appliance.reload()
        _collected(of.appliance, False)

    for figure, work in (("collection", take_away), ("dry run", lambda: _collected(of.appliance, True))):
        held, start = len(os.listdir(blobs)), time.perf_counter()
        with _probing(of) as probed:
            during, _ = hammer_during(authority, path, work)
        for said, unit, value in (
            ("", "s", time.perf_counter() - start),
            (", blobs", "", held - len(os.listdir(blobs))),
            (", stall", "ms", probed["longest"] * 1e3),
            (", 99 %", "ms", during.tail),
            (", rate", "x idle", during.rate / idle.rate),
            (", memory", "MiB", memory(of.appliance.process.pid)[1] / MIB),
        ):
            bench.findings.add(ROW, of.name, f"{figure}{said}", unit, [value])
        bench.findings.at_least(ROW, f"warm manifest during {figure}: rate against idle", 0.5, during.rate / idle.rate)
        bench.findings.at_most(ROW, f"warm manifest during {figure}: 99 % in ms", 50, during.tail, 1)


# -- what the parts share ---------------------------------------------------------------------------------------------


def _told(bench: Bench, figure: str, unit: str, of: dict[str, list[float]]) -> None:
    for name, values in of.items():
        bench.findings.add(ROW, name, figure, unit, values)


def _bar(bench: Bench, sized: list[Sized], figure: str, said: str, limit: float) -> None:
    for of in sized[1:]:
        ratio = bench.findings.ratio(ROW, figure, of.name, sized[0].name)
        bench.findings.at_most(ROW, f"{said} with {of.name} against {sized[0].name}", limit, ratio)


def _path(name: str, reference: str) -> str:
    return f"/v2/{name}/manifests/{reference}"


@contextmanager
def _asking(appliance: Appliance) -> Iterator[Callable[[str], float]]:
    """Gives what asks for a manifest over one connection, and says how many seconds that took."""
    with closing(http.client.HTTPConnection(appliance.authority, timeout=PATIENCE)) as connection:

        def ask(path: str) -> float:
            start = time.perf_counter()
            connection.request("GET", path, headers={"Accept": plain.ACCEPT})
            response = connection.getresponse()
            body = response.read()
            if response.status != 200:
                raise Failed(f"{path}: {response.status} {body[:300]!r}")
            return time.perf_counter() - start

        connection.connect()
        yield ask


@contextmanager
def _probing(of: Sized) -> Iterator[dict[str, float]]:
    """Lets L{prober} ask for a warm manifest; what it found is there at the end."""
    found: dict[str, float] = {}
    path = _path(repository(0), tag(0))
    # It is warm, also for the first one who asks.
    plain.get(of.appliance.authority, path)
    command = [sys.executable, "-S", "-m", "benchmarks.prober", of.appliance.authority.rpartition(":")[2], path]
    with subprocess.Popen(command, cwd=SCRIPTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as prober:
        assert prober.stdout is not None
        prober.stdout.readline()
        try:
            yield found
        finally:
            said, _ = prober.communicate(timeout=PATIENCE)
    found.update(json.loads(said))


def _collected(appliance: Appliance, dry_run: bool) -> None:
    """Waits for the end of the run under way, and of one more."""
    document = json.dumps({"dryRun": dry_run})
    with closing(http.client.HTTPConnection(appliance.admin, timeout=LONG)) as connection:
        connection.request("POST", "/api/v1/collections", document, {"Content-Type": "application/json"})
        response = connection.getresponse()
        body = response.read()
    if response.status != 200:
        raise Failed(f"collections: {response.status} {body[:300]!r}")


def _processor_seconds(pid: int) -> float:
    """What a process has used so far (proc(5), stat)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
