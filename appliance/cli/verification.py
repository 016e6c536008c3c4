"""C{pullcache verify}: is this bundle what was made, and by whom? Needs no appliance, no store and no network."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator

from appliance.bundle.archivecontents import ArchiveContents
from appliance.bundle.minisign import claimed_key
from appliance.bundle.verification import Verified
from appliance.bundle.verification import verify as verified
from appliance.cli.command import DONE, FAILED, Commands, Local, existing, new_command
from appliance.cli.failures import WrongUsage
from appliance.cli.keys import public_key
from appliance.cli.screen import Screen, count, short, size
from appliance.errors import BundleUntrusted, NotOneBundle


def add_to(commands: Commands) -> None:
    """Add C{verify}."""
    parser = new_command(commands, "verify", "check a bundle's signature and every digest, without an appliance")
    parser.add_argument("files", metavar="FILE", nargs="+", type=existing, help="the bundle, or its volumes")
    parser.add_argument(
        "--trust", metavar="PUBKEY", action="append", default=[], help="a public key, or its file; refuse others"
    )
    parser.set_defaults(run=verify)


def verify(local: Local, options: Namespace) -> int:
    """
    Print signer, contents and content root, once every blob that is there was hashed; status 1 when volumes are absent.

    @raise BundleUntrusted: no key given with C{--trust} signed it.
    @raise BundleError: an import into an empty store would refuse it, and why.
    @raise WrongUsage: the files are of several bundles.
    """
    keys = [public_key(given) for given in options.trust]
    meter = local.meter()
    begun = False

    def hashed(done: int, total: int) -> None:
        nonlocal begun
        if not begun:
            begun = True
            meter.begin("checking", total)
        meter.at(done)

    try:
        found = verified(options.files, keys, hashed)
    except NotOneBundle as error:
        raise WrongUsage(str(error)) from error
    finally:
        meter.close()
    _report(local.screen, found)
    return FAILED if found.absent else DONE


def _signature(contents: ArchiveContents) -> str:
    """Who signed it, for people; scripts have learnt these words."""
    if contents.signer is not None:
        return f"key {contents.signer} ({contents.comment})" if contents.comment else f"key {contents.signer}"
    if not contents.unchecked:
        return "nobody: it is not signed"
    try:
        signer = f"it is signed by key {claimed_key(contents.unchecked[0])}"
    except BundleUntrusted as error:
        signer = str(error)
    return f"not checked: {signer}; name the signer's key with --trust"


def _report(screen: Screen, found: Verified) -> None:
    bundle = found.bundle
    if screen.as_json:
        screen.document(
            {
                "id": bundle.id,
                "title": bundle.title,
                "kind": bundle.kind,
                "created": bundle.created,
                "site": bundle.site,
                "signer": found.contents.signer,
                "signature": _signature(found.contents),
                "contentRoot": bundle.content_root,
                "totals": bundle.totals,
                "refs": bundle.refs,
                "requires": bundle.requires,
                "volumeCount": bundle.volume_count,
                "absentVolumes": list(found.absent),
            }
        )
        return
    screen.table(list(_summary(found)))
    screen.say()
    rows = [("REFERENCE", "DIGEST", "PLATFORMS")]
    for ref in bundle.refs:
        platforms = [*ref.platforms.present, *(f"-{platform}" for platform in ref.platforms.absent)]
        rows.append((ref.name, short(ref.digest), " ".join(platforms) or "-"))
    screen.table(rows)
    screen.say()
    if found.absent:
        numbers = ", ".join(map(str, found.absent))
        screen.say(f"what was given is right; of {bundle.volume_count} volumes these were not given: {numbers}")
    else:
        screen.say(f"every digest is right: {count(bundle.totals.blobs, 'blob')}, {size(bundle.totals.bytes)}")
    if bundle.requires:
        screen.say(
            f"it builds on others: an import takes it only where {count(len(bundle.requires), 'blob')} more"
            f" ({size(sum(each.size for each in bundle.requires))}) are held already, and names those that are not"
        )


def _summary(found: Verified) -> Iterator[tuple[str, str]]:
    bundle = found.bundle
    yield "bundle", bundle.id
    if bundle.title:
        yield "title", bundle.title
    yield "signer", _signature(found.contents)
    yield "site", bundle.site
    yield "created", bundle.created
    yield "kind", bundle.kind
    totals = bundle.totals
    yield "contents", f"{count(totals.refs, 'reference')}, {count(totals.blobs, 'blob')}, {size(totals.bytes)}"
    if bundle.requires:
        needed = sum(each.size for each in bundle.requires)
        yield "requires", f"{count(len(bundle.requires), 'blob')}, {size(needed)}, that must be held already"
    yield "contentRoot", bundle.content_root
