"""
What an export is to hold: names and patterns, and which of the references held they mean.

C{appliance.oci.pattern} has the grammar of patterns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from appliance.bundle.contents import Base
from appliance.errors import BundleError, NameInvalid
from appliance.oci.digest import Digest
from appliance.oci.pattern import ReferencePattern, UpstreamFor, matches
from appliance.oci.reference import full_name


@dataclass(frozen=True, order=True)
class Candidate:
    """
    A reference that is held.

    @ivar tag: C{None} for a manifest by its digest alone.
    @ivar last_pulled: seconds since the epoch, C{None} when no pull of it is known.
    @ivar implied: whether it comes along with another one: a child, a referrer. Only its own name chooses it.
    """

    upstream: str
    repository: str
    tag: str | None
    digest: Digest
    last_pulled: float | None = field(default=None, compare=False)
    implied: bool = field(default=False, compare=False)

    @property
    def place(self) -> str:
        """Upstream and repository."""
        return f"{self.upstream}/{self.repository}"

    @property
    def name(self) -> str:
        """The full reference."""
        return full_name(self.upstream, self.repository, self.tag or self.digest)


@dataclass(frozen=True)
class WantedReference:
    """
    Something that clients of the other side requested and it does not hold.

    @ivar reference: a tag, or a digest as text: of a manifest, or of a blob of one.
    @ivar platform: what the client there runs on, as in C{linux/arm64}; C{None} when it did not say.
    """

    upstream: str
    repository: str
    reference: str
    platform: str | None = None

    @property
    def name(self) -> str:
        """The full reference."""
        return full_name(self.upstream, self.repository, self.reference)

    @property
    def digest(self) -> Digest | None:
        """The digest, C{None} when a tag is wanted."""
        return Digest.parse(self.reference) if ":" in self.reference else None


class Pattern(ReferencePattern):
    """One name or pattern of an export, or of a list."""

    def pick(self, candidate: Candidate) -> Candidate | None:
        """C{candidate} under the name it is meant by, C{None} when it is not meant."""
        if not self.covers(candidate.place, candidate.tag, str(candidate.digest)):
            return None
        if self.digest is None:
            return None if candidate.implied and self.tag is None else candidate
        return candidate if self.tag is not None else replace(candidate, tag=None)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """
    What to export, and how.

    @ivar refs: names and patterns; C{appliance.oci.pattern} has their grammar.
    @ivar all: everything that is held.
    @ivar since: only what was pulled at that time or later, seconds since the epoch; without C{refs}, all of that.
    @ivar platforms: of an index only these, as in C{linux/arm64}; none: whatever was pulled.
    @ivar partial: whether an image that is not whole is taken as far as it goes.
    @ivar referrers: whether signatures, attestations and the like of what is taken are taken too.
    @ivar have: blobs the other side holds; they are required instead of carried.
    @ivar base: how C{have} was come by, as C{bundle.json} will say it; given, the bundle is an increment.
    @ivar want: what the other side lacks; taken whatever C{since} is.
    @ivar volume_size: the largest a file may become in bytes, C{None} for one file of any size.
    """

    refs: tuple[str, ...] = ()
    all: bool = False
    since: float | None = None
    platforms: frozenset[str] = frozenset()
    partial: bool = False
    referrers: bool = True
    have: frozenset[Digest] = frozenset()
    base: Base | None = None
    want: tuple[WantedReference, ...] = ()
    title: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    volume_size: int | None = None

    @property
    def is_increment(self) -> bool:
        """Whether the bundle builds on what the other side has, whatever comes of it."""
        return bool(self.have) or self.base is not None


class Selector:
    """A selection, read with the names that upstreams are known by here. Raises L{BundleError}."""

    def __init__(self, selection: Selection, upstream_for: UpstreamFor) -> None:
        if not (selection.refs or selection.all or selection.want or selection.since is not None):
            raise BundleError("nothing to export was named: give references or patterns, all, since, or wants")
        self._since = selection.since
        self._want_names = [want.name for want in selection.want]
        # By place and reference: there may be ten thousand, and as many candidates.
        self._want: dict[tuple[str, str], dict[str, list[WantedReference]]] = {}
        for want in selection.want:
            place = self._want.setdefault((want.upstream, want.repository), {})
            place.setdefault(want.reference, []).append(want)
        self._answered: set[str] = set()
        self._patterns = [parse_pattern(text, upstream_for) for text in selection.refs]
        if selection.all or (selection.since is not None and not selection.refs):
            self._patterns.append(Pattern("**", "**", None, None))

    def concerns(self, upstream: str, repository: str) -> bool:
        """Whether anything of that repository may be meant."""
        wanted = (upstream, repository) in self._want
        return wanted or any(matches(pattern.place, f"{upstream}/{repository}") for pattern in self._patterns)

    def looked_for(self, upstream: str, repository: str) -> frozenset[Digest]:
        """Digests that are wanted of that repository; they may be of blobs."""
        wanted = self._want.get((upstream, repository), {})
        return frozenset(Digest.parse(reference) for reference in wanted if ":" in reference)

    def platforms(self, candidate: Candidate) -> frozenset[str]:
        """The platforms for which C{candidate} itself is wanted."""
        wanted = self._want.get((candidate.upstream, candidate.repository), {})
        return frozenset(
            want.platform
            for reference in (candidate.tag, str(candidate.digest))
            for want in wanted.get(reference or "", ())
            if want.platform is not None
        )

    def choose(self, candidates: Iterable[Candidate], naming: dict[Digest, list[Digest]]) -> set[Candidate]:
        """
        The references of one repository that are meant.

        @param naming: for a wanted blob, the manifests that name it.
        """
        chosen = set()
        named: dict[Digest, list[Digest]] = {}
        for blob, manifests in naming.items():
            for manifest in manifests:
                named.setdefault(manifest, []).append(blob)
        for candidate in candidates:
            for text, pick in self._picks(candidate, named.get(candidate.digest, [])):
                if pick is not None:
                    self._answered.add(text)
                    chosen.add(pick)
        return chosen

    def unanswered(self) -> list[str]:
        """What was asked for, as it was written, and has not been met by anything chosen so far."""
        texts = [*(pattern.text for pattern in self._patterns), *self._want_names]
        return [text for text in dict.fromkeys(texts) if text not in self._answered]

    def _picks(self, candidate: Candidate, named: list[Digest]) -> Iterator[tuple[str, Candidate | None]]:
        """
        Each name and pattern, and C{candidate} as it is meant by that; C{None} when it is not.

        @param named: the wanted blobs that the candidate's manifest names.
        """
        if self._since is None or (candidate.last_pulled is not None and candidate.last_pulled >= self._since):
            yield from ((pattern.text, pattern.pick(candidate)) for pattern in self._patterns)
        wanted = self._want.get((candidate.upstream, candidate.repository), {})
        by_digest = replace(candidate, tag=None)
        for reference, pick in (
            (candidate.tag or "", candidate),
            (str(candidate.digest), by_digest),
            *((str(blob), candidate) for blob in named),
        ):
            yield from ((want.name, pick) for want in wanted.get(reference, ()))


def parse_pattern(text: str, upstream_for: UpstreamFor) -> Pattern:
    """
    Read a name or a pattern as docker reads names: without an upstream it is one of Docker Hub.

    @raise BundleError: it is neither.
    """
    try:
        return Pattern.parse(text, upstream_for)
    except NameInvalid as error:
        raise BundleError(str(error)) from None


def parse_list(text: str) -> tuple[str, ...]:
    """The names and patterns of a list file: one a line, C{#} begins a comment."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return tuple(line for line in lines if line)
