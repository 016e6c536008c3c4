"""
Archives that other tools wrote, told apart by what is in them.

An C{index.json} comes before a C{manifest.json}: with both, only the first keeps digests. Everything here blocks.
"""

from __future__ import annotations

from appliance.bundle import dockerarchive, layoutarchive
from appliance.bundle.archive import Archive
from appliance.bundle.archivecontents import ArchiveContents, NamedManifest, check_names
from appliance.bundle.contents import INDEX, MANIFEST
from appliance.bundle.policy import TrustPolicy
from appliance.errors import BundleError, BundleUnreadable, PullcacheError
from appliance.oci.digest import Digest
from appliance.oci.reference import Reference

ANYBODY = TrustPolicy()
"""Takes whatever anybody made."""


def read_foreign(archive: Archive, named: str | None, policy: TrustPolicy = ANYBODY) -> ArchiveContents:
    """
    What the archive offers.

    @param named: the name that somebody gives the one image in it, C{None} to use the archive's own.
    @param policy: asked before anything of the archive is read.
    @raise BundleUntrusted: nobody can have signed it, and somebody should have.
    @raise BundleUnreadable: it is of no format known here.
    @raise BundleDamaged: it contradicts itself.
    @raise BundleError: an image has no name, or C{named} could be the name of several.
    """
    as_name = None if named is None else _given(named)
    if INDEX in archive.items:
        policy.refuse_foreign(archive.source, layoutarchive.FORMAT)
        contents = layoutarchive.read(archive, as_name)
    elif MANIFEST in archive.items:
        policy.refuse_foreign(archive.source, dockerarchive.FORMAT)
        contents = dockerarchive.read(archive, as_name)
    else:
        raise BundleUnreadable(
            f"{archive.source}: there is no pullcache/bundle.json, index.json or manifest.json in it; export images as"
            " a bundle, an OCI layout or a docker archive"
        )
    check_names(archive.source, contents.roots)
    contents.id = _identity(contents.roots)
    return contents


def _given(named: str) -> Reference:
    try:
        return Reference.parse_familiar(named)
    except PullcacheError as error:
        raise BundleError(f"{error}; write it as in docker.io/library/nginx:1.27") from None


def _identity(roots: list[NamedManifest]) -> str:
    """What stands for a bundle's id: a digest of the names and what they mean."""
    return str(Digest.of("".join(sorted(f"{root.name} {root.digest}\n" for root in roots)).encode()))
