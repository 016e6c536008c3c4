"""
The few fields of an image's configuration that a bundle needs (image-spec, C{config.md}), and names of platforms.

A platform is written C{os/architecture[/variant]}, as in C{linux/arm/v7}.
"""

from __future__ import annotations

from typing import Any

import msgspec

from appliance.oci import mediatypes

TYPES = frozenset({mediatypes.OCI_CONFIG, mediatypes.DOCKER_CONFIG})
"""Media types of a configuration that describes a file system, and so an image that can be run."""

UNKNOWN = "unknown/unknown"
"""What BuildKit writes as the platform of an attestation."""

#: Variants that go without saying (containerd, C{platforms}): arm64 is v8, amd64 is v1, arm is v7.
_IMPLIED = {"arm64": "v8", "amd64": "v1", "arm": "v7"}


class RootFS(msgspec.Struct, frozen=True):
    """The file system: digests of the uncompressed layers."""

    diff_ids: list[str] = []


class ImageConfig(msgspec.Struct, frozen=True):
    """A configuration, as far as it is looked at."""

    os: str = ""
    architecture: str = ""
    variant: str = ""
    rootfs: RootFS | None = None

    @property
    def platform(self) -> str | None:
        """The platform, C{None} when the configuration does not say."""
        return named({"os": self.os, "architecture": self.architecture, "variant": self.variant})


_decoder = msgspec.json.Decoder(ImageConfig)


def parse_config(data: bytes) -> ImageConfig | None:
    """The configuration, C{None} when the bytes are none."""
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def named(platform: dict[str, Any] | None) -> str | None:
    """The name of a descriptor's platform, C{None} when there is none or it is that of an attestation."""
    parts = [(platform or {}).get(key) for key in ("os", "architecture", "variant")]
    if not all(isinstance(part, str) and part for part in parts[:2]):
        return None
    name = "/".join(part for part in parts if isinstance(part, str) and part)
    return None if name == UNKNOWN else name


def covers(wanted: str, platform: str) -> bool:
    """Whether C{platform} is one that C{wanted} means: without a variant it means the one that goes without saying."""
    return _whole(wanted) == _whole(platform)


def _whole(name: str) -> tuple[str, ...]:
    system, _, rest = name.lower().partition("/")
    architecture, _, variant = rest.partition("/")
    return (system, architecture, variant or _IMPLIED.get(architecture, ""))
