"""A signed image that was pulled can be verified without its upstream, even if no client asked for the signature."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.clients.plain import ask, pull
from tests.doubles.remote import RemoteRegistry
from tests.process.service import Appliance, until

REPOSITORY = "team/app"
SBOM = "application/vnd.example.sbom.v1+json"
PREFETCHING = {"prefetch": {"referrers": True}}

pytestmark = pytest.mark.process


@pytest.fixture
def prefetching(tmp_path: Path, upstream: RemoteRegistry) -> Iterator[Appliance]:
    """A running appliance in front of C{upstream} that prefetches from it."""
    made = Appliance(tmp_path / "prefetching", upstream.url, upstream=PREFETCHING)
    yield made.start()
    made.kill()


def signed(upstream: RemoteRegistry, api: bool) -> tuple[str, str, str]:
    """
    An image with an SBOM and a signature as cosign leaves it; returns their digests.

    @param api: whether the upstream lists the SBOM by the referrers API, else by the fallback tag.
    """
    upstream.set(has_referrers=api)
    subject = upstream.add(REPOSITORY, "1")["digest"]
    if api:
        sbom = upstream.add(REPOSITORY, None, "artifact", subject=subject)["digest"]
    else:
        [sbom] = upstream.fallback(REPOSITORY, subject, [SBOM])
    tag = subject.replace(":", "-") + ".sig"
    return subject, sbom, upstream.add(REPOSITORY, tag, seed="signature")["digest"]


def beneath(appliance: Appliance, manifest: str) -> list[str]:
    """The digests that a manifest held names; none while it is not held."""
    path = appliance.blob(manifest)
    if not path.exists():
        return []
    document: dict[str, Any] = json.loads(path.read_bytes())
    return [each["digest"] for each in (document["config"], *document["layers"])]


def is_whole(appliance: Appliance, manifest: str) -> bool:
    """Whether the store has it and all beneath it."""
    names = beneath(appliance, manifest)
    return bool(names) and all(appliance.blob(name).exists() for name in names)


@pytest.mark.parametrize(
    ("api", "said"),
    [(True, None), (False, None), (False, "NAME_UNKNOWN"), (False, "MANIFEST_UNKNOWN")],
    ids=["API", "fallback tag", "fallback tag, the API's path taken for a repository", "or for a manifest"],
)
def test_a_pulled_image_is_verified_without_its_upstream(
    prefetching: Appliance, upstream: RemoteRegistry, api: bool, said: str | None
) -> None:
    """The list, the SBOM, the signature by its tag and their blobs are served when the upstream is gone for good."""
    subject, sbom, signature = signed(upstream, api)
    if said is not None:
        upstream.misbehave("/v2/*/referrers/*", ("oci_error", {"code": 404, "name": said}))
    assert pull(prefetching.authority, REPOSITORY, "1").digest == subject
    until(lambda: is_whole(prefetching, sbom) and is_whole(prefetching, signature), "the SBOM and the signature")
    upstream.kill()
    prefetching.restart()
    listed = ask(prefetching.authority, f"/v2/{REPOSITORY}/referrers/{subject}")
    assert [each["digest"] for each in listed.json()["manifests"]] == [sbom]
    tag = subject.replace(":", "-") + ".sig"
    assert pull(prefetching.authority, REPOSITORY, tag).digest == signature
    assert ask(prefetching.authority, f"/v2/{REPOSITORY}/manifests/{sbom}").status == 200
    for blob in beneath(prefetching, sbom):
        reply = ask(prefetching.authority, f"/v2/{REPOSITORY}/blobs/{blob}")
        assert (reply.status, f"sha256:{hashlib.sha256(reply.body).hexdigest()}") == (200, blob)


def test_nothing_is_fetched_along_by_default(appliance: Appliance, upstream: RemoteRegistry) -> None:
    """An upstream that counts pulls is asked for what clients ask for."""
    subject, sbom, signature = signed(upstream, True)
    assert pull(appliance.authority, REPOSITORY, "1").digest == subject
    # What was begun before would be there by the time that a second image is.
    other = upstream.add("team/other", "1")["digest"]
    assert pull(appliance.authority, "team/other", "1").digest == other
    assert upstream.seen(f"/v2/{REPOSITORY}/referrers/*") == []
    assert not any(appliance.blob(digest).exists() for digest in (sbom, signature))


def test_a_pull_takes_no_notice_of_a_search_that_is_stuck(prefetching: Appliance, upstream: RemoteRegistry) -> None:
    """The upstream never answers what refers to the image: clients pull it, and the appliance can be stopped."""
    subject, *_ = signed(upstream, True)
    upstream.misbehave(f"/v2/{REPOSITORY}/referrers/*", ("late", {"seconds": 3600}))
    for _ in range(2):
        assert pull(prefetching.authority, REPOSITORY, "1").digest == subject
    until(lambda: upstream.seen(f"/v2/{REPOSITORY}/referrers/*"), "the search")
    assert pull(prefetching.authority, REPOSITORY, subject).digest == subject
    prefetching.stop()
    assert "Traceback" not in prefetching.log()
