"""
OCI image layouts (image-spec, C{image-layout.md}) that other tools wrote, and the names in them.

The annotations that carry names differ from tool to tool: containerd, docker, regctl and hauler write the full name as
C{io.containerd.image.name}, skopeo and zarf as C{org.opencontainers.image.ref.name}, oras and umoci only a tag there.
Names without a host are read as docker reads them. Everything here blocks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import msgspec

from appliance.bundle.archive import Archive
from appliance.bundle.archivecontents import ArchiveContents, BlobFile, BlobSource, NamedManifest, check_names
from appliance.bundle.contents import INDEX, MAX_INDEX_BYTES, MAX_INDEX_VALUES, MAX_REFS, check_values, parse_name
from appliance.bundle.toolfiles import IMAGE_NAME, SUBJECT
from appliance.errors import BundleError, ManifestInvalid, PullcacheError
from appliance.index.repository import REF_NAME
from appliance.oci.descriptor import Descriptor
from appliance.oci.digest import Digest
from appliance.oci.manifest import MAX_MANIFEST_BYTES, check_keys, parse_manifest
from appliance.oci.reference import Reference, is_tag
from appliance.oci.referrer import subject_of

FORMAT = "an OCI image layout"

#: The most children of all indexes of an archive together: ten for each name that it may have.
MAX_LINKS = 10 * MAX_REFS
#: The most steps, from an index to a child, of all looks for the images that something refers to.
MAX_STEPS = 5 * MAX_LINKS
#: Longer is no media type (RFC 6838 section 4.2: two names of at most 127 characters).
MAX_MEDIA_TYPE = 255
_SHOWN = 5

#: With a registry's name behind it; the value is the repository (containerd).
_DISTRIBUTION = "containerd.io/distribution.source."
_KINDS = ("kind", "dev.cosignproject.cosign/kind")
#: How hauler and C{cosign save} mark what refers to an image, and the tag that cosign would give it.
_SUFFIXES = {"sigs": ".sig", "atts": ".att", "sboms": ".sbom"}


class _LayoutIndex(msgspec.Struct, rename="camel"):
    """index.json (image-spec, C{image-layout.md}); with other pointers it would be something else to other readers."""

    manifests: list[Descriptor]
    config: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    layers: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


@dataclass(frozen=True, slots=True)
class _Links:
    """What is remembered of a manifest: digests of an index's children, and what it refers to."""

    children: tuple[str, ...]
    subject: Digest | None


def read(archive: Archive, as_name: Reference | None) -> ArchiveContents:
    """
    What the layout holds.

    @param as_name: the name that the user gives the one image in it.
    @raise BundleDamaged: it contradicts itself.
    @raise BundleError: an image has no name, or C{as_name} could be the name of several.
    """
    return _Layout(archive, as_name).read()


class _Layout:
    def __init__(self, archive: Archive, as_name: Reference | None) -> None:
        self._archive = archive
        self._as_name = as_name
        self._blobs: dict[Digest, BlobSource] = {}
        for item in archive.items.values():
            blob = parse_name(item.name)
            if blob is not None and blob[1] is None:
                self._blobs[blob[0]] = BlobSource(blob[0], item.size, (BlobFile(archive, item),))
        # Every manifest that is here and is named by something, by its digest; read once.
        self._graph: dict[str, _Links] = {}

    def read(self) -> ArchiveContents:
        entries = self._index()
        self._read_graph(entries)
        images = [entry for entry in entries if not self._refers(entry)]
        referrers = [entry for entry in entries if self._refers(entry)]
        contents = ArchiveContents(FORMAT, "", [self._archive.source], blobs=self._blobs)
        contents.roots = self._named(images)
        named = {_annotations(entry).get(IMAGE_NAME): entry.parsed() for entry in images}
        subjects = [self._subject(entry, named) for entry in referrers]
        places = self._places(contents.roots, set(subjects))
        left = []
        for entry, subject in zip(referrers, subjects, strict=True):
            found = self._placed(entry, subject, places)
            contents.roots += found
            if len(contents.roots) > MAX_REFS:
                self._archive.refuse(INDEX, f"with what refers to its images it comes to more than {MAX_REFS} names")
            if not found:
                left.append(f"{entry.digest} refers to no image of this archive and was left out")
        more = [f"and {len(left) - _SHOWN} more of that kind"] if len(left) > _SHOWN else []
        contents.notes += left[:_SHOWN] + more
        return contents

    def _index(self) -> list[Descriptor]:
        data = self._archive.whole(self._archive.items[INDEX], MAX_INDEX_BYTES)
        try:
            check_values(data, MAX_INDEX_VALUES)
            index = msgspec.json.decode(data, type=_LayoutIndex)
            check_keys(data)
            for descriptor in index.manifests:
                descriptor.parsed()
        except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError, PullcacheError) as error:
            self._archive.refuse(INDEX, str(error))
        if index.config is not msgspec.UNSET or index.layers is not msgspec.UNSET:
            self._archive.refuse(INDEX, "it is an index and a manifest at once")
        if not index.manifests or len(index.manifests) > MAX_REFS:
            self._archive.refuse(INDEX, f"it names {len(index.manifests)} manifests")
        return index.manifests

    def _read_graph(self, roots: list[Descriptor]) -> None:
        """Read every manifest at and beneath C{roots} that is here, each once. Raises L{BundleDamaged}."""
        seen: set[str] = set()
        waiting: list[tuple[str, str]] = []

        def add(descriptors: Iterable[Descriptor]) -> None:
            for each in descriptors:
                if each.digest not in seen and each.parsed() in self._blobs:
                    seen.add(each.digest)
                    waiting.append((each.digest, each.media_type[:MAX_MEDIA_TYPE]))

        add(roots)
        links = 0
        while waiting:
            digest, media_type = waiting.pop()
            blob = self._blobs[Digest.parse(digest)]
            if blob.size > MAX_MANIFEST_BYTES:
                # Nothing that could be a manifest.
                continue
            item = blob.files[0].item
            try:
                manifest = parse_manifest(self._archive.whole(item, MAX_MANIFEST_BYTES), None, media_type)
            except ManifestInvalid as error:
                self._archive.refuse(item.name, str(error))
            links += len(manifest.manifests)
            if links > MAX_LINKS:
                self._archive.refuse(
                    INDEX, f"its indexes name more than {MAX_LINKS} manifests, which nothing honest does"
                )
            children = tuple(child.digest for child in manifest.manifests if child.parsed() in self._blobs)
            self._graph[digest] = _Links(children, None if manifest.subject is None else manifest.subject.parsed())
            add(manifest.manifests)

    def _places(self, roots: list[NamedManifest], subjects: set[Digest | None]) -> dict[Digest, set[tuple[str, str]]]:
        """The upstreams and repositories that each of C{subjects} belongs to, as part of an image. Raises as above."""
        named: dict[Digest, set[tuple[str, str]]] = {}
        for root in roots:
            named.setdefault(root.digest, set()).add((root.upstream, root.repository))
        wanted = {str(subject): subject for subject in subjects if subject is not None}
        found: dict[Digest, set[tuple[str, str]]] = {}
        steps = 0
        for digest, places in named.items() if wanted else ():
            beneath, waiting = {str(digest)}, [str(digest)]
            while waiting:
                current = waiting.pop()
                steps += 1
                if (subject := wanted.get(current)) is not None:
                    found.setdefault(subject, set()).update(places)
                    steps += len(places)
                links = self._graph.get(current)
                new = set(() if links is None else links.children) - beneath
                beneath |= new
                waiting += new
                steps += 0 if links is None else len(links.children)
                if steps > MAX_STEPS:
                    self._archive.refuse(
                        INDEX, "its indexes name each other so often that they would be walked for hours"
                    )
        return found

    # -- names ------------------------------------------------------------------------------------------------------

    def _named(self, images: list[Descriptor]) -> list[NamedManifest]:
        names = [self._name(image) for image in images]
        if self._as_name is not None:
            distinct = {image.digest for image in images}
            unnamed = {image.digest for image, name in zip(images, names, strict=True) if name is None}
            meant = distinct if len(distinct) == 1 else unnamed
            if len(meant) != 1:
                raise BundleError(
                    f"{self._archive.source}: one name was given, and there are {len(distinct)} images in it,"
                    f" {len(unnamed)} of them without a name; export them into separate archives"
                )
            for number, image in enumerate(images):
                if image.digest in meant:
                    tag = _annotations(image).get(REF_NAME, "")
                    # A name without a tag is completed by the tag in the archive.
                    lacks_tag = self._as_name.tag is None and self._as_name.digest is None and is_tag(tag)
                    names[number] = replace(self._as_name, tag=tag) if lacks_tag else self._as_name
        roots: dict[str, NamedManifest] = {}
        for image, name in zip(images, names, strict=True):
            if name is None:
                raise BundleError(
                    f"{self._archive.source}: {image.digest} has no name in it; give it one with --as"
                    " (docker.io/library/nginx:1.27)"
                )
            root = _root(name, image)
            if roots.setdefault(root.name, root) != root:
                check_names(self._archive.source, [roots[root.name], root])
        return list(roots.values())

    def _name(self, image: Descriptor) -> Reference | None:
        """The name in the annotations, C{None} when there is none or only a tag."""
        full = _annotations(image).get(IMAGE_NAME)
        short = _annotations(image).get(REF_NAME)
        if full is not None:
            return self._parsed(full)
        if short is None:
            return None
        if not is_tag(short):
            return self._parsed(short)
        for key, repository in _annotations(image).items():
            if key.startswith(_DISTRIBUTION):
                # Several repositories may be listed; the first is as true as the others.
                return self._parsed(f"{key.removeprefix(_DISTRIBUTION)}/{repository.partition(',')[0]}:{short}")
        return None

    def _parsed(self, text: str) -> Reference:
        try:
            return Reference.parse_familiar(text)
        except PullcacheError as error:
            raise BundleError(f"{self._archive.source}, {INDEX}: {error}; give it a name with --as") from None

    # -- what refers to images --------------------------------------------------------------------------------------

    def _refers(self, entry: Descriptor) -> bool:
        kind = _kind(entry)
        if SUBJECT in _annotations(entry) or kind in _SUFFIXES or kind.startswith("referrers"):
            return True
        links = self._graph.get(entry.digest)
        return links is not None and links.subject is not None

    def _placed(
        self, entry: Descriptor, subject: Digest | None, places: dict[Digest, set[tuple[str, str]]]
    ) -> list[NamedManifest]:
        """The referrer, in every repository that has what it refers to."""
        suffix = _SUFFIXES.get(_kind(entry))
        tag = None if subject is None or suffix is None else f"{subject.file_name}{suffix}"
        found = set() if subject is None else places.get(subject, set())
        name = self._name(entry) if suffix is None else None
        if name is not None and subject_of(name.tag) is not None:
            # Cosign's own name, whose tag says what it refers to.
            found, tag = {(name.upstream, name.repository)}, name.tag
        digest = entry.parsed()
        roots = (_root(Reference(*place, tag, digest), entry) for place in sorted(found))
        return [replace(root, refers=True) for root in roots]

    def _subject(self, entry: Descriptor, named: dict[str | None, Digest]) -> Digest | None:
        """
        What the entry refers to, C{None} when nothing says so.

        @param named: images by name; what hauler writes bears its image's own.
        """
        said = _annotations(entry).get(SUBJECT)
        if said is not None:
            try:
                return Digest.parse(said)
            except PullcacheError as error:
                self._archive.refuse(INDEX, str(error))
        links = self._graph.get(entry.digest)
        if links is not None and links.subject is not None:
            return links.subject
        return named.get(_annotations(entry).get(IMAGE_NAME))


def _annotations(entry: Descriptor) -> dict[str, str]:
    return entry.annotations or {}


def _kind(entry: Descriptor) -> str:
    """Hauler's and cosign's word for what it is, without their prefix."""
    said = next((text for key in _KINDS if (text := _annotations(entry).get(key)) is not None), "")
    return said.partition("/")[2]


def _root(name: Reference, entry: Descriptor) -> NamedManifest:
    return NamedManifest.of(name, entry.parsed(), entry.size, entry.media_type)
