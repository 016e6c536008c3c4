"""Signed at the registry, verified through the appliance: with the registry, without it, and behind the gap."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.clients import tools
from tests.clients.plain import ask, pull
from tests.clients.sides import carry, export, fronted, pullcache
from tests.clients.signing import IMAGE, NAME, REPOSITORY, TAG, Cosign, Oras, secluded
from tests.clients.tools import DockerRegistry, Failed, run
from tests.doubles import images
from tests.doubles.images import Content
from tests.process.service import UPSTREAM, Appliance, until

pytestmark = [pytest.mark.real_client, pytest.mark.process]

UNSIGNED = images.image("team/unsigned")

Fetch = Callable[[str, Path], None]


@pytest.fixture
def appliance(tmp_path: Path, registry: DockerRegistry) -> Iterator[Appliance]:
    """A running appliance in front of C{registry}; a list of referrers is asked for again after a second."""
    with fronted(tmp_path, registry.url, referrers_fresh_for="1s", missing_for="1h") as made:
        yield made


def test_a_signature_verifies_with_its_registry_without_it_and_where_there_is_no_network(
    registry: DockerRegistry, cosign: Cosign, appliance: Appliance, sealed: Appliance, tmp_path: Path
) -> None:
    """Signed at the registry with a key; with the public key it can be checked wherever the image went."""

    def verifies(here: Appliance) -> bool:
        return cosign.verify(here.authority, REPOSITORY, TAG) == {IMAGE.digest}

    cosign.sign(registry.authority, REPOSITORY, IMAGE.digest)
    pull(appliance.authority, REPOSITORY, TAG)
    assert verifies(appliance)
    # No cosign reads the configuration of a signature that is an image; the appliance has made that whole by itself.
    bundle = export(appliance, tmp_path)
    registry.kill()
    assert verifies(appliance)
    assert verifies(appliance.restart())
    pullcache(sealed, "import", bundle)
    assert verifies(sealed)
    assert verifies(sealed.restart())


def test_cosign_3_verifies_what_cosign_2_signed(
    registry: DockerRegistry,
    cosign_2: Cosign,
    cosign_3: Cosign,
    appliance: Appliance,
    sealed: Appliance,
    tmp_path: Path,
) -> None:
    """It looks for referrers first; that there are none, or that it is not known, does not hide the tag."""
    cosign_3.key = cosign_2.key

    def verifies(here: Appliance) -> bool:
        return cosign_3.verify(here.authority, REPOSITORY, TAG) == {IMAGE.digest}

    cosign_2.sign(registry.authority, REPOSITORY, IMAGE.digest)
    pull(appliance.authority, REPOSITORY, TAG)
    assert verifies(appliance)
    bundle = export(appliance, tmp_path)
    registry.kill()
    assert verifies(appliance)
    pullcache(sealed, "import", bundle)
    assert verifies(sealed)


def test_what_is_not_signed_does_not_verify(registry: DockerRegistry, cosign: Cosign, appliance: Appliance) -> None:
    """Neither another image's signature nor a registry that is gone makes an image pass."""
    registry.add(REPOSITORY, "unsigned", UNSIGNED)
    cosign.sign(registry.authority, REPOSITORY, IMAGE.digest)
    with pytest.raises(Failed, match="no signatures found"):
        cosign.verify(appliance.authority, REPOSITORY, "unsigned")
    assert cosign.verify(appliance.authority, REPOSITORY, TAG) == {IMAGE.digest}
    registry.kill()
    with pytest.raises(Failed):
        cosign.verify(appliance.authority, REPOSITORY, "unsigned")
    assert ask(appliance.authority, f"/v2/{REPOSITORY}/referrers/sha256:{'0' * 64}").status in (502, 504)


def test_a_signature_that_is_made_later_is_found(registry: DockerRegistry, cosign: Cosign, tmp_path: Path) -> None:
    """An image's digest never changes, what refers to it does: what was not there is asked for again."""
    with fronted(tmp_path, registry.url, referrers_fresh_for="1s", missing_for="1s") as appliance:
        with pytest.raises(Failed, match="no signatures found"):
            cosign.verify(appliance.authority, REPOSITORY, TAG)
        cosign.sign(registry.authority, REPOSITORY, IMAGE.digest)

        def verifies() -> bool:
            with suppress(Failed):
                return cosign.verify(appliance.authority, REPOSITORY, TAG) == {IMAGE.digest}
            return False

        until(verifies, "the signature is found")


def test_cosign_shows_and_saves_through_the_appliance_what_the_registry_has(
    registry: DockerRegistry, cosign: Cosign, appliance: Appliance, sealed: Appliance, tmp_path: Path
) -> None:
    """The same tree and the same content; again with the registry gone, and behind the gap."""
    cosign.sign(registry.authority, REPOSITORY, IMAGE.digest)
    tree = cosign.tree(registry.authority, NAME)
    saved = cosign.save(registry.authority, NAME, tmp_path / "straight")
    for folder in ("through", "without"):
        assert cosign.tree(appliance.authority, NAME) == tree
        assert cosign.save(appliance.authority, NAME, tmp_path / folder) == saved
        registry.kill()
    carry(appliance, sealed, tmp_path)
    assert cosign.tree(sealed.authority, NAME) == tree
    assert cosign.save(sealed.authority, NAME, tmp_path / "sealed-off") == saved


def test_what_cosign_saved_through_the_appliance_can_be_loaded_elsewhere(
    registry: DockerRegistry, cosign_2: Cosign, appliance: Appliance, tmp_path: Path
) -> None:
    """And verifies there. Version 3.1 cannot load what it saved: it forgets the signature's blob, here as anywhere."""
    cosign_2.sign(registry.authority, REPOSITORY, IMAGE.digest)
    cosign_2.save(appliance.authority, NAME, tmp_path / "saved")
    cosign_2.load(tmp_path / "saved", registry.authority, "other/copy:1")
    assert cosign_2.verify(registry.authority, "other/copy", "1") == {IMAGE.digest}


# -- fetched along with the image -----------------------------------------------------------------------------------


def with_skopeo(authority: str, folder: Path) -> None:
    """Pull L{NAME} with all its platforms, and nothing else."""
    name = f"docker://{authority}/{NAME}"
    tools.Skopeo(folder).run("copy", "--quiet", "--all", "--src-tls-verify=false", name, f"dir:{folder}/pulled")


def with_crane(authority: str, folder: Path) -> None:
    """Pull L{NAME} for one platform, and nothing else."""
    run("crane", "--insecure", "pull", f"{authority}/{NAME}", folder / "crane.tar", **secluded(folder))


@pytest.mark.parametrize("fetch", [with_skopeo, with_crane], ids=["skopeo", "crane"])
def test_who_pulled_an_image_can_verify_it_without_its_registry(
    registry: DockerRegistry, cosign: Cosign, sealed: Appliance, fetch: Fetch, tmp_path: Path
) -> None:
    """With C{prefetch: {referrers: true}} no client has to ask for the signature: it is here and in bundles."""
    tools.need(fetch.__name__.removeprefix("with_"))
    cosign.sign(registry.authority, REPOSITORY, IMAGE.digest)
    signature = cosign.save(registry.authority, NAME, tmp_path / "straight") - parts(IMAGE)
    assert signature
    with fronted(tmp_path, registry.url, prefetch={"referrers": True}) as appliance:
        fetch(appliance.authority, tmp_path)
        until(lambda: all(appliance.blob(digest).exists() for digest in signature), "the signature was fetched")
        registry.kill()
        assert cosign.verify(appliance.authority, REPOSITORY, TAG) == {IMAGE.digest}
        carry(appliance, sealed, tmp_path)
    assert cosign.verify(sealed.authority, REPOSITORY, TAG) == {IMAGE.digest}


def parts(content: Content) -> set[str]:
    """The digests of everything beneath it and its own."""
    return {blob.digest for part in content.walk() for blob in (part.manifest, *part.blobs)}


def test_who_pulled_an_image_can_see_the_whole_tree_without_its_registry(
    docker_registry: DockerRegistry, oras: Oras, tmp_path: Path
) -> None:
    """What refers to what refers to it was fetched, too, and so was the word that nothing refers to that."""
    name = f"{docker_registry.authority}/{NAME}"
    sbom = oras.attach(name, "application/vnd.example.sbom", "an SBOM")
    scan = oras.attach(f"{docker_registry.authority}/{REPOSITORY}@{sbom}", "application/vnd.example.scan", "a scan")
    tree = oras.tree(docker_registry.authority, NAME)
    with fronted(tmp_path, docker_registry.url, prefetch={"referrers": True}) as appliance:
        pull(appliance.authority, REPOSITORY, TAG)
        lists = appliance.store / "repositories" / UPSTREAM / REPOSITORY / "_referrers"
        for digest in (IMAGE.digest, sbom, scan):
            until((lists / f"{digest.replace(':', '-')}.json").exists, f"what refers to {digest} is known")
        docker_registry.kill()
        assert oras.tree(appliance.authority, NAME) == tree
