"""The upstream that the cache is tested with keeps the promises of a real one."""

from __future__ import annotations

from typing import Any

from appliance.oci.digest import Digest
from tests.contracts.upstream import REPOSITORY, Held, UpstreamContract
from tests.doubles.upstream import ScriptedUpstream


def holding(held: Held) -> ScriptedUpstream:
    upstream = ScriptedUpstream(library=True)
    for data, media_type in held.manifests.items():
        upstream.add_manifest(REPOSITORY, data, media_type)
    for tag, data in held.tags.items():
        upstream.shelves[REPOSITORY].tags[tag] = Digest.of(data)
    for blob in held.blobs:
        upstream.add_blob(REPOSITORY, blob)
    for subject, listed in held.referrers.items():
        upstream.add_referrers(REPOSITORY, Digest.of(subject), *listed)
    return upstream


class TestScriptedUpstream(UpstreamContract):
    """As it comes."""

    def upstream_holding(self, held: Held) -> Any:
        return holding(held)


class TestScriptedUpstreamThatKnowsLittle(UpstreamContract):
    """Without ranges, sizes and digests, and with a validator."""

    def upstream_holding(self, held: Held) -> Any:
        upstream = holding(held)
        upstream.ranges = upstream.tells_size = upstream.tells_digest = False
        upstream.validator = '"v"'
        return upstream
