"""
What every IUpstream must do, whatever it is made of.

A test class inherits L{UpstreamContract} and says how to make an upstream that holds given things. Nothing here moves
time or bytes by itself: C{settle} of the class does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer, IProducer, IPushProducer
from zope.interface import implementer
from zope.interface.verify import verifyObject

from appliance import errors
from appliance.oci import mediatypes
from appliance.oci.digest import Digest
from appliance.upstream.interfaces import IBlobResponse, IUpstream, Referrers
from tests.doubles.deferreds import failing, result

T = TypeVar("T")

MANIFEST = b'{\n  "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json"\n}\n'
BLOB = bytes(range(256)) * 1000
EMPTY = b""
REPOSITORY = "library/thing"
SIGNATURE = (
    f'{{ "digest":"{Digest.of(b"signature")}", "size": 9,"mediaType":"{mediatypes.OCI_MANIFEST}",'
    ' "org.example.unknown": 1.50 }'
).encode()
SBOM = (
    f'{{"mediaType":"{mediatypes.OCI_MANIFEST}","artifactType":"text/x","size":4,"digest":"{Digest.of(b"sbom")}"}}'
).encode()


@dataclass
class Held:
    """
    What an upstream is to hold, in the one repository C{REPOSITORY}.

    @ivar manifests: media type by bytes.
    @ivar tags: bytes of a manifest by tag.
    @ivar referrers: descriptors by the bytes of the manifest they refer to.
    """

    manifests: dict[bytes, str] = field(default_factory=dict)
    tags: dict[str, bytes] = field(default_factory=dict)
    blobs: list[bytes] = field(default_factory=list)
    referrers: dict[bytes, list[bytes]] = field(default_factory=dict)


EVERYTHING = Held(
    {MANIFEST: mediatypes.OCI_MANIFEST},
    {"latest": MANIFEST, "v1": MANIFEST},
    [BLOB, EMPTY],
    {MANIFEST: [SIGNATURE, SBOM]},
)


@implementer(IConsumer)
class Taker:
    """Takes a body; notes what producer it had."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.producer: IPushProducer | None = None
        self.registrations: list[bool] = []

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:
        assert self.producer is None, "a producer is registered already"
        self.producer = producer  # type: ignore[assignment]
        self.registrations.append(streaming)

    def unregisterProducer(self) -> None:
        assert self.producer is not None, "there is no producer"
        self.producer = None

    def write(self, data: bytes) -> None:
        assert self.producer is not None, "bytes without a producer"
        self.data += data


class UpstreamContract:
    """Inherit, implement the first two, and every promise of L{IUpstream} is tested."""

    def upstream_holding(self, held: Held) -> Any:
        """An L{IUpstream} that holds C{held}."""
        raise NotImplementedError

    def settle(self) -> None:
        """Let everything happen that needs no time; nothing to do for an upstream that answers at once."""

    def result(self, deferred: Deferred[T]) -> T:
        """What it fires with; raises what it fails with."""
        self.settle()
        return result(deferred)

    def fault(self, deferred: Deferred[Any]) -> BaseException:
        """What it fails with."""
        self.settle()
        return failing(deferred)

    def test_it_provides_the_interface(self) -> None:
        """Every method is there, with its parameters."""
        upstream = self.upstream_holding(EVERYTHING)
        assert verifyObject(IUpstream, upstream)
        assert isinstance(upstream.name, str) and upstream.name

    def test_a_full_name_stays_what_it_is(self) -> None:
        """Mapping a name twice is mapping it once."""
        upstream = self.upstream_holding(EVERYTHING)
        once = upstream.repository("thing")
        assert upstream.repository(once) == once

    def test_a_manifest_comes_bit_for_bit_by_tag_and_by_digest(self) -> None:
        """With the media type the upstream claims."""
        upstream = self.upstream_holding(EVERYTHING)
        for reference in ("latest", Digest.of(MANIFEST)):
            fetched = self.result(upstream.manifest(REPOSITORY, reference))
            assert fetched.data == MANIFEST
            assert fetched.content_type == mediatypes.OCI_MANIFEST

    def test_head_tells_what_the_manifest_is(self) -> None:
        """Digest, size and media type, where they are said at all."""
        upstream = self.upstream_holding(EVERYTHING)
        head = self.result(upstream.head(REPOSITORY, "v1"))
        assert head.digest in (None, Digest.of(MANIFEST))
        assert head.size in (None, len(MANIFEST))
        assert head.media_type in (None, mediatypes.OCI_MANIFEST)

    def test_what_is_not_there_is_missing(self) -> None:
        """Every question of something absent fails with the same error, and names the upstream."""
        upstream = self.upstream_holding(EVERYTHING)
        absent = Digest.of(b"absent")
        for question in (
            upstream.head(REPOSITORY, "absent"),
            upstream.manifest(REPOSITORY, "absent"),
            upstream.manifest(REPOSITORY, absent),
            upstream.blob(REPOSITORY, absent),
            upstream.blob_size(REPOSITORY, absent),
            upstream.tags("library/absent"),
        ):
            fault = self.fault(question)
            assert isinstance(fault, errors.UpstreamMissing)
            assert fault.upstream == upstream.name

    def test_a_missing_repository_is_distinguished_from_a_missing_tag(self) -> None:
        """C{NAME_UNKNOWN}."""
        upstream = self.upstream_holding(EVERYTHING)
        whole, tag = self.fault(upstream.tags("library/absent")), self.fault(upstream.manifest(REPOSITORY, "absent"))
        assert isinstance(whole, errors.UpstreamMissing) and whole.repository_unknown
        assert isinstance(tag, errors.UpstreamMissing) and not tag.repository_unknown

    def test_a_blob_comes_whole(self) -> None:
        """From nought, through a push producer that is gone when the Deferred fires."""
        upstream = self.upstream_holding(EVERYTHING)
        for blob in (BLOB, EMPTY):
            response = self.result(upstream.blob(REPOSITORY, Digest.of(blob)))
            assert verifyObject(IBlobResponse, response)
            assert response.start == 0
            assert response.size in (None, len(blob))
            taker = Taker()
            assert self.result(response.deliver(taker)) is None
            assert bytes(taker.data) == blob
            assert (taker.producer, taker.registrations) == (None, [True])

    def test_a_part_of_a_blob_starts_where_it_says(self) -> None:
        """Open and closed ranges; an upstream without ranges sends the whole, from nought."""
        upstream = self.upstream_holding(EVERYTHING)
        for start, stop in ((1000, None), (0, 10), (1000, 2000), (len(BLOB) - 1, None)):
            response = self.result(upstream.blob(REPOSITORY, Digest.of(BLOB), start, stop))
            taker = Taker()
            self.result(response.deliver(taker))
            assert response.start in (0, start)
            expected = BLOB[start:stop] if len(taker.data) < len(BLOB) else BLOB
            assert bytes(taker.data) == expected
            assert response.size in (None, len(BLOB))

    def test_a_range_behind_the_end_is_no_part(self) -> None:
        """It is refused, or the whole comes."""
        upstream = self.upstream_holding(EVERYTHING)
        asking = upstream.blob(REPOSITORY, Digest.of(BLOB), len(BLOB) + 10)
        try:
            response = self.result(asking)
        except errors.RangeIgnored:
            return
        assert response.start == 0
        response.abandon()

    def test_a_validator_can_be_sent_back(self) -> None:
        """What an answer gives as validator makes a resumption of the same bytes."""
        upstream = self.upstream_holding(EVERYTHING)
        whole = self.result(upstream.blob(REPOSITORY, Digest.of(BLOB)))
        whole.abandon()
        assert whole.validator is None or (whole.validator[0] == whole.validator[-1] == '"')
        response = self.result(upstream.blob(REPOSITORY, Digest.of(BLOB), 500, None, whole.validator))
        taker = Taker()
        self.result(response.deliver(taker))
        assert bytes(taker.data) == BLOB[response.start :]

    def test_a_paused_body_waits(self) -> None:
        """And goes on where it was."""
        upstream = self.upstream_holding(EVERYTHING)
        response = self.result(upstream.blob(REPOSITORY, Digest.of(BLOB)))
        taker = _PausingTaker()
        done = response.deliver(taker)
        while not done.called:
            self.settle()
            if taker.producer is not None:
                taker.producer.resumeProducing()
        assert self.result(done) is None
        assert bytes(taker.data) == BLOB

    def test_an_abandoned_answer_delivers_nothing(self) -> None:
        """It may be abandoned twice."""
        upstream = self.upstream_holding(EVERYTHING)
        response = self.result(upstream.blob(REPOSITORY, Digest.of(BLOB)))
        response.abandon()
        response.abandon()
        self.settle()

    def test_a_blobs_size_is_known_without_its_bytes(self) -> None:
        """Or it is C{None}."""
        upstream = self.upstream_holding(EVERYTHING)
        assert self.result(upstream.blob_size(REPOSITORY, Digest.of(BLOB))) in (None, len(BLOB))

    def test_after_the_end_nothing_is_asked(self) -> None:
        """
        The appliance went offline: the body that was coming is dropped, a question under way gets no answer but that,
        and neither does any later one.
        """
        upstream = self.upstream_holding(EVERYTHING)
        digest = Digest.of(BLOB)
        taker = Taker()
        delivered = self.result(upstream.blob(REPOSITORY, digest)).deliver(taker)
        upstream.disconnect()
        upstream.disconnect()
        self.settle()
        if len(taker.data) < len(BLOB):
            assert isinstance(self.fault(delivered), errors.UpstreamUnavailable)
        assert taker.producer is None
        for asking in (
            upstream.head(REPOSITORY, "latest"),
            upstream.manifest(REPOSITORY, "latest"),
            upstream.blob(REPOSITORY, digest),
            upstream.blob_size(REPOSITORY, digest),
            upstream.tags(REPOSITORY),
            upstream.referrers(REPOSITORY, Digest.of(MANIFEST)),
        ):
            assert isinstance(self.fault(asking), errors.Offline)

    def test_all_tags_are_listed(self) -> None:
        """Each once."""
        upstream = self.upstream_holding(EVERYTHING)
        assert sorted(self.result(upstream.tags(REPOSITORY))) == ["latest", "v1"]

    def test_what_refers_to_a_manifest_is_listed(self) -> None:
        """Each descriptor once and bit for bit, blanks and what is not known here included."""
        upstream = self.upstream_holding(EVERYTHING)
        listed = self.result(upstream.referrers(REPOSITORY, Digest.of(MANIFEST)))
        assert sorted(listed.descriptors) == sorted([SIGNATURE, SBOM])
        assert not listed.cut

    def test_nothing_refers_to_what_is_not_signed(self) -> None:
        """Whether or not it is there: that is an answer and no failure."""
        upstream = self.upstream_holding(EVERYTHING)
        assert self.result(upstream.referrers(REPOSITORY, Digest.of(b"unsigned"))) == Referrers(())

    def test_nothing_refers_to_what_is_in_no_repository(self) -> None:
        """Any 404 of the referrers API means the fallback tag, and that is not there either."""
        upstream = self.upstream_holding(EVERYTHING)
        assert self.result(upstream.referrers("library/absent", Digest.of(MANIFEST))) == Referrers(())


class _PausingTaker(Taker):
    """Pauses after every piece."""

    def write(self, data: bytes) -> None:
        super().write(data)
        assert self.producer is not None
        self.producer.pauseProducing()
