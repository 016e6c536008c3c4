"""C{pullcache export}: asks the appliance for a bundle and writes it to files."""

from __future__ import annotations

import shutil
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from appliance.api import Lack, PlannedExport, VolumeFile
from appliance.bundle import bundlejson
from appliance.bundle.minisign import SecretKey
from appliance.bundle.reader import list_of_contents
from appliance.bundle.selection import parse_list
from appliance.cli.client import refusal
from appliance.cli.command import DONE, FAILED, Commands, Session, age, existing, new_command, volume_size
from appliance.cli.failures import CommandFailed, WrongUsage
from appliance.cli.keys import secret_key
from appliance.cli.partfile import PartFile
from appliance.cli.screen import Screen, count, size

#: What a signature's file is sent as.
SIGNATURE_TYPE = "text/plain; charset=utf-8"

#: One document a line; an older appliance, which reports no progress, answers with the last of them alone.
LINES = "application/x-ndjson, application/json"


def add_to(commands: Commands) -> None:
    """Add C{export}."""
    parser = new_command(commands, "export", "write a bundle of what is held, to be imported elsewhere")
    add = parser.add_argument
    add("refs", metavar="REF", nargs="*", help="a reference, or a pattern as in 'ghcr.io/team/*:1.*'")
    add("-o", "--output", metavar="PATH", required=True, help="the file, or a folder, which volumes need")
    add("--all", action="store_true", help="everything that is held")
    add("--list", metavar="FILE", action="append", default=[], help="references and patterns, one a line; - is stdin")
    add("--since", metavar="AGE", type=age, help="only what was pulled in that time: 12h, 7d")
    add("--platform", metavar="P", action="append", default=[], help="of multi-platform images only this: linux/arm64")
    add("--have", metavar="INVENTORY", type=existing, help="what the other side holds: pullcache inventory")
    add("--base", metavar="BUNDLE", type=existing, action="append", default=[], help="a bundle the other side has")
    add("--want", metavar="WANTS", type=existing, help="what the other side lacks: pullcache wants; fetched first")
    add("--volume-size", metavar="SIZE", type=volume_size, help="largest file: 4GB, or cd, dvd, bd25, fat32")
    add("--sign", metavar="KEYFILE", type=existing, help="sign with this key: pullcache keygen")
    add("--title", metavar="T", default="", help="so that people can tell bundles apart; part of the file's name")
    add("--partial", action="store_true", help="take images that are not whole as far as they go")
    add("--complete", action="store_true", help="fetch what an image lacks before exporting it")
    parser.set_defaults(ask=export)


async def export(session: Session, options: Namespace) -> int:
    """Write the bundle; status 1 when an image that was asked for is not in it."""
    wanted = selection(options)
    key = None if options.sign is None else secret_key(options.sign)
    planned = await _planned(session, wanted)
    if key is not None:
        planned = await _signed(session, planned, key)
    is_folder = options.output.endswith("/")
    files = targets(Path(options.output), is_folder, options.volume_size is not None, planned.volumes)
    _check_room(files)
    await _fetch(session, planned, files)
    _report(session.screen, planned, files)
    return FAILED if planned.left_out or planned.unanswered else DONE


async def _planned(session: Session, wanted: dict[str, Any]) -> PlannedExport:
    """The export as it is planned; what is fetched for it first is shown as it comes."""
    response = await session.client.open("POST", "exports", msgspec.json.encode(wanted), accept=LINES)
    meter = session.meter()
    total = 0
    try:
        async for line in session.client.lines(response):
            if "error" in line:
                raise refusal(line, "the appliance does not say why; see its log")
            if "export" in line or "id" in line:
                return session.client.as_kind(line.get("export", line), PlannedExport)
            if line.get("total", 0) > total:
                total = line["total"]
                meter.begin("fetching", total)
            if total:
                meter.at(line.get("done", 0))
    finally:
        meter.close()
    raise CommandFailed("the appliance ended without an export; see its log")


def selection(options: Namespace) -> dict[str, Any]:
    """
    What C{POST /api/v1/exports} is sent.

    @raise WrongUsage: nothing is selected, or things that exclude each other.
    """
    refs = [*options.refs, *(ref for name in options.list for ref in parse_list(_text(name)))]
    if not (refs or options.all or options.want or options.since is not None):
        raise WrongUsage("name what to export: references, patterns, --list, --since, --want or --all")
    if options.have and options.base:
        raise WrongUsage("--have is exact, and --base guesses: give one of them")
    given = {
        "refs": refs,
        "all": options.all,
        "since": options.since,
        "platforms": options.platform,
        "partial": options.partial,
        "complete": options.complete,
        "title": options.title,
        "volumeSize": options.volume_size,
        "want": options.want and _json(options.want),
        "have": options.have and _json(options.have),
        "base": [
            {"id": bundle.id, "blobs": [blob.digest for blob in bundle.blobs]}
            for bundle in map(list_of_contents, options.base)
        ],
    }
    return {name: value for name, value in given.items() if value not in (None, False, [], "")}


def targets(
    path: Path, is_folder: bool, may_be_several: bool, volumes: list[VolumeFile]
) -> dict[int, tuple[Path, int]]:
    """
    Where each volume goes, and its bytes, by number. A folder that is missing is made.

    @param is_folder: whether C{path} was written as a folder's.
    @raise CommandFailed: there are several volumes and C{path} is one file, or there are none.
    """
    if not volumes:
        raise CommandFailed("the appliance planned an export without a file; is it another version?")
    if not (is_folder or path.is_dir() or (may_be_several and path.suffix != ".tar")):
        if len(volumes) > 1:
            raise CommandFailed(f"there are {len(volumes)} volumes, which one file cannot hold: -o FOLDER/")
        return {volume.n: (path, volume.size) for volume in volumes}
    path.mkdir(parents=True, exist_ok=True)
    for name in (volume.file for volume in volumes):
        if Path(name).name != name or name in ("", ".", "..") or not name.isprintable():
            raise CommandFailed(f"the appliance calls a volume {name!r}, which is no file's name")
    return {volume.n: (path / volume.file, volume.size) for volume in volumes}


def _check_room(files: dict[int, tuple[Path, int]]) -> None:
    """Raises L{CommandFailed} when the medium is too small, before anything is written to it."""
    folder = next(iter(files.values()))[0].parent
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise CommandFailed(f"{folder} cannot be written to: {error.strerror}; make it, or change -o") from error
    needed = sum(octets for _, octets in files.values())
    if needed > free:
        raise CommandFailed(f"{folder} has {size(free)} free, and {size(needed)} are needed; try --volume-size")


async def _signed(session: Session, planned: PlannedExport, key: SecretKey) -> PlannedExport:
    """
    Sign the list of contents here, so that the key never leaves this machine.

    @return: the export with the signature in its volumes, which are larger by it.
    """
    path = _path(planned)
    document = await session.client.fetch_bytes(f"{path}/document")
    bundle = bundlejson.decode(document, "the list of contents to be signed")
    signature = key.sign(document, f"pullcache bundle {bundle.id}")
    await session.client.put(f"{path}/signature", signature.encode(), SIGNATURE_TYPE)
    return session.client.as_kind(await session.client.fetch(path), PlannedExport)


def _path(planned: PlannedExport) -> str:
    return f"exports/{quote(planned.id, safe='')}"


async def _fetch(session: Session, planned: PlannedExport, files: dict[int, tuple[Path, int]]) -> None:
    """All volumes, one after the other; each is there whole or not at all."""
    meter = session.meter()
    try:
        for n, (path, octets) in files.items():
            meter.begin(path.name, octets)
            response = await session.client.open("GET", f"{_path(planned)}/volumes/{n}")
            with PartFile(path) as part:
                async for piece in session.client.pieces(response):
                    part.write(piece)
                    meter.at(part.size)
                if part.size != octets:
                    raise CommandFailed(f"{path}: {part.size} bytes came of {octets}; export it again")
                part.finish()
    finally:
        meter.close()


def _report(screen: Screen, planned: PlannedExport, files: dict[int, tuple[Path, int]]) -> None:
    if screen.as_json:
        screen.document(
            {
                "id": planned.id,
                "volumes": [{"n": n, "file": str(path), "size": octets} for n, (path, octets) in files.items()],
                "leftOut": [_document(each) for each in planned.left_out],
                "partial": [_document(each) for each in planned.partial],
                "unanswered": planned.unanswered,
                "notes": planned.notes,
            }
        )
    for path, octets in files.values():
        screen.say(f"{path}  {size(octets)}")
    for verdict, lacks in (("left out", planned.left_out), ("not whole", planned.partial)):
        for each in lacks:
            why = f": {each.why}" if each.why else ""
            octets = sum(blob.size for blob in each.missing)
            what = f" ({count(len(each.missing), 'blob')}, {size(octets)})" if each.missing else ""
            screen.note(f"{verdict}: {each.ref}{why}{what}")
    for ref in planned.unanswered:
        screen.note(f"nothing of that is held: {ref}")
    for note in planned.notes:
        screen.note(note)
    if any(each.missing for each in planned.left_out):
        screen.note("fetch what is lacking first with --complete, or take what there is with --partial")


def _document(lack: Lack) -> dict[str, Any]:
    missing = [{"digest": blob.digest, "size": blob.size} for blob in lack.missing]
    return {"ref": lack.ref, "why": lack.why, "missing": missing}


def _text(name: str) -> str:
    try:
        return sys.stdin.read() if name == "-" else Path(name).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise WrongUsage(f"{name} cannot be read as a list: {error}") from error


def _json(path: Path) -> Any:
    try:
        return msgspec.json.decode(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise WrongUsage(f"{path} is no JSON document of pullcache: {error}") from error
