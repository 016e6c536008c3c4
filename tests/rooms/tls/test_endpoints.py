"""What an endpoint string means where TLS or a balancer is in it, and what follows a configuration."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactorClock

from appliance.config import parse
from appliance.errors import ConfigError
from appliance.flow.disk import InlineThreads
from appliance.settings import Settings
from appliance.tls.authority import issue
from appliance.tls.endpoints import Endpoints, ListeningEndpoint
from appliance.tls.proxied import ProxiedFactory
from appliance.tls.transport import TlsConnection
from tests.doubles.audit import NotedAudit
from tests.doubles.certificates import Identity, authority
from tests.doubles.deferreds import result

ROOT = authority("Root")


class Reactor(MemoryReactorClock):
    def __init__(self) -> None:
        super().__init__()
        self.rightNow = time.time()

    def listen(self, endpoint: ListeningEndpoint) -> Any:
        """What listens, and its C{factory}."""
        port: Any = result(endpoint.listen(Factory()))
        port.factory = (self.tcpServers or [(0, None)])[-1][1]
        return port


def written(folder: Path) -> str:
    certificate, key = ROOT.issue("cache.site").write(folder, "site")
    return f"privateKey={key}:certKey={certificate}"


def test_what_a_description_stands_for_is_put_together(tmp_path: Path) -> None:
    """The connections of the port speak TLS; what a balancer says first is what the factory's take."""
    files, reactor = written(tmp_path), Reactor()
    for description, is_proxied, is_tls in [
        (f"ssl:5000:{files}", False, True),
        (f"ssl:port=5000:{files}:interface=127.0.0.1", False, True),
        (f"tls:{tmp_path}:5000", False, True),
        (f"tls:{tmp_path}:port=5000:interface=\\:\\:1", False, True),
        (f"haproxy:tls:{tmp_path}:5000", True, True),
        (f"haproxy:ssl:5000:{files}", True, True),
        ("haproxy:tcp:5000", True, False),
        ("tcp:5000", False, False),
    ]:
        port = reactor.listen(ListeningEndpoint(reactor, description))
        assert (getattr(getattr(port, "transport", None), "func", None) is TlsConnection) == is_tls, description
        assert isinstance(port.factory, ProxiedFactory) == is_proxied, description


@pytest.mark.parametrize(
    ("description", "why"),
    [
        ("ssl:5000:privateKey=/nothing.key", r"certKey: /nothing.key cannot be read: No such file"),
        ("ssl:5000:FILES:sslmethod=TLSv1_METHOD", "sslmethod is not taken: TLS 1.2 and newer is spoken"),
        ("ssl:5000:FILES:prot=1", "prot is not taken"),
        ("ssl:70000:FILES", "port and backlog are numbers"),
        ("tls:/nothing:5000", "/nothing is no folder"),
        ("tls:port=5000", "names no folder"),
        ("nonsense:5000", "Unknown endpoint type"),
        ("haproxy:nonsense:5000", "Unknown endpoint type"),
    ],
)
def test_what_cannot_be_opened_is_refused_with_the_reason(tmp_path: Path, description: str, why: str) -> None:
    description = description.replace("FILES", written(tmp_path))
    with pytest.raises(ConfigError, match=why) as caught:
        ListeningEndpoint(Reactor(), description)
    assert str(caught.value).count(description) == 1


def settings(folder: Path, more: str = "", listen: str = "") -> Settings:
    written(folder)
    text = f"listen: [{{endpoint: 'tls:{folder}:5000'{listen}}}]\n{more}"
    return parse(text, str(folder / "pullcache.yaml"))


def test_an_error_names_its_place_in_the_file(tmp_path: Path) -> None:
    made = settings(tmp_path)
    for each in tmp_path.glob("site.*"):
        each.unlink()
    with pytest.raises(ConfigError, match=r"^here.yaml: listen\[0\]\.endpoint: tls:.* holds no certificate"):
        Endpoints(Reactor(), made, "here.yaml")


def test_authorities_and_proxies_follow_the_configuration(tmp_path: Path) -> None:
    endpoints = Endpoints(Reactor(), settings(tmp_path), "here.yaml")
    (endpoint,) = endpoints.listeners
    assert endpoint.tls is not None and endpoint.tls.trust is None
    folder = tmp_path / "clients"
    folder.mkdir()
    (folder / "ca.pem").write_bytes(authority("Clients").certificates)
    other = settings(tmp_path, "trusted_proxies: [10.0.0.0/8]", f", client_ca_file: {folder}/ca.pem, login: required")
    follow = endpoints.prepared(other)
    assert endpoint.tls.trust is None and endpoint.proxies == ()
    follow()
    assert endpoint.tls.trust is not None and endpoint.tls.demands.required
    assert endpoint._is_proxy("10.2.3.4") and not endpoint._is_proxy("192.0.2.1")


def test_a_configuration_that_cannot_be_followed_changes_nothing(tmp_path: Path) -> None:
    endpoints = Endpoints(Reactor(), settings(tmp_path), "here.yaml")
    folder = tmp_path / "clients"
    folder.mkdir()
    (folder / "ca.pem").write_bytes(b"")
    other = settings(tmp_path, "trusted_proxies: [10.0.0.0/8]", f", client_ca_file: {folder}/ca.pem")
    with pytest.raises(ConfigError, match=r"here.yaml: listen\[0\]: client_ca_file: .*ca.pem holds no certificate"):
        endpoints.prepared(other)
    assert endpoints.listeners[0].proxies == ()


def test_a_password_may_stand_in_for_a_certificate(tmp_path: Path) -> None:
    """With checkers, a client without a certificate is let in as far as the login."""
    (tmp_path / "ca.crt").write_bytes(authority("Clients").certificates)
    made = settings(
        tmp_path, "checkers: ['htpasswd:/x']", f", client_ca_file: {tmp_path}/ca.crt, login: required"
    )
    (endpoint,) = Endpoints(Reactor(), made, "here.yaml").listeners
    assert endpoint.tls is not None and endpoint.tls.trust is not None and not endpoint.tls.demands.required


def test_a_certificate_of_our_own_making_is_renewed_in_time(tmp_path: Path) -> None:
    """And is in force then, and in the audit log; before that it is warned of."""
    reactor, audit = Reactor(), NotedAudit()
    issue(tmp_path, ["cache.site"], reactor.seconds(), days=30)
    made = parse(f"listen: [{{endpoint: 'tls:{tmp_path}:5000'}}]\n", str(tmp_path / "pullcache.yaml"))
    endpoints = Endpoints(reactor, made, "here.yaml", audit)
    (before,) = endpoints.certificates()
    result(endpoints.renew(InlineThreads()))
    assert endpoints.certificates() == [before] and endpoints.warnings() == []
    reactor.rightNow += 25 * 86400
    assert "ends on" in endpoints.warnings()[0] and "in 5 days; renew it" in endpoints.warnings()[0]
    result(endpoints.renew(InlineThreads()))
    result(endpoints.look(InlineThreads()))
    (after,) = endpoints.certificates()
    assert after.until > before.until and endpoints.warnings() == []
    (noted,) = audit.noted
    assert (noted["what"], noted["outcome"]) == (f"{tmp_path}/server.pem: cache.site", "done")


def test_a_certificate_that_cannot_be_renewed_stays_and_is_told_of(tmp_path: Path) -> None:
    reactor, audit = Reactor(), NotedAudit()
    issue(tmp_path, ["cache.site"], reactor.seconds(), days=30)
    made = parse(f"listen: [{{endpoint: 'tls:{tmp_path}:5000'}}]\n", str(tmp_path / "pullcache.yaml"))
    endpoints = Endpoints(reactor, made, "here.yaml", audit)
    reactor.rightNow += 31 * 86400
    (tmp_path / "ca.key").write_bytes(b"")
    result(endpoints.renew(InlineThreads()))
    (noted,) = audit.noted
    assert (noted["action"], noted["what"], noted["outcome"]) == ("certificate", str(tmp_path), "failed")
    assert "ca.key holds no private key" in noted["why"]
    assert "ended on" in endpoints.warnings()[0]


def test_warnings_name_what_clients_will_refuse(tmp_path: Path) -> None:
    """Go's clients take no common name for a host; a secret is for its owner."""
    from cryptography.hazmat.primitives import hashes

    key = ROOT.issue("x").key
    mode = ROOT.certificate
    builder = x509.CertificateBuilder(
        mode.subject, mode.subject, key.public_key(), 7, mode.not_valid_before_utc, mode.not_valid_after_utc
    )
    Identity(builder.sign(key, hashes.SHA256()), key).write(tmp_path, "plain")
    (tmp_path / "plain.key").chmod(0o644)
    made = parse(f"listen: [{{endpoint: 'tls:{tmp_path}:5000'}}]\n", str(tmp_path / "pullcache.yaml"))
    found = "\n".join(Endpoints(Reactor(), made, "here.yaml").warnings())
    assert "plain.key holds a secret and can be read by everybody" in found
    assert "has no subjectAltName" in found and "ends on" in found


def test_hosts_that_no_certificate_is_for_are_warned_of(tmp_path: Path) -> None:
    hosts = ", hosts: [cache.site, 'cache.site:5000', 'other.site:5000', '[::1]:5000', '*.site']"
    made = settings(tmp_path, listen=hosts)
    (warning,) = (each for each in Endpoints(Reactor(), made, "here.yaml").warnings() if "].hosts: " in each)
    assert warning.startswith("here.yaml: listen[0].hosts: no certificate of tls:")
    assert "is for other.site, ::1, *.site; clients" in warning


def test_a_thousand_refusals_a_second_are_a_line_a_second(tmp_path: Path) -> None:
    reactor, audit = Reactor(), NotedAudit()
    endpoints = Endpoints(reactor, settings(tmp_path), "here.yaml", audit)
    said: list[str] = []
    endpoints._log = type("Log", (), {"warn": lambda self, text, **what: said.append(text.format(**what))})()  # type: ignore
    for _ in range(3000):
        assert endpoints.tls[0].refused is not None
        endpoints.tls[0].refused("certificate", "192.0.2.7", "7b: it is revoked")
        reactor.advance(0.001)
    assert len(said) == 3
    assert said[0] == "192.0.2.7 was turned away: certificate: 7b: it is revoked"
    assert "999 more since the last line" in said[1] or "1000 more" in said[1]
    assert (audit.noted[0]["action"], audit.noted[0]["outcome"]) == ("certificate", "refused")


def test_one_look_reads_what_changed_of_all(tmp_path: Path) -> None:
    endpoints = Endpoints(Reactor(), settings(tmp_path), "here.yaml")
    (server,) = endpoints.tls
    before = server.certificates
    written(tmp_path)
    result(endpoints.look(InlineThreads()))
    assert server.certificates != before
