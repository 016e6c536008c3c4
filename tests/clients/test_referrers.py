"""What refers to an image, as real clients list it: through the appliance and out of a bundle."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest

from tests.clients.olareg import Olareg
from tests.clients.plain import ask, pull
from tests.clients.sides import carry, export, fronted, pullcache
from tests.clients.signing import IMAGE, NAME, REPOSITORY, TAG, Cosign, Oras, Regctl
from tests.clients.test_bundle_readers import unpacked
from tests.clients.tools import DockerRegistry
from tests.doubles import images
from tests.doubles.exports import Site
from tests.doubles.images import EMPTY_TYPE, OCI, Blob, Content
from tests.doubles.remote import RemoteRegistry
from tests.process.service import UPSTREAM, Appliance

pytestmark = [pytest.mark.real_client, pytest.mark.process]

OTHER = images.image("team/other")
LISTS = f"/v2/{REPOSITORY}/referrers"
SBOM, SCAN, OLD = (f"application/vnd.example.{kind}" for kind in ("sbom.v1+json", "scan", "old"))
CLIENTS = 100
HALF_A_PAGE = 2_500_000
"""Two descriptors of so many bytes do not go into one page of 4 MiB."""


@pytest.fixture
def appliance(tmp_path: Path, registry: DockerRegistry) -> Iterator[Appliance]:
    """A running appliance in front of C{registry}; it asks for lists of referrers again after a second."""
    with fronted(tmp_path, registry.url, referrers_fresh_for="1s") as made:
        yield made


def descriptors(authority: str, query: str = "") -> list[dict[str, Any]]:
    """What an appliance lists for L{IMAGE}, all pages."""
    path, found = f"{LISTS}/{IMAGE.digest}{query}", []
    while path:
        reply = ask(authority, path)
        assert reply.status == 200, reply.body
        assert reply.headers["content-type"] == OCI.index
        assert len(reply.body) <= 4 * 1024 * 1024
        assert ("artifactType=" in path) == (reply.headers.get("oci-filters-applied") == "artifactType")
        found += reply.json()["manifests"]
        link = reply.headers.get("link", "").partition(">")[0].removeprefix("<")
        path = urljoin(path, link) if link else ""
    return found


def attached(artifact_type: str, subject: Content | None = IMAGE, **annotations: str) -> Content:
    """An artifact that refers to C{subject}, or says nothing of one."""
    config, text = Blob(EMPTY_TYPE, b"{}"), Blob("text/plain", artifact_type.encode())
    document = {
        "schemaVersion": 2,
        "mediaType": OCI.manifest,
        "artifactType": artifact_type,
        "config": config.descriptor(),
        "layers": [text.descriptor()],
        **({"subject": subject.manifest.descriptor()} if subject else {}),
        "annotations": annotations,
    }
    return Content(Blob(OCI.manifest, images.encode(document)), (config, text))


def listing(*artifacts: Content) -> Content:
    """An index as the referrers API gives it, and as the fallback tag names it."""
    entries = [each.manifest.descriptor(artifactType=artifact_type) for each, artifact_type in typed(*artifacts)]
    document = {"schemaVersion": 2, "mediaType": OCI.index, "manifests": entries}
    return Content(Blob(OCI.index, images.encode(document)), children=artifacts)


def typed(*artifacts: Content) -> list[tuple[Content, str]]:
    """Each with its artifact type."""
    return [(each, json.loads(each.manifest.data)["artifactType"]) for each in artifacts]


def pairs(*artifacts: Content) -> list[tuple[str, str]]:
    """Digest and artifact type of each, in order of their digests, as the clients' wrappers list them."""
    return sorted((each.digest, artifact_type) for each, artifact_type in typed(*artifacts))


def attach_three(registry: DockerRegistry, oras: Oras) -> tuple[str, str, str]:
    """An SBOM and a scan of L{IMAGE}, and a scan of the SBOM."""
    sbom = oras.attach(f"{registry.authority}/{NAME}", SBOM, "an SBOM")
    scan = oras.attach(f"{registry.authority}/{NAME}", SCAN, "a scan")
    return sbom, scan, oras.attach(f"{registry.authority}/{REPOSITORY}@{sbom}", SCAN, "a scan of the SBOM")


def test_oras_and_regctl_list_what_the_registry_lists(
    registry: DockerRegistry, oras: Oras, regctl: Regctl, appliance: Appliance
) -> None:
    """All of it, of one type, and the referrers of referrers; with the registry and without."""
    for digest in attach_three(registry, oras):
        pull(appliance.authority, REPOSITORY, digest)

    def listed(authority: str) -> dict[str, Any]:
        return {
            "oras": oras.referrers(f"{authority}/{NAME}"),
            "oras, one type": oras.referrers(f"{authority}/{NAME}", "--plain-http", "--artifact-type", SCAN),
            "oras, all below": oras.tree(authority, NAME),
            "regctl": regctl.referrers(authority, NAME),
            "regctl, one type": regctl.referrers(authority, NAME, "--filter-artifact-type", SCAN),
        }

    straight = listed(registry.authority)
    assert [len(straight[client]) for client in ("oras", "regctl", "oras, one type")] == [2, 2, 1]
    assert listed(appliance.authority) == straight
    registry.kill()
    assert listed(appliance.authority) == straight
    assert listed(appliance.restart().authority) == straight


def test_an_image_that_has_none_hides_those_of_no_other(
    registry: DockerRegistry, oras: Oras, appliance: Appliance
) -> None:
    """Asked first for one without: olareg answers with C{null} for a list, and has the API all the same."""
    registry.add(REPOSITORY, "other", OTHER)
    assert oras.referrers(f"{appliance.authority}/{REPOSITORY}:other") == []
    sbom = oras.attach(f"{registry.authority}/{NAME}", SBOM, "an SBOM")
    assert oras.referrers(f"{appliance.authority}/{NAME}") == [(sbom, SBOM)]


def test_descriptors_are_the_registrys_to_the_member(
    registry: DockerRegistry, oras: Oras, appliance: Appliance
) -> None:
    """Annotations and all: clients choose by them."""
    oras.attach(f"{registry.authority}/{NAME}", SBOM, "an SBOM")
    fallback = f"/v2/{REPOSITORY}/manifests/{IMAGE.digest.replace(':', '-')}"
    path = f"{LISTS}/{IMAGE.digest}" if isinstance(registry, Olareg) else fallback
    listed = ask(registry.authority, path, headers={"Accept": OCI.index}).json()["manifests"]
    assert "annotations" in listed[0]
    assert descriptors(appliance.authority) == listed


def test_referrers_from_everywhere_are_listed_once(
    olareg: DockerRegistry, oras: Oras, regctl: Regctl, tmp_path: Path
) -> None:
    """Two on two pages of the registry's API, one by the fallback tag, one from a bundle with one of the two again."""
    padding = "x" * HALF_A_PAGE
    first, second = attached(SBOM, padding=padding), attached(SCAN, padding=padding)
    old, brought = attached(OLD, subject=None), attached(SBOM, by="hand")
    for content in (first, second):
        olareg.add(REPOSITORY, content.digest, content)
    olareg.add(REPOSITORY, IMAGE.digest.replace(":", "-"), listing(old))
    assert "link" in ask(olareg.authority, f"{LISTS}/{IMAGE.digest}").headers
    with fronted(tmp_path, olareg.url) as appliance:
        pullcache(appliance, "import", bundled(tmp_path, IMAGE, first, brought))
        name = f"{appliance.authority}/{NAME}"
        assert oras.referrers(name) == pairs(first, second, old, brought)
        assert regctl.referrers(appliance.authority, NAME) == pairs(first, second, old, brought)
        assert oras.referrers(name, "--plain-http", "--artifact-type", SBOM) == pairs(first, brought)
        assert oras.referrers(name, "--plain-http", "--artifact-type", OLD) == pairs(old)
        assert len(descriptors(appliance.authority)) == 4
        assert len(descriptors(appliance.authority, "?artifactType=application%2Fvnd.example.scan")) == 1


def bundled(folder: Path, *contents: Content) -> Path:
    """A bundle of these, made by another program."""
    site = Site()
    for content in contents:
        site.hold(content, (UPSTREAM, REPOSITORY))
    plan = site.export(all=True)
    [data] = site.files(plan)
    file = folder / plan.file_name(1)
    file.write_bytes(data)
    return file


@pytest.fixture
def simulated() -> Iterator[RemoteRegistry]:
    """The project's own registry, with L{IMAGE}, and a list of two pages that come slowly."""
    registry = RemoteRegistry().start()
    registry.add(REPOSITORY, TAG, "index", seed=REPOSITORY)
    path = f"{LISTS}/{IMAGE.digest}"
    for page, link in ((attached(SBOM), f'<{path}?page=2>; rel="next"'), (attached(SCAN), "")):
        text = listing(page).manifest.data.decode()
        answer = {"code": 200, "body": text, "content_type": OCI.index, **({"Link": link} if link else {})}
        registry.misbehave(path, ("status", answer), ("late", {"seconds": 1}), times=1)
    yield registry
    registry.kill()


def told(appliance: Appliance) -> set[tuple[str, ...]]:
    """What a hundred clients get at the same time: the digests on each of the lists that they get."""
    with ThreadPoolExecutor(CLIENTS) as clients:
        lists = [clients.submit(descriptors, appliance.authority) for _ in range(CLIENTS)]
        return {tuple(sorted(each["digest"] for each in listed.result())) for listed in lists}


def test_a_hundred_clients_that_ask_for_one_list_are_one_walk_upstream(
    simulated: RemoteRegistry, tmp_path: Path
) -> None:
    """A fleet that verifies a new image at once: each page is asked for once, and each client gets all of it."""
    with fronted(tmp_path, simulated.url) as appliance:
        assert told(appliance) == {tuple(sorted((attached(SBOM).digest, attached(SCAN).digest)))}
    assert [exchange.query for exchange in simulated.seen(f"{LISTS}/*")] == ["", "page=2"]
    assert len(simulated.seen("/v2/*/manifests/sha256-*")) == 1


def test_a_hundred_clients_of_a_registry_without_the_api_are_one_walk(
    docker_registry: DockerRegistry, oras: Oras, tmp_path: Path
) -> None:
    """The API is asked for once, and the fallback tag's list read once, by docker-registry's own log."""
    sbom = oras.attach(f"{docker_registry.authority}/{NAME}", SBOM, "an SBOM")
    with fronted(tmp_path, docker_registry.url) as appliance:
        assert told(appliance) == {(sbom,)}
    asked = [line for line in docker_registry.log().splitlines() if '"GET ' in line and "pullcache" in line]
    assert sum("/referrers/" in line for line in asked) == 1
    assert sum("/manifests/" in line for line in asked) == 1


# -- bundles --------------------------------------------------------------------------------------------------------


def test_oras_lists_what_refers_to_an_image_in_an_unpacked_bundle(
    registry: DockerRegistry, cosign_3: Cosign, oras: Oras, regctl: Regctl, appliance: Appliance, tmp_path: Path
) -> None:
    """Before anything is imported: signatures and SBOMs are there to be seen, in the folder and in the file."""
    cosign_3.sign(registry.authority, REPOSITORY, IMAGE.digest)
    oras.attach(f"{registry.authority}/{NAME}", SBOM, "an SBOM")
    straight = oras.referrers(f"{registry.authority}/{NAME}")
    for digest, _ in straight:
        pull(appliance.authority, REPOSITORY, digest)
    pull(appliance.authority, REPOSITORY, TAG)
    bundle = export(appliance, tmp_path)
    folder = unpacked([bundle], tmp_path / "layout")
    for place in (folder, bundle):
        assert oras.referrers(f"{place}@{IMAGE.digest}", "--oci-layout") == straight
    for digest in (IMAGE.digest, *(digest for digest, _ in straight)):
        head = regctl.run(registry.authority, "manifest", "head", f"ocidir://{folder}@{digest}")
        assert head.decode().strip() == digest


def test_behind_the_gap_is_listed_what_a_bundle_brought(
    registry: DockerRegistry, oras: Oras, regctl: Regctl, appliance: Appliance, sealed: Appliance, tmp_path: Path
) -> None:
    """The same as at the registry, with a warning that it may not be all; of what was not asked about, no word."""
    for digest in (TAG, *attach_three(registry, oras)):
        pull(appliance.authority, REPOSITORY, digest)
    name, scans = f"{registry.authority}/{NAME}", ("--plain-http", "--artifact-type", SCAN)
    straight, straight_scans = oras.referrers(name), oras.referrers(name, *scans)
    carry(appliance, sealed, tmp_path)
    assert oras.referrers(f"{sealed.authority}/{NAME}") == straight
    assert oras.referrers(f"{sealed.authority}/{NAME}", *scans) == straight_scans
    assert regctl.referrers(sealed.authority, NAME) == straight
    assert "held" in ask(sealed.authority, f"{LISTS}/{IMAGE.digest}").headers["warning"]
    assert ask(sealed.authority, f"{LISTS}/{OTHER.digest}").status == 502
