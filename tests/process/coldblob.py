"""A blob that an appliance knows and does not hold."""

from __future__ import annotations

from typing import Any

from tests.clients.plain import get
from tests.doubles.answers import Exchange
from tests.doubles.remote import RemoteRegistry
from tests.process.service import Appliance


class ColdBlob:
    """
    The largest layer of an image whose manifest was pulled and nothing else.

    @ivar path: where it is asked for, here and at the upstream.
    @ivar partial: the file into which it is received.
    """

    def __init__(
        self,
        appliance: Appliance,
        upstream: RemoteRegistry,
        size: int,
        repository: str = "team/app",
        tag: str = "latest",
        **more: Any,
    ) -> None:
        """
        @param size: bytes of the layer, about.
        """
        added = upstream.add(repository, tag, sizes=[size], **more)
        self.digest, self.size = max(added["blobs"], key=lambda blob: blob[1])
        self.path = f"/v2/{repository}/blobs/{self.digest}"
        self.partial = appliance.store / "partial" / self.digest.replace(":", "-")
        self._upstream = upstream
        get(appliance.authority, f"/v2/{repository}/manifests/{tag}")

    def fetches(self) -> list[Exchange]:
        """What the upstream was asked for this blob."""
        return self._upstream.seen(f"GET {self.path}")
