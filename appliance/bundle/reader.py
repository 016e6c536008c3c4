"""
The reader of archives, for an import and for C{pullcache verify}: it opens them and finds out what they hold.

A bundle is known by its C{pullcache/bundle.json}. Of what other tools wrote, an C{index.json} comes before a
C{manifest.json}: with both, only the first keeps digests. Everything here blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from appliance.bundle import bundlearchive, dockerarchive, layoutarchive
from appliance.bundle.archive import Archive, open_archive
from appliance.bundle.archivecontents import ArchiveContents, check_names
from appliance.bundle.bundlejson import decode
from appliance.bundle.compression import Stop
from appliance.bundle.contents import BUNDLE, INDEX, MANIFEST, Bundle
from appliance.bundle.trustpolicy import TrustPolicy
from appliance.errors import BundleError, BundleNotRead, BundleUnreadable, PullcacheError
from appliance.oci.digest import Digest
from appliance.oci.reference import Reference

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
    archive = open_archive(path, Stop())
    try:
        return decode(bundlearchive.document_of(archive), archive.source)
    finally:
        archive.close()


def read_contents(archives: Sequence[Archive], as_name: str | None, policy: TrustPolicy) -> ArchiveContents:
    """
    What the files hold together: all volumes of one bundle, or one archive of another tool.

    @param as_name: the name of the one image in another tool's archive, C{None} for the archive's own names.
    @raise BundleError: see L{bundlearchive.read_bundle} and L{read_foreign}; or the files do not belong together.
    """
    ours = [BUNDLE in archive.items for archive in archives]
    if not archives:
        raise BundleError("no file was named; name an archive, or all volumes of a bundle")
    try:
        if all(ours):
            if as_name is not None:
                raise BundleError(f"{archives[0].source}: a bundle has names of its own; leave --as away")
            return bundlearchive.read_bundle(archives, policy)
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
