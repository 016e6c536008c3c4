"""C{pullcache verify}: is this bundle what was made, and by whom? Needs no appliance, no store and no network."""

from __future__ import annotations

import hashlib
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from appliance.bundle.archive import Archive, Item, whole
from appliance.bundle.contents import (
    INDEX,
    MANIFEST,
    MAX_INDEX_BYTES,
    BlobEntry,
    Bundle,
    blob_name,
    parse_name,
    part_name,
)
from appliance.bundle.minisign import PublicKey
from appliance.bundle.minisign import verify as verified
from appliance.cli.arguments import Commands, existing, new_command
from appliance.cli.bundlefile import BundleFile
from appliance.cli.failures import WrongUsage
from appliance.cli.keys import public_key
from appliance.cli.meter import Meter
from appliance.cli.screen import Screen
from appliance.cli.session import DONE, FAILED, Local
from appliance.cli.toolfiles import ToolFiles
from appliance.cli.words import count, short, size
from appliance.errors import BundleDamaged, BundleUntrusted
from appliance.oci.digest import Digest
from appliance.oci.manifest import MAX_MANIFEST_BYTES

#: Bytes read at once.
PIECE = 1024 * 1024


def add_to(commands: Commands) -> None:
    """Add C{verify}."""
    parser = new_command(commands, "verify", "check a bundle's signature and every digest, without an appliance")
    parser.add_argument("files", metavar="FILE", nargs="+", type=existing, help="the bundle, or its volumes")
    parser.add_argument(
        "--trust", metavar="PUBKEY", action="append", default=[], help="a public key, or its file; refuse others"
    )
    parser.set_defaults(run=verify)


def verify(local: Local, options: Namespace) -> int:
    """
    Print signer, contents and content root, and check every blob that is there.

    @raise BundleUntrusted: no key given with C{--trust} signed it.
    @raise BundleDamaged: something in it is not what its digest says.
    """
    trusted = [public_key(given) for given in options.trust]
    with ExitStack() as opened:
        volumes = Volumes([opened.enter_context(BundleFile.open(path)) for path in options.files])
        signed = volumes.signed(trusted)
        volumes.check_tool_files()
        Checks(volumes, local.meter()).run()
    absent = volumes.absent()
    _report(local.screen, volumes.bundle, signed, absent)
    return FAILED if absent else DONE


@dataclass(frozen=True)
class Signed:
    """
    What is known of a signature.

    @ivar key: the trusted key that made it, C{None} when nothing was checked.
    @ivar words: for people.
    """

    key: PublicKey | None
    words: str


class Volumes:
    """
    The files of one bundle.

    @raise WrongUsage: they are of several.
    """

    def __init__(self, files: Sequence[BundleFile]) -> None:
        self._files = files
        self.bundle: Bundle = files[0].bundle
        self._places: dict[str, tuple[Archive, Item]] = {}
        for file in files:
            if file.document != files[0].document:
                raise WrongUsage(
                    f"{files[0].archive.source} and {file.archive.source} are not of one bundle; verify each by itself"
                )
            self._places |= {name: (file.archive, item) for name, item in file.archive.items.items()}

    def signed(self, trusted: Sequence[PublicKey]) -> Signed:
        """Who signed it. Raises L{BundleUntrusted} when keys are given and one of the files is not by one of them."""
        signed = [_signed(file, trusted) for file in self._files]
        return signed[0]

    def find(self, name: str) -> tuple[Archive, Item] | None:
        """The entry of that name, in whichever file it is."""
        return self._places.get(name)

    def check_tool_files(self) -> None:
        """What other tools read says the same. Raises L{BundleDamaged}."""
        for name, check in ((INDEX, ToolFiles.check_index), (MANIFEST, ToolFiles.check_docker)):
            place = self.find(name)
            if place is not None:
                files = ToolFiles(self.bundle, place[0].source, self._document)
                check(files, whole(*place, MAX_INDEX_BYTES))

    def _document(self, digest: Digest) -> bytes | None:
        """A manifest, whose bytes are checked with all others."""
        place = self.find(blob_name(digest))
        return None if place is None else whole(*place, MAX_MANIFEST_BYTES)

    def strangers(self) -> list[str]:
        """Blobs, and parts of blobs, that the list of contents does not name."""
        listed = {name for blob in self.bundle.blobs for name, _ in pieces(blob)}
        return [name for name in self._places if parse_name(name) is not None and name not in listed]

    def absent(self) -> list[int]:
        """The numbers of the volumes of which nothing was given."""
        wanted: dict[int, list[str]] = {}
        for blob in self.bundle.blobs:
            for name, volume in pieces(blob):
                wanted.setdefault(volume, []).append(name)
        return sorted(n for n, names in wanted.items() if not any(name in self._places for name in names))


def _signed(file: BundleFile, trusted: Sequence[PublicKey]) -> Signed:
    source = file.archive.source
    if file.signature is None:
        if trusted:
            raise BundleUntrusted(f"{source}: it is not signed; ask who made it for a signed one")
        return Signed(None, "nobody: it is not signed")
    try:
        key, comment = verified(file.document, file.signature, trusted)
    except BundleUntrusted as error:
        if trusted:
            raise BundleUntrusted(f"{source}: {error}") from error
        return Signed(None, f"not checked: {error}; name the signer's key with --trust")
    return Signed(key, f"key {key.key_id} ({comment})" if comment else f"key {key.key_id}")


def pieces(blob: BlobEntry) -> list[tuple[str, int]]:
    """The entries that hold a blob, each with the number of its volume."""
    digest = Digest.parse(blob.digest)
    return [(part_name(digest, part.n), part.volume) for part in blob.parts] or [(blob_name(digest), blob.volume)]


class Checks:
    """Reads every blob once and compares it with the list of contents."""

    def __init__(self, volumes: Volumes, meter: Meter) -> None:
        self._volumes = volumes
        self._absent = frozenset(volumes.absent())
        self._meter = meter
        self._done = 0

    def run(self) -> None:
        """Check all. Raises L{BundleDamaged} for the first fault."""
        for name in self._volumes.strangers():
            raise BundleDamaged(f"{name} is in the archive and not in its list of contents; do not import it")
        self._meter.begin("checking", self._volumes.bundle.totals.bytes)
        try:
            for blob in self._volumes.bundle.blobs:
                self._check(blob)
        finally:
            self._meter.close()

    def _check(self, blob: BlobEntry) -> None:
        """One blob, and each part of it that was given."""
        entire = Digest.parse(blob.digest).hasher()
        complete = True
        for number, (name, volume) in enumerate(pieces(blob)):
            if volume in self._absent:
                complete = False
                continue
            part = hashlib.sha256()
            for data in self._data(name, blob.parts[number].size if blob.parts else blob.size):
                part.update(data) if blob.parts else None
                entire.update(data)
            if blob.parts and part.hexdigest() != blob.parts[number].sha256:
                raise _wrong(self._volumes.find(name), name)
        if complete and entire.hexdigest() != Digest.parse(blob.digest).encoded:
            raise _wrong(self._volumes.find(pieces(blob)[0][0]), blob.digest)

    def _data(self, name: str, expected: int) -> Iterator[bytes]:
        """The bytes of an entry. Raises L{BundleDamaged} when it is not there or not of C{expected} bytes."""
        place = self._volumes.find(name)
        if place is None:
            raise BundleDamaged(f"{name} is in the list of contents and not in the archive; copy the file again")
        archive, item = place
        if item.size != expected:
            raise BundleDamaged(f"{archive.source}, {name}: {item.size} bytes, {expected} were expected; copy it again")
        start = 0
        while start < item.size:
            data = archive.read(item, start, PIECE)
            start += len(data)
            self._done += len(data)
            self._meter.at(self._done)
            yield data


def _wrong(place: tuple[Archive, Item] | None, name: str) -> BundleDamaged:
    source = "the archive" if place is None else place[0].source
    return BundleDamaged(f"{source}, {name}: the bytes are not those that were exported; copy the file again")


def _report(screen: Screen, bundle: Bundle, signed: Signed, absent: Sequence[int]) -> None:
    if screen.as_json:
        screen.document(_document(bundle, signed, absent))
        return
    screen.table(list(_summary(bundle, signed)))
    screen.say()
    screen.table([("REFERENCE", "DIGEST", "PLATFORMS"), *_references(bundle)])
    screen.say()
    if absent:
        numbers = ", ".join(map(str, absent))
        screen.say(f"what was given is right; of {bundle.volume_count} volumes these were not given: {numbers}")
    else:
        screen.say(f"every digest is right: {count(bundle.totals.blobs, 'blob')}, {size(bundle.totals.bytes)}")


def _summary(bundle: Bundle, signed: Signed) -> Iterator[tuple[str, str]]:
    yield "bundle", bundle.id
    if bundle.title:
        yield "title", bundle.title
    yield "signer", signed.words
    yield "site", bundle.site
    yield "created", bundle.created
    yield "kind", bundle.kind
    totals = bundle.totals
    yield "contents", f"{count(totals.refs, 'reference')}, {count(totals.blobs, 'blob')}, {size(totals.bytes)}"
    if bundle.requires:
        needed = sum(each.size for each in bundle.requires)
        yield "requires", f"{count(len(bundle.requires), 'blob')}, {size(needed)}, that must be held already"
    yield "contentRoot", bundle.content_root


def _references(bundle: Bundle) -> Iterator[tuple[str, str, str]]:
    for ref in bundle.refs:
        absent = [f"-{platform}" for platform in ref.platforms.absent]
        yield ref.name, short(ref.digest), " ".join([*ref.platforms.present, *absent]) or "-"


def _document(bundle: Bundle, signed: Signed, absent: Sequence[int]) -> dict[str, Any]:
    return {
        "id": bundle.id,
        "title": bundle.title,
        "kind": bundle.kind,
        "created": bundle.created,
        "site": bundle.site,
        "signer": signed.key and signed.key.key_id,
        "signature": signed.words,
        "contentRoot": bundle.content_root,
        "totals": bundle.totals,
        "refs": bundle.refs,
        "requires": bundle.requires,
        "volumeCount": bundle.volume_count,
        "absentVolumes": list(absent),
    }
