"""
The reader of archives, for an import and for C{pullcache verify}: it opens them and finds out what they hold.

A bundle is known by its C{pullcache/bundle.json}; its files may be one tar, several volumes in any order, or a folder
they were put in. What that document lists is what there is: an entry that it does not list, or lists with another size,
makes the whole bundle damaged. Of what other tools wrote, an C{index.json} comes before a C{manifest.json}: with both,
only the first keeps digests. Everything here blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import get_args

from appliance.bundle import dockerarchive, layoutarchive
from appliance.bundle.archive import Archive, open_archive
from appliance.bundle.archivecontents import ArchiveContents, BlobFile, BlobSource, NamedManifest, check_names
from appliance.bundle.bundlejson import decode, decode_mark, plain_file
from appliance.bundle.compression import Stop
from appliance.bundle.contents import (
    BUNDLE,
    INDEX,
    MANIFEST,
    MAX_BUNDLE_BYTES,
    MAX_INDEX_BYTES,
    OCI_LAYOUT,
    SIGNATURE,
    VOLUME,
    BlobEntry,
    Bundle,
    PlainName,
    VolumeMark,
    blob_name,
    parse_name,
    part_name,
)
from appliance.bundle.minisign import MAX_SIGNATURE_BYTES, TrustPolicy
from appliance.bundle.toolfiles import UnlistedFiles
from appliance.errors import (
    BundleDamaged,
    BundleError,
    BundleNotRead,
    BundleUnreadable,
    NameInvalid,
    PullcacheError,
)
from appliance.index import documents
from appliance.oci.digest import Digest
from appliance.oci.manifest import MAX_MANIFEST_BYTES
from appliance.oci.reference import Reference, parse_tag

FORMAT = "pullcache bundle"
PLAIN_NAMES: tuple[PlainName, ...] = get_args(PlainName)
_MAX_MARK = 4096

ANY_SENDER = TrustPolicy()
"""Demands no signature."""


def open_into(archives: list[Archive], path: Path, stop: Stop, follow_links: bool = True) -> None:
    """
    Open one more archive. Raises L{BundleError}.

    When C{stop} was requested meanwhile, the import has ended and does not know of this archive: it is closed here.
    """
    archive = open_archive(path, stop, follow_links, archives)
    archives.append(archive)
    try:
        stop.check()
    except BaseException:
        archive.close()
        raise


def list_of_contents(path: Path) -> Bundle:
    """
    What C{bundle.json} of one file of a bundle, or of a folder, says; no blob is read and no signature checked.

    @raise BundleUnreadable: it is no bundle of pullcache.
    @raise BundleDamaged: it is truncated, or made to deceive.
    """
    with closing(open_archive(path, Stop())) as archive:
        return decode(document_of(archive), archive.source)


def read_contents(archives: Sequence[Archive], as_name: str | None, policy: TrustPolicy) -> ArchiveContents:
    """
    What the files hold together: all volumes of one bundle, or one archive of another tool.

    @param as_name: the name of the one image in another tool's archive, C{None} for the archive's own names.
    @raise BundleError: see L{TrustPolicy.check} and L{read_foreign}; or the files do not belong together.
    """
    ours = [BUNDLE in archive.items for archive in archives]
    if not archives:
        raise BundleError("no file was named; name an archive, or all volumes of a bundle")
    try:
        if all(ours):
            if as_name is not None:
                raise BundleError(f"{archives[0].source}: a bundle has names of its own; leave --as away")
            return _read_bundle(archives, policy)
        if len(archives) > 1:
            stranger = archives[ours.index(False)]
            raise BundleError(f"{stranger.source}: is no volume of a bundle; import another tool's archives one by one")
        return read_foreign(archives[0], as_name, policy)
    except OSError as error:
        raise BundleNotRead(
            f"{archives[0].source}: cannot be read: {error.strerror}; clean or copy the medium"
        ) from None


def read_foreign(archive: Archive, as_name: str | None, policy: TrustPolicy = ANY_SENDER) -> ArchiveContents:
    """
    What another tool's archive holds.

    @param as_name: see L{read_contents}.
    @param policy: asked before anything of the archive is read.
    @raise BundleUntrusted: a signature is demanded, and such an archive can have none.
    @raise BundleUnreadable: it is of no format known here.
    @raise BundleDamaged: it contradicts itself.
    @raise BundleError: an image has no name, or C{as_name} could be the name of several.
    """
    try:
        name = None if as_name is None else Reference.parse_familiar(as_name)
    except PullcacheError as error:
        raise BundleError(f"{error}; write it as in docker.io/library/nginx:1.27") from None
    if INDEX in archive.items:
        policy.refuse_foreign(archive.source, layoutarchive.FORMAT)
        contents = layoutarchive.read(archive, name)
    elif MANIFEST in archive.items:
        policy.refuse_foreign(archive.source, dockerarchive.FORMAT)
        contents = dockerarchive.read(archive, name)
    else:
        raise BundleUnreadable(
            f"{archive.source}: there is no pullcache/bundle.json, index.json or manifest.json in it; export images as"
            " a bundle, an OCI layout or a docker archive"
        )
    check_names(archive.source, contents.roots)
    # In place of a bundle's id: a digest of the names and what they mean.
    lines = sorted(f"{root.name} {root.digest}\n" for root in contents.roots)
    contents.id = str(Digest.of("".join(lines).encode()))
    return contents


# -- a bundle ---------------------------------------------------------------------------------------------------------


def _read_bundle(archives: Sequence[Archive], policy: TrustPolicy) -> ArchiveContents:
    """
    What the bundle holds; its signature is checked before anything in it is believed.

    @raise BundleUntrusted: see L{TrustPolicy.check}.
    @raise BundleTooNew: it is of a later format.
    @raise BundleDamaged: it is not what it was when it was made.
    @raise BundleError: the files are not of one bundle.
    """
    source = archives[0].source
    data = document_of(archives[0])
    for archive in archives[1:]:
        # Every file repeats it. One at a time: of a thousand volumes they would take all memory.
        if archive.items[BUNDLE].size != len(data) or archive.whole(archive.items[BUNDLE], len(data)) != data:
            raise BundleError(f"{archive.source} and {source} are not of one bundle; import one bundle at a time")
    signatures: dict[str, None] = {}
    for archive in archives:
        if (item := archive.items.get(SIGNATURE)) is not None:
            signatures[archive.whole(item, MAX_SIGNATURE_BYTES).decode("utf-8", "replace")] = None
    signed = policy.check(source, data, list(signatures))
    bundle = decode(data, source)
    for archive in archives:
        mark = _mark(archive)
        if mark is not None and (mark.bundle, mark.of) != (bundle.id, bundle.volume_count):
            raise BundleDamaged(f"{archive.source}, {VOLUME}: it is of another bundle; copy the file again")
    _check_entries(archives, bundle)
    _check_plain_files(archives, bundle)

    contents = ArchiveContents(FORMAT, bundle.id, [archive.source for archive in archives], bundle=bundle)
    if signed is not None:
        contents.signer, contents.comment = signed[0].key_id, signed[1]
    else:
        said = "it is signed, but no key is trusted here to check that with" if signatures else "it is not signed"
        contents.notes.append(f"{said}; anybody could have made it")
        contents.unchecked = list(signatures)
    _add_blobs(contents, archives, bundle)
    contents.roots = _roots(bundle, source)
    check_names(source, contents.roots)
    contents.absent = frozenset(Digest.parse(absent.digest) for absent in bundle.absent_platforms)
    return contents


def document_of(archive: Archive) -> bytes:
    """
    The list of contents that every file of a bundle holds, as it was signed.

    @raise BundleUnreadable: the archive is no bundle.
    """
    if BUNDLE not in archive.items:
        raise BundleUnreadable(
            f"{archive.source}: there is no {BUNDLE} in it; other archives can be imported, but carry nothing that"
            " could be verified or built on"
        )
    return archive.whole(archive.items[BUNDLE], MAX_BUNDLE_BYTES)


def missing_volumes(bundle: Bundle, archives: Sequence[Archive]) -> set[int]:
    """Numbers of the volumes of which nothing was given."""
    names = {name for archive in archives for name in archive.items}
    given = {volume for blob in bundle.blobs for name, _, volume in entries_of(blob) if name in names}
    given.update(mark.n for mark in map(_mark, archives) if mark is not None)
    return {volume.n for volume in bundle.volumes if volume.size} - given


def is_cut(bundle: Bundle, archives: Sequence[Archive]) -> bool:
    """Whether a volume of which something was given lacks some of the blobs that are to be in it."""
    names = {name for archive in archives for name in archive.items}
    absent = missing_volumes(bundle, archives)
    return any(
        name not in names and volume not in absent for blob in bundle.blobs for name, _, volume in entries_of(blob)
    )


def volumes_of(blob: BlobEntry) -> set[int]:
    """The volumes that hold the blob."""
    return {volume for _, _, volume in entries_of(blob)}


def _mark(archive: Archive) -> VolumeMark | None:
    """Which volume of which bundle the file is, C{None} when it does not say."""
    item = archive.items.get(VOLUME)
    return None if item is None else decode_mark(archive.whole(item, _MAX_MARK), archive.source)


def entries_of(blob: BlobEntry) -> list[tuple[str, int, int]]:
    """Name, size and volume of each entry that the blob consists of."""
    digest = Digest.parse(blob.digest)
    if not blob.parts:
        return [(blob_name(digest), blob.size, blob.volume)]
    return [(part_name(digest, part.n), part.size, part.volume) for part in blob.parts]


def _check_entries(archives: Sequence[Archive], bundle: Bundle) -> None:
    """Raises L{BundleDamaged} for what stands where blobs stand and is none of the list."""
    sizes = {name: size for blob in bundle.blobs for name, size, _ in entries_of(blob)}
    for archive in archives:
        if archive.others:
            raise BundleDamaged(
                f"{archive.source}, at {min(archive.others)!r}: a link or device, which no bundle holds; do not trust"
                " it, and ask who made it"
            )
        for item in archive.items.values():
            if not item.name.startswith(("blobs/", "pullcache/parts/")):
                continue
            if item.name not in sizes:
                raise BundleDamaged(
                    f"{archive.source}, at {item.name!r}: the list of contents does not know it; have it exported again"
                )
            if item.size != sizes[item.name]:
                raise BundleDamaged(
                    f"{archive.source}, at {item.name!r}: {item.size} bytes where {sizes[item.name]} are listed; copy"
                    " the file again, or have it exported again"
                )


def _check_plain_files(archives: Sequence[Archive], bundle: Bundle) -> None:
    """Raises L{BundleDamaged} when what other tools would read is not what was signed, or says something else."""

    def document(digest: Digest) -> bytes | None:
        name = blob_name(digest)
        archive = next((archive for archive in archives if name in archive.items), None)
        return None if archive is None else archive.whole(archive.items[name], MAX_MANIFEST_BYTES)

    listed = {file.name: file for file in bundle.files}
    for archive in archives:
        for name in (name for name in PLAIN_NAMES if name in archive.items):
            data = archive.whole(archive.items[name], MAX_INDEX_BYTES)
            if name in listed:
                if plain_file(name, data) != listed[name]:
                    raise BundleDamaged(
                        f"{archive.source}, {name}: it was changed after it was made; copy the file again"
                    )
            elif name == OCI_LAYOUT:
                # A user may have put it back, so that other tools read an increment; it says one thing only.
                if data != documents.OCI_LAYOUT:
                    raise BundleDamaged(f"{archive.source}, {name}: it is no OCI layout's; have it exported again")
            elif listed:
                raise BundleDamaged(f"{archive.source}, {name}: it was added to the bundle later; do not trust it")
            else:
                unlisted = UnlistedFiles(bundle, archive.source, document)
                unlisted.check_index(data) if name == INDEX else unlisted.check_docker(data)


def _add_blobs(contents: ArchiveContents, archives: Sequence[Archive], bundle: Bundle) -> None:
    """The blobs that are wholly in the files given, and the parts of others."""
    files: dict[str, BlobFile] = {}
    for archive in archives:
        for item in archive.items.values():
            if parse_name(item.name) is not None:
                files.setdefault(item.name, BlobFile(archive, item))
    for blob in bundle.blobs:
        names = [name for name, _, _ in entries_of(blob)]
        hashes = [part.sha256 for part in blob.parts] or [""]
        found = [
            replace(files[name], sha256=sha256) for name, sha256 in zip(names, hashes, strict=True) if name in files
        ]
        if len(found) == len(names):
            digest = Digest.parse(blob.digest)
            contents.blobs[digest] = BlobSource(digest, blob.size, tuple(found))
        else:
            contents.loose += found


def _roots(bundle: Bundle, source: str) -> list[NamedManifest]:
    """References, and what refers to them, each as a name of its own. Raises L{BundleDamaged}."""
    listed = {blob.digest: blob for blob in bundle.blobs}
    roots: list[NamedManifest] = []
    try:
        for ref in bundle.refs:
            name, digest, upstream = Reference.parse(ref.name), Digest.parse(ref.digest), ref.upstream
            if (name.upstream, name.repository, name.tag) != (upstream.registry, upstream.repository, upstream.tag):
                raise NameInvalid(f"{ref.name!r} is said to come from elsewhere")
            if name.digest is not None and name.digest != digest:
                raise NameInvalid(f"{ref.name!r} is said to mean {ref.digest}")
            roots.append(NamedManifest(name.upstream, name.repository, name.tag, digest, ref.size, ref.media_type))
        known = {(root.upstream, root.repository, root.tag, root.digest) for root in roots}
        for referrer in bundle.referrers:
            blob = listed.get(referrer.digest)
            if blob is None:
                # It was held by the other side already when this was exported.
                continue
            place, digest = _repository(referrer.repository), Digest.parse(referrer.digest)
            tag = None if referrer.tag is None else parse_tag(referrer.tag)
            if (place.upstream, place.repository, tag, digest) not in known:
                roots.append(
                    NamedManifest(
                        place.upstream, place.repository, tag, digest, blob.size, blob.media_type, refers=True
                    )
                )
        for entry in bundle.referrers_heard:
            _repository(entry.repository)
    except PullcacheError as error:
        raise BundleDamaged(f"{source}, {BUNDLE}: {error}; have it exported again") from None
    return roots


def _repository(text: str) -> Reference:
    """A repository in full. Raises L{NameInvalid}."""
    place = Reference.parse(text)
    if place.tag is not None or place.digest is not None:
        raise NameInvalid(f"{text!r} names more than a repository")
    return place
