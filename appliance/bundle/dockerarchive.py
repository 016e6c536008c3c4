"""
Docker archives (moby, C{image/spec/v1.2.md}): what C{docker save}, C{podman save}, C{skopeo} and C{crane pull} write.

There is no manifest in one, so it is made anew, the same bytes every time: an OCI manifest of the configuration and the
layers as they lie there, most often uncompressed. Its digest is not the one that the image has in its registry.

Only C{manifest.json} and what it names are read. Some writers name a layer that several images share by a link; links
are never followed: the layer is found by its digest, which stands in the configuration. Everything here blocks.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass

import msgspec

from appliance.bundle.archive import Archive, Item
from appliance.bundle.archivecontents import ArchiveContents, BlobFile, BlobSource, NamedManifest
from appliance.bundle.contents import MANIFEST, MAX_INDEX_BYTES, MAX_INDEX_VALUES, MAX_REFS, check_values
from appliance.errors import BundleError, BundleUnreadable, DigestInvalid, PullcacheError
from appliance.oci import imageconfig, mediatypes
from appliance.oci.digest import Digest
from appliance.oci.manifest import MAX_MANIFEST_BYTES
from appliance.oci.reference import Reference

FORMAT = "a docker archive"

_MAX_LAYERS = 1000
_PIECE = 4 * 1024 * 1024
_HEX = re.compile(r"(?:.*/)?(?:sha256:)?([0-9a-f]{64})(?:\.[a-z.]+)?")
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


class _SavedImage(msgspec.Struct, rename="pascal"):
    """One entry of manifest.json."""

    config: str
    layers: list[str] | None = None
    repo_tags: list[str] | None = None


@dataclass(frozen=True)
class _Blob:
    """A blob of a manifest that is made here."""

    digest: Digest
    size: int
    media_type: str

    def descriptor(self) -> dict[str, str | int]:
        return {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}


def read(archive: Archive, as_name: Reference | None) -> ArchiveContents:
    """
    What the archive holds.

    @param as_name: the name that the user gives the one image in it.
    @raise BundleDamaged: it contradicts itself.
    @raise BundleError: an image has no name, or C{as_name} could be the name of several.
    """
    return _DockerArchive(archive).read(as_name)


class _DockerArchive:
    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._contents = ArchiveContents(FORMAT, "", [archive.source])
        # Uncompressed layers that lie there as files, by their digest.
        self._plain: dict[str, Item] = {}
        # By the names of their files: several images may share them.
        self._layers: dict[str, _Blob] = {}
        self._configs: dict[str, tuple[list[str], _Blob]] = {}

    def read(self, as_name: Reference | None) -> ArchiveContents:
        images = self._images()
        if as_name is not None and len({image.config for image in images}) > 1:
            raise BundleError(
                f"{self._archive.source}: one name was given, and there are {len(images)} images in it; export them"
                " into separate archives"
            )
        # First the files of all images: what is a link in one may be a file in a later one.
        for image in images:
            self._find_layers(image)
        roots: dict[str, NamedManifest] = {}
        for image in images:
            for root in self._rebuilt(image, as_name):
                if roots.setdefault(root.name, root) != root:
                    self._archive.refuse(MANIFEST, f"{root.name} is the name of two images; export them one by one")
        self._contents.roots = list(roots.values())
        self._contents.notes.append(
            "a docker archive holds no manifest: it was rebuilt, so its digest is not the one in the original registry"
        )
        return self._contents

    def _images(self) -> list[_SavedImage]:
        data = self._archive.whole(self._archive.items[MANIFEST], MAX_INDEX_BYTES)
        try:
            check_values(data, MAX_INDEX_VALUES)
            images = msgspec.json.decode(data, type=list[_SavedImage])
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise BundleUnreadable(
                f"{self._archive.source}: its {MANIFEST} is not docker's ({error}); export images as a bundle, an OCI"
                " layout or a docker archive"
            ) from None
        names = sum(len(image.repo_tags or ()) for image in images)
        if not images or len(images) > MAX_REFS or names > MAX_REFS:
            self._archive.refuse(MANIFEST, f"it names {len(images)} images by {names} names; {MAX_REFS} are allowed")
        return images

    def _find_layers(self, image: _SavedImage) -> None:
        """Note which uncompressed layers the image has as files. Raises L{BundleDamaged}."""
        diff_ids, _ = self._config(image.config)
        layers = image.layers or []
        if len(layers) > _MAX_LAYERS or len(diff_ids) != len(layers):
            self._archive.refuse(image.config, f"it has {len(diff_ids)} layers, and {MANIFEST} {len(layers)}")
        for path, diff_id in zip(layers, diff_ids, strict=True):
            found = self._archive.items.get(path)
            if found is not None:
                self._plain.setdefault(diff_id, found)

    def _config(self, path: str) -> tuple[list[str], _Blob]:
        """Digests of uncompressed layers, and the configuration that has them; read once, however many share it."""
        if path not in self._configs:
            item = self._item(path)
            data = self._archive.whole(item, MAX_MANIFEST_BYTES)
            config = imageconfig.parse_config(data)
            if config is None or config.rootfs is None or len(config.rootfs.diff_ids) > _MAX_LAYERS:
                self._archive.refuse(path, "it is no image's configuration")
            blob = _Blob(Digest.of(data), len(data), mediatypes.OCI_CONFIG)
            self._add(blob, item)
            self._configs[path] = config.rootfs.diff_ids, blob
        return self._configs[path]

    def _rebuilt(self, image: _SavedImage, as_name: Reference | None) -> list[NamedManifest]:
        """
        The image under each of its names, with an OCI manifest made of its configuration and layers.

        @raise BundleError: it has no name, and none was given.
        """
        diff_ids, config = self._config(image.config)
        layers = [self._layer(path, diff_id) for path, diff_id in zip(image.layers or [], diff_ids, strict=True)]
        # Its fields in the order of the specification (image-spec, manifest.md).
        document = {
            "schemaVersion": 2,
            "mediaType": mediatypes.OCI_MANIFEST,
            "config": config.descriptor(),
            "layers": [layer.descriptor() for layer in layers],
        }
        manifest = json.dumps(document, separators=(",", ":")).encode()
        digest = Digest.of(manifest)
        self._contents.blobs[digest] = BlobSource(digest, len(manifest), data=manifest)
        if as_name is not None:
            names = [as_name]
        elif not image.repo_tags:
            raise BundleError(
                f"{self._archive.source}, {MANIFEST}: the image {image.config} has no name in it; give it one with --as"
                " (docker.io/library/nginx:1.27)"
            )
        else:
            try:
                names = [Reference.parse_familiar(name) for name in image.repo_tags]
            except PullcacheError as error:
                raise BundleError(f"{self._archive.source}, {MANIFEST}: {error}; give it a name with --as") from None
        return [NamedManifest.of(name, digest, len(manifest), mediatypes.OCI_MANIFEST, rebuilt=True) for name in names]

    def _layer(self, path: str, diff_id: str) -> _Blob:
        """The layer as it lies there: compressed, or with the digest that the configuration has for it."""
        item = self._archive.items.get(path) or self._plain.get(diff_id) or self._item(path)
        if item.name not in self._layers:
            head = self._archive.read(item, 0, 4)
            try:
                if head.startswith(_GZIP):
                    blob = _Blob(self._digest(item), item.size, mediatypes.OCI_LAYER_GZIP)
                elif head.startswith(_ZSTD):
                    blob = _Blob(self._digest(item), item.size, mediatypes.OCI_LAYER_ZSTD)
                else:
                    blob = _Blob(Digest.parse(diff_id), item.size, mediatypes.OCI_LAYER)
            except DigestInvalid as error:
                self._archive.refuse(item.name, str(error))
            self._layers[item.name] = blob
            self._add(blob, item)
        return self._layers[item.name]

    def _digest(self, item: Item) -> Digest:
        """The digest of a compressed layer: its name as crane writes it, which is checked later, else by reading it."""
        match = _HEX.fullmatch(item.name)
        if match is not None and item.name.endswith((".gz", ".zst")):
            return Digest("sha256", match[1])
        hasher, start = hashlib.sha256(), 0
        while piece := self._archive.read(item, start, _PIECE):
            hasher.update(piece)
            start += len(piece)
        return Digest("sha256", hasher.hexdigest())

    def _item(self, path: str) -> Item:
        item = self._archive.items.get(path)
        if item is None and path in self._archive.others:
            self._archive.refuse(path, "it is a link or device, which is never followed")
        if item is None:
            self._archive.refuse(MANIFEST, f"it names {path[:200]!r}, which is not there")
        return item

    def _add(self, blob: _Blob, item: Item) -> None:
        source = BlobSource(blob.digest, blob.size, (BlobFile(self._archive, item),))
        self._contents.blobs.setdefault(blob.digest, source)
