"""A site without an authority makes one with C{pullcache certificate}: real clients are content with what it made."""

from __future__ import annotations

import socket
import ssl
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.clients import tools
from tests.clients.engine import SITE, Dockerd, DockerVisitor
from tests.clients.test_doors import CLIENTS
from tests.clients.visitors import Door
from tests.doubles.remote import RemoteRegistry
from tests.process.service import PATIENCE, Appliance, free_port, until

pytestmark = [pytest.mark.real_client, pytest.mark.process]

NAME = "library/tiny"


@dataclass(frozen=True)
class Site:
    """
    An appliance that shows the certificate.

    @ivar folder: what the command made.
    @ivar printed: what it said.
    @ivar digest: of the image there is.
    """

    folder: Path
    printed: str
    door: Door
    digest: str

    def shown(self) -> int:
        """The number of the certificate that a new connection is shown, by name, and verified."""
        context = ssl.create_default_context(cafile=str(self.door.ca))
        host, port = self.door.authority.split(":")
        with (
            socket.create_connection((host, int(port)), timeout=PATIENCE) as connection,
            context.wrap_socket(connection, server_hostname=SITE) as secured,
        ):
            certificate = secured.getpeercert()
            assert certificate is not None
            return int(str(certificate["serialNumber"]), 16)


def certificate(folder: Path, *arguments: str) -> str:
    """Run the command; returns what it prints."""
    command = (sys.executable, "-m", "appliance.cli.main", "certificate", "-o", folder, *arguments)
    return tools.run(*command).decode()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Made as the command says, and running."""
    folder, port = tmp_path_factory.mktemp("site"), free_port()
    printed = certificate(folder / "tls", "--name", SITE, "--name", "127.0.0.1", "--port", str(port))
    registry = RemoteRegistry().start()
    digest = registry.add(NAME, "1", "index")["digest"]
    endpoint = f"tls:{folder}/tls:port={port}"
    assert endpoint in printed
    appliance = Appliance(folder / "appliance", registry.url, listen=[{"endpoint": f"{endpoint}:interface=127.0.0.1"}])
    appliance.start()
    yield Site(folder / "tls", printed, Door(f"127.0.0.1:{port}", folder / "tls" / "ca.crt"), digest)
    appliance.kill()
    registry.kill()


@pytest.mark.parametrize("client", [name for name in CLIENTS if name != "docker"])
def test_a_client_that_is_given_the_authority_pulls(site: Site, client: str, tmp_path: Path) -> None:
    """C{ca.crt} goes where the command says; nothing else is needed."""
    tools.need(*CLIENTS[client].programs)
    for visitor in tools.opened(CLIENTS[client](tmp_path)):
        assert site.digest in visitor.pull(site.door, f"{NAME}:1")


def test_docker_finds_the_authority_where_the_command_says(site: Site, tmp_path: Path) -> None:
    """By the name that it calls the appliance by; without the file it does not believe the certificate."""
    port = site.door.authority.rpartition(":")[2]
    assert f"/etc/docker/certs.d/{SITE}:{port}/ca.crt" in site.printed
    docker = Dockerd(tmp_path)
    for running in tools.opened(docker.start()):
        with pytest.raises(tools.Failed, match="unknown authority"):
            running.docker("pull", f"{SITE}:{port}/up.test/{NAME}:1", config=tmp_path)
        assert site.digest in DockerVisitor(tmp_path, docker).pull(site.door, f"{NAME}:1")


def test_a_renewed_certificate_is_shown_and_clients_need_nothing(site: Site, tmp_path: Path) -> None:
    """The authority is the one they have; the appliance finds the new file by itself."""
    tools.need(*CLIENTS["skopeo"].programs)
    before = site.shown()
    certificate(site.folder)
    until(lambda: site.shown() != before, "the new certificate is shown")
    assert site.digest in CLIENTS["skopeo"](tmp_path).pull(site.door, f"{NAME}:1")
