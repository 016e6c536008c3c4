"""Between the appliance and a registry: a private authority, certificates of clients, and HTTP proxies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from tests.clients import tools
from tests.clients.plain import Reply, ask
from tests.clients.relays import BASIC_AUTH, Nginx, Squid, Tinyproxy
from tests.clients.tools import DockerRegistry, Skopeo, Source
from tests.doubles import images
from tests.doubles.certificates import Identity, authority
from tests.process import service
from tests.process.service import Appliance, until

pytestmark = [pytest.mark.real_client, pytest.mark.process]

REPOSITORY = "team/app"
IMAGE = images.multi_arch(REPOSITORY)
NAME = "registry.test"
"""What the registry is called; only squid knows where that is."""

USER, PASSWORD = "us@er", "Danger pa:ss%word"
MAX_NOTICE = 30.0
"""Seconds after which the appliance has asked an upstream again that was down."""


@pytest.fixture(scope="module")
def ca() -> Identity:
    """The site's authority."""
    return authority("Site")


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[DockerRegistry]:
    """Debian's docker-registry with L{IMAGE}, in the clear."""
    tools.need(*DockerRegistry.programs)
    made = DockerRegistry(tmp_path).start()
    made.add(REPOSITORY, "latest", IMAGE)
    yield made
    made.kill()


@pytest.fixture
def front(tmp_path: Path, registry: DockerRegistry, ca: Identity) -> Iterator[Nginx]:
    """nginx before it, which wants a client certificate."""
    tools.need(*Nginx.programs)
    made = Nginx(tmp_path, registry.authority, ca.issue(NAME, "127.0.0.1"), clients=ca).start()
    yield made
    made.kill()


@pytest.fixture
def tinyproxy(tmp_path: Path) -> Iterator[Tinyproxy]:
    """tinyproxy."""
    tools.need(*Tinyproxy.programs)
    made = Tinyproxy(tmp_path).start()
    yield made
    made.kill()


@pytest.fixture
def squid(ca: Identity) -> Iterator[Squid]:
    """squid, which wants a password."""
    tools.need(*Squid.programs, str(BASIC_AUTH))
    made = Squid((NAME,), ca.issue("localhost"))
    made.allow(USER, PASSWORD)
    made.start()
    yield made
    made.kill()


@pytest.fixture
def tls(tmp_path: Path, ca: Identity) -> dict[str, Any]:
    """Settings that nginx is content with."""
    (tmp_path / "ca.pem").write_bytes(ca.certificates)
    certificate, key = ca.issue("appliance.test").write(tmp_path, "client")
    files = {"ca_file": str(tmp_path / "ca.pem"), "client_cert": str(certificate), "client_key": str(key)}
    return files | {"private": False}


Starting = Callable[..., Appliance]


@pytest.fixture
def appliance(tmp_path: Path) -> Iterator[Starting]:
    """Starts an appliance in front of a URL, with settings of the upstream; once."""
    made: list[Appliance] = []

    def start(url: str, **upstream: Any) -> Appliance:
        made.append(Appliance(tmp_path / "appliance", url, upstream=upstream))
        return made[0].start()

    yield start
    for each in made:
        each.kill()


def pulled(skopeo: Skopeo, appliance: Appliance) -> bool:
    """Whether skopeo gets the whole image, every platform of it."""
    return skopeo.pull(Source(appliance, REPOSITORY, "latest")) == {IMAGE.digest}


def refused(appliance: Appliance) -> Reply:
    """The answer for a manifest that cannot be had."""
    reply = ask(appliance.authority, f"/v2/{REPOSITORY}/manifests/latest")
    assert reply.status >= 500, reply
    return reply


# -- TLS --------------------------------------------------------------------------------------------------------------


def test_a_registry_with_a_private_authority_and_client_certificates(
    appliance: Starting, front: Nginx, skopeo: Skopeo, tls: dict[str, Any]
) -> None:
    """C{ca_file}, C{client_cert} and C{client_key} are all there is to it."""
    assert pulled(skopeo, appliance(f"https://{front.authority}", **tls))
    assert "/v2/team/app/manifests/" in front.log()


def test_without_its_certificate_the_appliance_is_not_served(
    appliance: Starting, front: Nginx, tls: dict[str, Any]
) -> None:
    """nginx says so, and it reaches the client as a fault of the upstream."""
    started = appliance(f"https://{front.authority}", ca_file=tls["ca_file"])
    assert b"400" in refused(started).body


def test_a_registry_whose_authority_is_unknown_is_not_believed(
    appliance: Starting, front: Nginx, tls: dict[str, Any]
) -> None:
    """Without C{ca_file} the platform's authorities count."""
    started = appliance(f"https://{front.authority}", **{key: tls[key] for key in tls if key != "ca_file"})
    assert b"certificate is not trusted" in refused(started).body


def test_insecure_takes_the_registry_as_it_is(
    appliance: Starting, front: Nginx, skopeo: Skopeo, tls: dict[str, Any]
) -> None:
    """The client certificate is shown all the same."""
    del tls["ca_file"]
    assert pulled(skopeo, appliance(f"https://{front.authority}", insecure=True, **tls))


def test_certificates_are_renewed_without_a_restart(
    appliance: Starting, front: Nginx, skopeo: Skopeo, tls: dict[str, Any], tmp_path: Path, ca: Identity
) -> None:
    """An appliance that began with a certificate the registry does not take goes on with one that it does."""
    authority("Others").issue("appliance.test").write(tmp_path, "client")
    started = appliance(f"https://{front.authority}", **tls)
    refused(started)
    ca.issue("appliance.test").write(tmp_path, "client")
    until(lambda: _gets_through(started), "the new certificate is shown", MAX_NOTICE)
    assert pulled(skopeo, started)


def _gets_through(appliance: Appliance) -> bool:
    return ask(appliance.authority, f"/v2/{REPOSITORY}/manifests/latest").status == 200


# -- proxies ----------------------------------------------------------------------------------------------------------


def test_through_tinyproxy(
    appliance: Starting, front: Nginx, tinyproxy: Tinyproxy, skopeo: Skopeo, tls: dict[str, Any]
) -> None:
    """A tunnel to the registry, in which its certificates and ours are as ever."""
    assert pulled(skopeo, appliance(f"https://{front.authority}", proxy=f"http://{tinyproxy.authority}", **tls))
    assert f"CONNECT {front.authority} HTTP/1.1" in tinyproxy.log()


def test_http_through_tinyproxy(
    appliance: Starting, registry: DockerRegistry, tinyproxy: Tinyproxy, skopeo: Skopeo
) -> None:
    """Whole requests, for a registry in the clear."""
    assert pulled(skopeo, appliance(registry.url, proxy=f"http://{tinyproxy.authority}"))
    assert f"GET {registry.url}/v2/{REPOSITORY}/manifests/" in tinyproxy.log()


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    """The password that squid knows."""
    path = tmp_path / "proxy-password"
    path.write_text(PASSWORD + "\n")
    return path


def passed(appliance: Appliance, squid: Squid, pattern: str) -> None:
    """Once the appliance has ended: squid writes a tunnel down when it closes."""
    appliance.stop()
    until(lambda: any(fnmatchcase(line, f"*{pattern}*") for line in squid.log().splitlines()), pattern)


def test_through_squid_with_a_password(
    appliance: Starting, front: Nginx, squid: Squid, skopeo: Skopeo, tls: dict[str, Any], password_file: Path
) -> None:
    """By the registry's name, which only squid can resolve."""
    login = {"proxy_username": USER, "proxy_password_file": str(password_file)}
    started = appliance(f"https://{NAME}:{front.port}", proxy=f"http://{squid.authority}", **login, **tls)
    assert pulled(skopeo, started)
    passed(started, squid, f"TCP_TUNNEL/200 * CONNECT {NAME}:{front.port} {USER} ")


def test_http_through_squid_with_a_password(
    appliance: Starting, registry: DockerRegistry, squid: Squid, skopeo: Skopeo, password_file: Path
) -> None:
    """The same in the clear; the registry sees nothing of the password."""
    login = {"proxy_username": USER, "proxy_password_file": str(password_file)}
    port = registry.authority.partition(":")[2]
    started = appliance(f"http://{NAME}:{port}", proxy=f"http://{squid.authority}", **login)
    assert pulled(skopeo, started)
    assert f"GET http://{NAME}:{port}/v2/{REPOSITORY}/manifests/" in squid.log()


def test_the_environments_proxy_and_its_password(
    appliance: Starting,
    front: Nginx,
    squid: Squid,
    skopeo: Skopeo,
    tls: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    ca: Identity,
    tmp_path: Path,
) -> None:
    """HTTPS_PROXY, with TLS to the proxy itself, whose certificate the platform has to vouch for."""
    # OpenSSL's own way to say where the platform's authorities are.
    (tmp_path / "platform.pem").write_bytes(ca.certificates)
    proxy = f"https://{USER.replace('@', '%40')}:Danger%20pa%3Ass%25word@localhost:{squid.tls_port}"
    surroundings = {**service._environment(), "HTTPS_PROXY": proxy, "SSL_CERT_FILE": str(tmp_path / "platform.pem")}
    monkeypatch.setattr(service, "_environment", lambda: surroundings)
    started = appliance(f"https://{NAME}:{front.port}", **tls)
    assert pulled(skopeo, started)
    passed(started, squid, f"TCP_TUNNEL/200 * CONNECT {NAME}:{front.port} {USER} ")


def test_a_wrong_password_is_reported_and_may_be_corrected(
    appliance: Starting, front: Nginx, squid: Squid, skopeo: Skopeo, tls: dict[str, Any], password_file: Path
) -> None:
    """The operator learns which proxy refused, the client that one did, neither the password; the next file counts."""
    password_file.write_text("Danger-wrong")
    login = {"proxy_username": USER, "proxy_password_file": str(password_file)}
    started = appliance(f"https://{NAME}:{front.port}", proxy=f"http://{squid.authority}", **login, **tls)
    body = refused(started).body.decode()
    assert "the proxy: CONNECT" in body and "407" in body and squid.authority not in body
    status = ask(started.admin, "/api/v1/status").body.decode()
    assert f"proxy http://{squid.authority}" in status and "407" in status
    password_file.write_text(PASSWORD)
    until(lambda: _gets_through(started), "the new password is used", MAX_NOTICE)
    assert pulled(skopeo, started)
    for secret in ("Danger", USER):
        assert secret not in started.log() + body + status


def test_a_proxy_that_is_gone_is_named(appliance: Starting, front: Nginx, tls: dict[str, Any]) -> None:
    """To the operator; the client sees that there is one. And the registry is not asked without it."""
    proxy = f"http://127.0.0.1:{service.free_port()}"
    started = appliance(f"https://{front.authority}", proxy=proxy, **tls)
    body = refused(started).body.decode()
    assert "the proxy: cannot connect" in body and proxy not in body
    assert f"proxy {proxy}" in ask(started.admin, "/api/v1/status").body.decode()
    assert front.log() == ""
