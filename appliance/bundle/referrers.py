"""
What a repository's manifests are to each other: which are children, which refer to which.

Referrers are found by C{subject} (image-spec 1.1) and by tag: the fallback of the distribution spec ("Referrers Tag
Schema") and cosign's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from appliance.bundle.closure import Parsed, SizeOf
from appliance.bundle.reading import Reading
from appliance.index.repository import Repository
from appliance.oci.digest import Digest
from appliance.oci.manifest import Manifest
from appliance.oci.referrer import cosign_tags, fallback_tag, subject_of


def tagged_about(repository: Repository, subject: Digest) -> Iterator[tuple[str, Digest]]:
    """The tags held under which something about C{subject} may be found, and what they mean."""
    for tag in (fallback_tag(subject), *cosign_tags(subject)):
        if (record := repository.tags.get(tag)) is not None:
            yield tag, record.digest


@dataclass
class Kinship:
    """
    How the manifests of one repository are related.

    @ivar children: manifests that an index held there names.
    @ivar subjects: what manifests held there refer to.
    @ivar referrers: the same the other way round, sorted.
    @ivar naming: manifests held there that name one of the digests that were looked for.
    @ivar linked: what is named by manifests whose word is enough (L{appliance.index.repository.ManifestRecord}).
    """

    children: set[Digest] = field(default_factory=set)
    subjects: dict[Digest, Digest] = field(default_factory=dict)
    referrers: dict[Digest, list[Digest]] = field(default_factory=dict)
    naming: dict[Digest, list[Digest]] = field(default_factory=dict)
    linked: set[Digest] = field(default_factory=set)

    def size_of(self, repository: Repository, size_of: SizeOf) -> SizeOf:
        """
        C{size_of} for what is the repository's. What it merely names, and other repositories are known to have, counts
        as not held: an export of it would let its readers read theirs.
        """
        own = (repository.manifests, repository.blobs, self.linked)
        return lambda digest: size_of(digest) if any(digest in each for each in own) else None

    def is_implied(self, repository: Repository, digest: Digest, tag: str | None) -> bool:
        """Whether the manifest comes along with another one, so that nobody has to ask for it."""
        about = self.subjects.get(digest) if tag is None else subject_of(tag)
        return about in repository.manifests or (tag is None and digest in self.children)


async def kinship(repository: Repository, reading: Reading, looked_for: frozenset[Digest], parsed: Parsed) -> Kinship:
    """
    Look at every manifest of the repository.

    @param looked_for: digests of blobs.
    @param parsed: see L{Reading.manifests}.
    """
    found = Kinship()
    async for digest, manifest in reading.manifests(repository, parsed):
        if (held := repository.manifests.get(digest)) is not None:
            _note(found, digest, manifest, looked_for, held.confirm)
    return found


def _note(found: Kinship, digest: Digest, manifest: Manifest, looked_for: frozenset[Digest], confirm: bool) -> None:
    if not confirm or looked_for:
        names = {descriptor.parsed() for descriptor in (*manifest.blobs, *manifest.manifests)}
        if not confirm:
            found.linked |= names
        for named in names & looked_for:
            found.naming.setdefault(named, []).append(digest)
    found.children.update(child.parsed() for child in manifest.manifests)
    if manifest.subject is not None:
        found.subjects[digest] = manifest.subject.parsed()
        found.referrers.setdefault(manifest.subject.parsed(), []).append(digest)
