"""
The files of one bundle, in whatever order they were given: one tar, several volumes, or a folder they were put in.

What C{pullcache/bundle.json} lists is what there is: an entry that it does not list, or lists with another size, makes
the whole bundle damaged. Everything here blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

from appliance.bundle.archive import Archive, whole
from appliance.bundle.archivecontents import ArchiveContents, BlobFile, BlobSource, NamedManifest, check_names
from appliance.bundle.bundlejson import decode, decode_mark, plain_file
from appliance.bundle.contents import (
    BUNDLE,
    INDEX,
    MAX_BUNDLE_BYTES,
    MAX_INDEX_BYTES,
    OCI_LAYOUT,
    SIGNATURE,
    VOLUME,
    BlobEntry,
    Bundle,
    PlainName,
    Ref,
    ReferrerEntry,
    blob_name,
    parse_name,
    part_name,
)
from appliance.bundle.minisign import MAX_SIGNATURE_BYTES
from appliance.bundle.policy import TrustPolicy
from appliance.bundle.toolfiles import UnlistedFiles
from appliance.errors import BundleDamaged, BundleError, NameInvalid, PullcacheError
from appliance.index import documents
from appliance.oci.digest import Digest
from appliance.oci.manifest import MAX_MANIFEST_BYTES
from appliance.oci.reference import Reference, parse_tag

FORMAT = "pullcache bundle"
PLAIN_NAMES: tuple[PlainName, ...] = get_args(PlainName)
_MAX_MARK = 4096


def read_bundle(archives: Sequence[Archive], policy: TrustPolicy) -> ArchiveContents:
    """
    What the bundle offers; its signature is checked before anything in it is believed.

    @raise BundleUntrusted: see L{TrustPolicy.check}.
    @raise BundleTooNew: it is of a later format.
    @raise BundleDamaged: it is not what it was when it was made.
    @raise BundleError: the files are not of one bundle.
    """
    data = _document(archives)
    source = archives[0].source
    signatures = _signatures(archives)
    signed = policy.check(source, data, signatures)
    bundle = decode(data, source)
    contents = ArchiveContents(FORMAT, bundle.id, [archive.source for archive in archives], bundle=bundle)
    if signed is not None:
        contents.signer, contents.comment = signed[0].key_id, signed[1]
    else:
        said = "it is signed, but no key is trusted here to check that with" if signatures else "it is not signed"
        contents.notes.append(f"{said}; anybody could have made it")
        contents.unchecked = signatures
    _check_marks(archives, bundle)
    _check_entries(archives, bundle)
    _check_plain_files(archives, bundle)
    _add_blobs(contents, archives, bundle)
    contents.roots = _roots(bundle, source)
    check_names(source, contents.roots)
    contents.absent = frozenset(Digest.parse(absent.digest) for absent in bundle.absent_platforms)
    return contents


def missing_volumes(bundle: Bundle, archives: Sequence[Archive]) -> set[int]:
    """Numbers of the volumes of which nothing was given."""
    names = {name for archive in archives for name in archive.items}
    given = {volume for blob in bundle.blobs for name, _, volume in _entries(blob) if name in names}
    for archive in archives:
        if VOLUME in archive.items:
            given.add(decode_mark(whole(archive, archive.items[VOLUME], _MAX_MARK), archive.source).n)
    return {volume.n for volume in bundle.volumes if volume.size} - given


def is_cut(bundle: Bundle, archives: Sequence[Archive]) -> bool:
    """Whether a volume of which something was given lacks some of the blobs that are to be in it."""
    names = {name for archive in archives for name in archive.items}
    absent = missing_volumes(bundle, archives)
    return any(
        name not in names and volume not in absent for blob in bundle.blobs for name, _, volume in _entries(blob)
    )


def volumes_of(blob: BlobEntry) -> set[int]:
    """The volumes that hold the blob."""
    return {volume for _, _, volume in _entries(blob)}


def _document(archives: Sequence[Archive]) -> bytes:
    """The bytes of bundle.json, which every file repeats."""
    first = whole(archives[0], archives[0].items[BUNDLE], MAX_BUNDLE_BYTES)
    for archive in archives[1:]:
        # One at a time: of a thousand volumes they would take all memory.
        if archive.items[BUNDLE].size != len(first) or whole(archive, archive.items[BUNDLE], len(first)) != first:
            raise BundleError(
                f"{archive.source} and {archives[0].source} are not of one bundle; import one bundle at a time"
            )
    return first


def _signatures(archives: Sequence[Archive]) -> list[str]:
    """The signatures found, each once."""
    found: dict[str, None] = {}
    for archive in archives:
        if (item := archive.items.get(SIGNATURE)) is not None:
            found[whole(archive, item, MAX_SIGNATURE_BYTES).decode("utf-8", "replace")] = None
    return list(found)


def _check_marks(archives: Sequence[Archive], bundle: Bundle) -> None:
    for archive in archives:
        if (item := archive.items.get(VOLUME)) is None:
            continue
        mark = decode_mark(whole(archive, item, _MAX_MARK), archive.source)
        if (mark.bundle, mark.of) != (bundle.id, bundle.volume_count):
            raise BundleDamaged(f"{archive.source}, {VOLUME}: it is of another bundle; copy the file again")


def _check_plain_files(archives: Sequence[Archive], bundle: Bundle) -> None:
    """Raises L{BundleDamaged} when what other tools would read is not what was signed, or says something else."""
    listed = {file.name: file for file in bundle.files}
    for archive in archives:
        for name in (name for name in PLAIN_NAMES if name in archive.items):
            data = whole(archive, archive.items[name], MAX_INDEX_BYTES)
            if name in listed:
                if plain_file(name, data) != listed[name]:
                    raise BundleDamaged(
                        f"{archive.source}, {name}: it was changed after it was made; copy the file again"
                    )
            elif name == OCI_LAYOUT:
                # Somebody may have put it back, so that other tools read an increment; it says one thing only.
                if data != documents.OCI_LAYOUT:
                    raise BundleDamaged(f"{archive.source}, {name}: it is no OCI layout's; have it exported again")
            elif listed:
                raise BundleDamaged(f"{archive.source}, {name}: it was added to the bundle later; do not trust it")
            else:
                _check_unlisted(archives, archive.source, bundle, name, data)


def _check_unlisted(archives: Sequence[Archive], source: str, bundle: Bundle, name: str, data: bytes) -> None:
    """Of a bundle that lists none of its plain files: whether this one agrees with its list of references."""

    def document(digest: Digest) -> bytes | None:
        found = (archive for archive in archives if blob_name(digest) in archive.items)
        archive = next(found, None)
        return None if archive is None else whole(archive, archive.items[blob_name(digest)], MAX_MANIFEST_BYTES)

    files = UnlistedFiles(bundle, source, document)
    files.check_index(data) if name == INDEX else files.check_docker(data)


def _check_entries(archives: Sequence[Archive], bundle: Bundle) -> None:
    """Raises L{BundleDamaged} for what stands where blobs stand and is none of the list."""
    sizes = {name: size for blob in bundle.blobs for name, size, _ in _entries(blob)}
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


def _entries(blob: BlobEntry) -> list[tuple[str, int, int]]:
    """Name, size and volume of each entry that the blob consists of."""
    digest = Digest.parse(blob.digest)
    if not blob.parts:
        return [(blob_name(digest), blob.size, blob.volume)]
    return [(part_name(digest, part.n), part.size, part.volume) for part in blob.parts]


def _add_blobs(contents: ArchiveContents, archives: Sequence[Archive], bundle: Bundle) -> None:
    """The blobs that are wholly in the files given, and the parts of others."""
    files: dict[str, BlobFile] = {}
    for archive in archives:
        for item in archive.items.values():
            if parse_name(item.name) is not None:
                files.setdefault(item.name, BlobFile(archive, item))
    for blob in bundle.blobs:
        names = [name for name, _, _ in _entries(blob)]
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
    """References, and what refers to them."""
    listed = {blob.digest: blob for blob in bundle.blobs}
    try:
        roots = [_root(ref) for ref in bundle.refs]
        known = {(root.upstream, root.repository, root.tag, root.digest) for root in roots}
        for referrer in bundle.referrers:
            root = _referrer(referrer, listed)
            if root is not None and (root.upstream, root.repository, root.tag, root.digest) not in known:
                roots.append(root)
        for entry in bundle.referrers_heard:
            _place(entry.repository)
    except PullcacheError as error:
        raise BundleDamaged(f"{source}, {BUNDLE}: {error}; have it exported again") from None
    return roots


def _root(ref: Ref) -> NamedManifest:
    name, digest = Reference.parse(ref.name), Digest.parse(ref.digest)
    upstream = ref.upstream
    if (name.upstream, name.repository, name.tag) != (upstream.registry, upstream.repository, upstream.tag):
        raise NameInvalid(f"{ref.name!r} is said to come from elsewhere")
    if name.digest is not None and name.digest != digest:
        raise NameInvalid(f"{ref.name!r} is said to mean {ref.digest}")
    return NamedManifest(name.upstream, name.repository, name.tag, digest, ref.size, ref.media_type)


def _referrer(referrer: ReferrerEntry, listed: dict[str, BlobEntry]) -> NamedManifest | None:
    """The referrer as a name of its own; C{None} when it is not inside, and so was held when this was exported."""
    blob = listed.get(referrer.digest)
    if blob is None:
        return None
    place, digest = _place(referrer.repository), Digest.parse(referrer.digest)
    tag = None if referrer.tag is None else parse_tag(referrer.tag)
    return NamedManifest(place.upstream, place.repository, tag, digest, blob.size, blob.media_type, refers=True)


def _place(text: str) -> Reference:
    """A repository in full. Raises L{NameInvalid}."""
    place = Reference.parse(text)
    if place.tag is not None or place.digest is not None:
        raise NameInvalid(f"{text!r} names more than a repository")
    return place
