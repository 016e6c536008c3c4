"""
The schema of the admin API: what C{/api/v1/} is sent and what it answers, in JSON.

The appliance encodes these, the command decodes them, and the OpenAPI document describes them: class names, fields and
docstrings are part of that document. What bundles and imports say of themselves is defined with them (L{Totals},
L{Receipt}, L{Waiting}), in modules of values alone: the command loads them at every start.

A new answer is a struct here and a L{Route} of the part that gives it.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from appliance.bundle.contents import Totals
from appliance.bundle.receipt import Receipt, Waiting

# -- status -----------------------------------------------------------------------------------------------------------


class UrlStatus(msgspec.Struct, frozen=True, rename="camel"):
    """
    One URL of an upstream.

    @ivar health: C{up}, C{doubtful}, C{down} or C{resting}; C{None} while it is never contacted.
    @ivar since: when it became that, RFC 3339.
    @ivar fault: what went wrong, empty when nothing did since it was up.
    @ivar next: when it is looked at again, RFC 3339; C{None} while that is not needed, or is under way.
    """

    url: str
    health: str | None = None
    since: str | None = None
    fault: str = ""
    next: str | None = None


class RateLimitStatus(msgspec.Struct, frozen=True, rename="camel"):
    """
    What the upstream last said of its limit on pulls.

    @ivar limit: pulls in a window, and C{window}: its seconds; C{None} when not told. C{remaining}: those left.
    """

    limit: int | None
    remaining: int
    window: float | None


class UpstreamStatus(msgspec.Struct, frozen=True, rename="camel"):
    """
    One upstream.

    @ivar urls: in the order they are tried.
    @ivar offline: whether it is never contacted.
    @ivar resting: repositories that are not asked about for now, since it wanted fewer requests.
    """

    name: str
    aliases: list[str]
    urls: list[UrlStatus]
    kind: str
    offline: bool
    rate_limit: RateLimitStatus | None
    resting: list[str]


class Damaged(msgspec.Struct, frozen=True, rename="camel"):
    """A document that could not be understood, and where it was put."""

    document: str
    kept_as: str


class Unreadable(msgspec.Struct, frozen=True):
    """A document that the disk does not give; it is left as it is. C{reason}: the disk's words."""

    document: str
    reason: str


class Counts(msgspec.Struct, frozen=True):
    """How many there are. C{manifests}: indexes too."""

    repositories: int
    tags: int
    manifests: int
    wants: int


class ScrubStatus(msgspec.Struct, frozen=True, rename="camel"):
    """
    @ivar under_way: whether what is held is being hashed now.
    @ivar finished: when that came to its end last, RFC 3339; C{None} when it never did.
    @ivar damaged: blobs that it found then.
    """

    under_way: bool = False
    finished: str | None = None
    damaged: int = 0


class Files(msgspec.Struct, frozen=True):
    """So many files, of so many bytes together."""

    count: int = 0
    bytes: int = 0


class LeftOver(msgspec.Struct, frozen=True):
    """
    What lies in the store beside what is held; it is removed when it is old.

    @ivar beginnings: of blobs whose fetch was cut; C{staged}: of those of imports.
    @ivar documents: that were damaged, and set aside; C{damaged}: blobs likewise.
    """

    beginnings: Files = Files()
    staged: Files = Files()
    documents: Files = Files()
    damaged: Files = Files()


class UpstreamSays(msgspec.Struct, frozen=True):
    """
    A locked tag whose upstream says something else.

    @ivar name: in full.
    @ivar digest: what the upstream says; it is not served.
    @ivar since: when it said so first, RFC 3339.
    """

    name: str
    digest: str
    since: str


class DiskStatus(msgspec.Struct, frozen=True, rename="camel"):
    """
    The disk of the store, in bytes.

    @ivar reserve: what is to stay free of it.
    @ivar state: C{ok}, C{short} (less than the reserve is free), C{full} or C{read-only}: what is pulled is passed on
        and not stored.
    @ivar unstored: what was passed on since the start.
    @ivar reason: what it said to a write that it refused within the last minute, or empty.
    """

    size: int
    free: int
    reserve: int
    state: str
    unstored: int
    reason: str = ""


class LastCollection(msgspec.Struct, frozen=True):
    """
    The last collection since the start.

    @ivar started: RFC 3339, C{None} when there was none yet.
    @ivar notes: what it could not do, in words.
    """

    started: str | None = None
    images: int = 0
    freed: int = 0
    notes: list[str] = []


class CertificateStatus(msgspec.Struct, frozen=True):
    """
    A certificate that is shown to clients.

    @ivar path: its file.
    @ivar names: hosts and addresses that it is for.
    @ivar until: when it ends, RFC 3339.
    """

    path: str
    names: list[str]
    until: str


class Status(msgspec.Struct, frozen=True, rename="camel"):
    """
    @ivar started: RFC 3339; C{uptime}: seconds since then.
    @ivar flights: blobs being fetched from upstreams.
    @ivar store_bytes: of all blobs held.
    @ivar damaged: documents that were set aside since the start.
    @ivar unreadable: documents whose last read failed; what they say is not counted.
    @ivar inbox: what lies in the inbox and cannot be imported now.
    @ivar damaged_blobs: those that were found damaged and are not held again.
    @ivar refused: a thousand at most; the metric C{pullcache_moves_refused} counts them all.
    @ivar certificate_warnings: what is wrong with the files of certificates, or will be soon.
    """

    version: str
    site: str
    started: str
    uptime: float
    offline: bool
    upstreams: list[UpstreamStatus]
    flights: int
    store_bytes: int
    disk: DiskStatus
    counts: Counts
    damaged: list[Damaged]
    unreadable: list[Unreadable]
    inbox: list[Waiting]
    damaged_blobs: list[str] = []
    scrub: ScrubStatus = ScrubStatus()
    left_over: LeftOver = LeftOver()
    refused: list[UpstreamSays] = []
    collection: LastCollection = LastCollection()
    certificates: list[CertificateStatus] = []
    certificate_warnings: list[str] = []


# -- scrubs -----------------------------------------------------------------------------------------------------------


class ScrubOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """
    What is held is to be hashed.

    @ivar rate: bytes per second, C{None} for what is configured.
    """

    rate: Annotated[int, msgspec.Meta(ge=1000)] | None = None


class DamagedBlob(msgspec.Struct, frozen=True):
    """
    A blob that was found damaged, and set aside.

    @ivar bytes: that were there.
    @ivar outcome: C{fetched}: it is held again; C{wanted}: it is lacking, and among the wants; C{unreferenced}: no
        repository names it, so nothing is lacking.
    """

    digest: str
    bytes: int
    outcome: str


class ScrubReport(msgspec.Struct, frozen=True):
    """
    @ivar checked: blobs that were hashed, and C{bytes} of them.
    @ivar unread: blobs that the disk did not give, for another reason than damage.
    @ivar damaged: what was found, and what was found earlier and was lacking still.
    @ivar began: RFC 3339; so C{finished}.
    """

    checked: int
    bytes: int
    unread: int
    damaged: list[DamagedBlob]
    began: str
    finished: str | None


# -- images -----------------------------------------------------------------------------------------------------------


OPERATOR = "operator"
"""What L{Image.pinned} says where no bundle did it."""

UPSTREAM = "upstream"
"""What L{TagMove.by} says where no bundle did it."""

Verifiable = Literal["yes", "incomplete", "nothing", "unknown"]
"""What L{ImageDetail.verifiable} says; there it is any text, since an appliance of another version may say more."""


class PlatformState(msgspec.Struct, frozen=True, rename="camel"):
    """
    One platform of an image.

    @ivar state: C{"held"}: it can be served offline; C{"incomplete"}: C{missing} of its blobs are not here;
        C{"absent"}: nobody pulled it.
    @ivar fetching: whether what is not here is on its way, or will be when its upstream may be asked.
    """

    platform: str
    digest: str
    state: str
    missing: int = 0
    fetching: bool = False


class Image(msgspec.Struct, frozen=True, rename="camel"):
    """
    One reference that is held.

    @ivar size: bytes of all that is held of it, manifests included.
    @ivar last_pulled: RFC 3339, C{None} when no pull is known; C{pulls} is how often.
    @ivar pinned: what keeps it from retention: the id of the bundle that brought it, or L{OPERATOR}; C{None}: nothing.
    @ivar locked: whether the tag does not move, whatever its upstream or a bundle says.
    @ivar offline: whether all that was pulled of it can be served without an upstream.
    @ivar fetching: whether some of what is not here is on its way.
    """

    name: str
    upstream: str
    repository: str
    tag: str | None
    digest: str
    media_type: str
    size: int
    platforms: list[PlatformState]
    offline: bool
    pulls: int = 0
    last_pulled: str | None = None
    pinned: str | None = None
    fetching: bool = False
    locked: bool = False


class MissingBlob(msgspec.Struct, frozen=True, rename="camel"):
    """What an image lacks. C{kind}: index, manifest, config, layer or artifact."""

    digest: str
    size: int
    kind: str


class Referrer(msgspec.Struct, frozen=True, rename="camel"):
    """
    What refers to an image, by its own C{subject} or by a tag such as C{sha256-<hex>.sig}.

    @ivar size: bytes of its manifest and, as far as it is held, of what that names.
    @ivar state: C{"held"}; C{"incomplete"}: C{missing} of its blobs are not here; C{"absent"}: it is merely known.
    """

    digest: str
    media_type: str
    artifact_type: str
    subject: str
    tag: str | None = None
    size: int = 0
    state: str = "absent"
    missing: int = 0


class TagMove(msgspec.Struct, frozen=True, rename={"source": "from", "target": "to"}):
    """
    A tag that came to mean another digest.

    @ivar at: when, RFC 3339.
    @ivar source: the digest before (C{from} in the document); C{target}: the one since then (C{to}).
    @ivar by: C{upstream}, or the id of the bundle that an import published.
    @ivar refused: whether the tag was locked, and stayed as it was.
    """

    at: str
    source: str
    target: str
    by: str
    refused: bool = False


class ImageDetail(msgspec.Struct, frozen=True, rename="camel"):
    """
    One image, looked at closely.

    @ivar verifiable: whether what refers to it can be verified without an upstream: C{"yes"}, C{"incomplete"} when some
        of that is not held, C{"nothing"} when its upstream said that nothing does, C{"unknown"} when nobody said.
    @ivar warning: why there may be more that refers to it.
    @ivar tagged: when the tag was first seen to mean this, RFC 3339; C{checked}: when its upstream last said so.
    @ivar moves: of the tag, as far as they are known, newest first.
    @ivar upstream_digest: what the upstream of a locked tag says that it means, where that is something else.
    """

    image: Image
    missing: list[MissingBlob]
    referrers: list[Referrer]
    verifiable: str = "unknown"
    warning: str | None = None
    tagged: str | None = None
    checked: str | None = None
    moves: list[TagMove] = []
    upstream_digest: str | None = None


class ImageList(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    Images by name, or in the order that was asked for.

    @ivar next: the C{last} of the page after this one; not there when this one ends the list.
    """

    images: list[Image]
    next: str | None = None


# -- pins -------------------------------------------------------------------------------------------------------------


class PinOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    What is to be pinned.

    @ivar reference: a name or a pattern, as a list takes it.
    @ivar digest: whether its tags are to be locked: they do not move then, whatever their upstreams or bundles say.
    """

    reference: str
    digest: bool = False


class Pin(msgspec.Struct, frozen=True):
    """
    An image that was pinned, or is pinned no more.

    @ivar before: what kept it from retention: the id of a bundle, or C{operator}; C{None}: nothing. C{pinned}: what
        does now.
    @ivar locked: whether its tag is kept from moving now.
    """

    name: str
    digest: str
    before: str | None = None
    pinned: str | None = None
    locked: bool = False


class PinList(msgspec.Struct, frozen=True):
    """What was pinned, or is pinned no more, by name."""

    pins: list[Pin]


# -- access -----------------------------------------------------------------------------------------------------------


class AccessAnswer(msgspec.Struct, frozen=True):
    """
    What a client would be answered on one listener.

    @ivar status: the HTTP status: 200, or why not: 401 (log in), 403 (C{allow} and C{deny} of the upstream), 404 (for
        this client it does not exist). Of what the upstream says nothing is known.
    @ivar rule: the rule that decides, C{no rule matches}, or empty where none was asked.
    """

    listener: str
    allowed: bool
    status: int
    rule: str
    notes: list[str]


class AccessReport(msgspec.Struct, frozen=True):
    """
    What a client may read.

    @ivar repository: with its upstream.
    @ivar action: C{pull} or C{list}.
    @ivar user: C{None} for an anonymous client. C{address}: C{None} where none was given.
    """

    repository: str
    action: str
    user: str | None
    address: str | None
    answers: list[AccessAnswer]


# -- removals ---------------------------------------------------------------------------------------------------------


class GoneImage(msgspec.Struct, frozen=True):
    """
    An image that goes: its full name, why (C{removed}, or of a collection C{keep_for}, C{keep_last}, C{max_size} or
    C{reserve}), and the bytes that its going frees: what other images have, too, is not among them.
    """

    name: str
    digest: str
    why: str
    bytes: int


class GoneBlob(msgspec.Struct, frozen=True):
    """A blob that goes: with an image, for the same reason, or because it is C{unreferenced}."""

    digest: str
    why: str
    bytes: int


class SharedBlobs(msgspec.Struct, frozen=True):
    """
    What the images needed and others need as well.

    @ivar blobs: how many; C{bytes}: theirs.
    @ivar users: names of images that need some of it, and C{others}: how many more there are.
    """

    blobs: int = 0
    bytes: int = 0
    users: list[str] = []
    others: int = 0


class RemovalReport(msgspec.Struct, frozen=True, rename="camel"):
    """
    What was removed, or with C{dry_run} would be.

    @ivar stays: what other images use.
    @ivar notes: what else there is to know, in words.
    """

    images: list[GoneImage]
    blobs: list[GoneBlob]
    stays: SharedBlobs
    notes: list[str]
    dry_run: bool = False


# -- inventory and wants ----------------------------------------------------------------------------------------------


class HeldBlob(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A blob that is held; manifests are blobs too. C{size}: bytes."""

    digest: str
    size: int = 0


class Inventory(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """
    What one appliance holds.

    @ivar taken: when, RFC 3339.
    @ivar generation: the same as long as the same blobs are held.
    @ivar manifests: digests.
    """

    site: str = ""
    taken: str = ""
    generation: str = ""
    manifests: list[str] = []
    blobs: list[HeldBlob] = []


class WantEntry(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """
    Something that was asked for and lacking.

    @ivar name: in full.
    @ivar reference: a tag, or a digest.
    @ivar reason: in one word.
    @ivar first: when it was asked for first, RFC 3339; C{last}: and last.
    """

    upstream: str
    repository: str
    reference: str
    name: str = ""
    platform: str | None = None
    reason: str = ""
    first: str = ""
    last: str = ""
    count: int = 1


class WantList(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What one appliance was asked for and lacks. C{taken}: when that was written down, RFC 3339."""

    site: str = ""
    taken: str = ""
    wants: list[WantEntry] = []


# -- exports ----------------------------------------------------------------------------------------------------------


class EarlierBundle(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A bundle that the other side has: its id, and the digests of its blobs."""

    id: str
    blobs: list[str] = []


class ExportOrder(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """
    What is to be exported; L{appliance.bundle.selection.Selection} explains it.

    @ivar since: only what was pulled in so many seconds before now.
    @ivar complete: whether what an image lacks is fetched first.
    @ivar have: the other side's inventory.
    @ivar base: bundles it has, when its inventory is not known.
    @ivar want: the other side's wants; of these, what is not held is fetched first.
    @ivar volume_size: the most bytes of one file.
    """

    refs: list[str] = []
    all: bool = False
    since: float | None = None
    platforms: list[str] = []
    partial: bool = False
    complete: bool = False
    referrers: bool = True
    have: Inventory | None = None
    base: list[EarlierBundle] = []
    want: WantList | None = None
    title: str = ""
    labels: dict[str, str] = {}
    volume_size: int | None = None


class ExportProgress(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """
    How far the fetching for an export is.

    @ivar done: bytes held by now, of C{total} that are known to be lacking; a tag's are known once it is held.
    @ivar entry: the reference of which something is being fetched.
    """

    stage: str = "fetching"
    done: int = 0
    total: int = 0
    entry: str = ""


class VolumeFile(msgspec.Struct, frozen=True, rename="camel"):
    """One file of an export. C{size}: bytes of it; C{url}: its path on this endpoint."""

    n: int
    file: str
    size: int
    url: str


class LackingBlob(msgspec.Struct, frozen=True, rename="camel"):
    """A blob that an image lacks; C{size} in bytes, as promised by what names it."""

    digest: str
    size: int
    kind: str


class Lack(msgspec.Struct, frozen=True, rename="camel"):
    """An image that is not whole. C{why}: in words."""

    ref: str
    why: str
    missing: list[LackingBlob]


class PlannedExport(msgspec.Struct, frozen=True, rename="camel"):
    """
    What C{POST /api/v1/exports} came to.

    @ivar id: the bundle's.
    @ivar expires: until when it is kept if nobody asks for it, RFC 3339.
    @ivar left_out: what was asked for and is not in it, for blobs it lacks.
    @ivar partial: what is in it as far as it goes.
    @ivar unanswered: names and patterns that mean nothing that could be in it.
    @ivar notes: what else there is to know, in words.
    """

    id: str
    kind: str
    title: str
    expires: str
    content_root: str
    totals: Totals
    signed: bool
    volumes: list[VolumeFile]
    left_out: list[Lack]
    partial: list[Lack]
    unanswered: list[str]
    notes: list[str]


# -- collections ------------------------------------------------------------------------------------------------------


class CollectionOrder(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """C{dry_run}: say what would go, and leave it."""

    dry_run: bool = False


class CollectionReport(msgspec.Struct, frozen=True, rename="camel"):
    """
    What a collection removed, or would remove.

    @ivar started: RFC 3339.
    @ivar freed: bytes of C{blobs}; C{before} and C{after}: of all blobs.
    @ivar notes: what else there is to know, in words.
    """

    started: str
    dry_run: bool
    before: int
    after: int
    freed: int
    images: list[GoneImage] = []
    blobs: list[GoneBlob] = []
    notes: list[str] = []


# -- imports ----------------------------------------------------------------------------------------------------------


class ImportChoices(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """
    How something is to be imported; L{appliance.bundle.importer.ImportOptions} explains it.

    @ivar as_name: C{as} in the document.
    @ivar trust: public keys, as their one line of base64.
    @ivar rename: what beginnings of names are to be, C{{"registry.corp:5000": "docker.io"}}.
    """

    as_name: str | None = msgspec.field(name="as", default=None)
    dry_run: bool = False
    on_existing_tag: Literal["move", "keep", "refuse"] = "move"
    trust: list[str] = []
    rename: Annotated[dict[str, str], msgspec.Meta(max_length=1000)] = {}


class ImportOrder(ImportChoices, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """
    What is to be imported.

    @ivar files: absolute paths on the appliance: one archive, or all volumes of a bundle.
    """

    files: Annotated[list[str], msgspec.Meta(min_length=1, max_length=10_000)]


SENDING = "application/vnd.pullcache.sending"
"""What the head of archives is sent as: L{SendingOrder} in one line, then the bytes of all C{beginnings} in order."""

MAX_SENDING_HEAD = 64 * 1024 * 1024
"""The most bytes of a head: the manifests of some twenty thousand images."""


class SentHead(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """
    What is sent first of an archive that lies on another machine.

    @ivar source: its name, for messages and the receipt.
    @ivar entries: name and size in bytes of each regular file in it, in their order there.
    @ivar others: names of links, devices and the like.
    @ivar beginnings: by the number of an entry how many of its first bytes follow; all of it for documents.
    """

    source: Annotated[str, msgspec.Meta(min_length=1, max_length=1024)]
    entries: list[tuple[str, int]]
    others: list[str] = []
    beginnings: list[tuple[int, int]] = []


class SendingOrder(ImportChoices, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """
    What is to be imported and is sent by who asks.

    @ivar archives: one archive, or all volumes of a bundle.
    """

    archives: Annotated[list[SentHead], msgspec.Meta(min_length=1, max_length=10_000)]


class WantedEntry(msgspec.Struct, frozen=True):
    """What is wanted of an entry: its bytes from offset C{start} to its end; C{archive}: its number, from 0 on."""

    archive: int
    entry: str
    start: int


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """
    What the sender is asked for, in a line of its own: all of it, one after the other, is one stream of bytes.

    @ivar sending: where to it is sent: C{PUT /api/v1/imports/sendings/SENDING?at=N} is the bytes of that stream from
        offset N on, as many as the sender likes to put into one request.
    @ivar bytes: all of it.
    """

    stage: str = "wanted"
    sending: str
    bytes: int
    wanted: list[WantedEntry]


class Received(msgspec.Struct, frozen=True):
    """How many bytes of what was wanted have come: where the next request goes on."""

    received: int


class ReceiptList(msgspec.Struct, frozen=True):
    """The receipts that are kept, oldest first."""

    receipts: list[Receipt]


# -- the audit log ----------------------------------------------------------------------------------------------------


class AuditEntry(msgspec.Struct, omit_defaults=True):
    """
    One thing that was done, was refused, or failed: also what a line of the audit log's files is.

    @ivar time: when, or when first, RFC 3339.
    @ivar action: a word: C{pull} C{list} C{login} C{import} C{export} C{pin} C{unpin} C{remove} C{collect} C{scrub}
        C{reload} C{certificate} C{start} C{stop}.
    @ivar what: what it was done to, as operators write it.
    @ivar outcome: C{done}, C{refused} or C{failed}.
    @ivar user: who asked; absent: an anonymous client, or the appliance itself.
    @ivar means: how that is known.
    @ivar address: where they are.
    @ivar rule: the rule of C{access} that decided.
    @ivar why: the reason, in words.
    @ivar times: how often this came, where equal ones are one line.
    """

    time: str
    action: str
    what: str
    outcome: str
    user: str | None = None
    means: str = ""
    address: str = "-"
    rule: str = ""
    why: str = ""
    times: int = 1


class AuditList(msgspec.Struct, frozen=True, rename="camel"):
    """
    What the audit log says, oldest first.

    @ivar is_cut: whether there is more, older than these.
    """

    entries: list[AuditEntry]
    is_cut: bool = False


# -- operators --------------------------------------------------------------------------------------------------------


class LoginOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a browser logs in with: a token of the admin endpoint."""

    token: str

    def __repr__(self) -> str:
        return "LoginOrder()"


class LoggedIn(msgspec.Struct, frozen=True):
    """
    Who asks.

    @ivar role: C{read}, C{operate} or C{manage}.
    @ivar name: which token, certificate or user it is; empty where nothing is asked for.
    @ivar means: C{socket}, C{token}, C{session}, C{certificate} or C{address}.
    @ivar csrf: what a session sends as C{X-CSRF-Token} with whatever changes something; empty without one.
    """

    role: str
    name: str
    means: str
    csrf: str


class Reloaded(msgspec.Struct, frozen=True):
    """
    The configuration was read again and is in force.

    @ivar restart: the keys that changed and take effect with a restart only.
    """

    restart: list[str]


# -- errors -----------------------------------------------------------------------------------------------------------


class ErrorDetail(msgspec.Struct, frozen=True):
    """What is wrong: a word for programs, and a sentence that says what to do."""

    code: str
    message: str
    missing: list[str] = []


class Error(msgspec.Struct, frozen=True):
    """Every answer that is none."""

    error: ErrorDetail
