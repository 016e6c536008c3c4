"""A bundle on this machine's own disk: one file of it, with the list of contents that every file of it holds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from appliance.bundle import bundlejson, contents
from appliance.bundle.archive import Archive, open_archive, whole
from appliance.bundle.compression import Stop
from appliance.bundle.contents import Bundle
from appliance.bundle.minisign import MAX_SIGNATURE_BYTES
from appliance.errors import BundleUnreadable


@dataclass(frozen=True)
class BundleFile:
    """
    A file, or a folder, that holds a bundle or a volume of one; a context that closes it.

    @ivar document: the bytes of C{bundle.json}: what is signed.
    @ivar signature: the signature's file, C{None} when there is none.
    """

    archive: Archive
    document: bytes
    bundle: Bundle
    signature: str | None

    @classmethod
    def open(cls, path: Path) -> BundleFile:
        """
        Read what it holds, and none of its blobs.

        @raise BundleUnreadable: it is no bundle of pullcache.
        @raise BundleDamaged: it is truncated, or made to deceive.
        """
        archive = open_archive(path, Stop())
        try:
            return cls._of(archive)
        except BaseException:
            archive.close()
            raise

    @classmethod
    def _of(cls, archive: Archive) -> BundleFile:
        item = archive.items.get(contents.BUNDLE)
        if item is None:
            raise BundleUnreadable(
                f"{archive.source}: there is no {contents.BUNDLE} in it; other archives can be imported, "
                "but carry nothing that could be verified or built on"
            )
        document = whole(archive, item, contents.MAX_BUNDLE_BYTES)
        return cls(archive, document, bundlejson.decode(document, archive.source), _signature(archive))

    def __enter__(self) -> BundleFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.archive.close()


def _signature(archive: Archive) -> str | None:
    item = archive.items.get(contents.SIGNATURE)
    # What is no text is no signature, which whoever checks it will say.
    return None if item is None else whole(archive, item, MAX_SIGNATURE_BYTES).decode("utf-8", "replace")
