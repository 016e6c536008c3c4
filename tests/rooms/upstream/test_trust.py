"""Certificates: whose are believed, which is shown to whom, and files that change."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from OpenSSL import SSL, crypto
from service_identity import VerificationError
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import ILogObserver, globalLogPublisher
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer
from zope.interface.verify import verifyObject

from appliance.errors import ConfigError
from appliance.settings import UpstreamSettings
from appliance.upstream.http.trust import Trust
from tests.doubles.certificates import Identity, authority

CA = authority()
OTHER = authority("Others")
HOST = "registry.example"
SERVER = CA.issue(HOST, "10.0.0.1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "ca.pem").write_bytes(CA.certificates)
    return tmp_path


def settings(**values: Any) -> UpstreamSettings:
    return UpstreamSettings(name="up.example", **{"urls": (f"https://{HOST}",), **values})


class Talk(Protocol):
    """Our side above TLS."""

    received = b""
    reason: BaseException | None = None

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008
        self.reason = reason.value


@dataclass
class Met:
    """
    How a handshake ended.

    @ivar trusted: whether our side took the server's certificate.
    @ivar reason: why not.
    @ivar shown: the certificates our side showed, its own first.
    @ivar name: the server name our side sent.
    """

    trusted: bool
    reason: BaseException | None
    shown: list[x509.Certificate]
    name: bytes | None


def meet(trust: Trust, server: Identity = SERVER, host: str = HOST, wants: Identity | None = None) -> Met:
    """Shake hands with a server in memory, which asks for a certificate of the authority C{wants}."""
    talk = Talk()
    factory = Factory.forProtocol(lambda: talk)
    creator = trust.creatorForNetloc(host.encode(), 443)
    ours: Any = TLSMemoryBIOFactory(creator, True, factory, Clock()).buildProtocol(None)
    transport: Any = StringTransport()
    transport.abortConnection = transport.loseConnection
    ours.makeConnection(transport)
    theirs = SSL.Connection(_context(server, wants), None)
    theirs.set_accept_state()
    for _ in range(8):
        _pump(ours, transport, theirs)
    ours.connectionLost(Failure(ConnectionDone()))
    # On this side of OpenSSL the chain is given without its first certificate.
    own, chain = theirs.get_peer_certificate(), theirs.get_peer_cert_chain() or []
    shown = [each.to_cryptography() for each in ([own, *chain] if own else [])]
    return Met(talk.received == b"welcome", talk.reason, shown, theirs.get_servername())


def _context(server: Identity, wants: Identity | None) -> SSL.Context:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.use_certificate(server.certificate)
    context.use_privatekey(server.key)
    for each in server.chain:
        context.add_extra_chain_cert(each)
    if wants is not None:
        store = context.get_cert_store()
        assert store is not None
        store.add_cert(crypto.X509.from_cryptography(wants.certificate))
        context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
    return context


def _pump(ours: Any, transport: Any, theirs: SSL.Connection) -> None:
    said = transport.value()
    transport.clear()
    if said:
        theirs.bio_write(said)
    try:
        theirs.do_handshake()
        if theirs.get_app_data() is None:
            theirs.set_app_data("welcomed")
            theirs.send(b"welcome")
    except SSL.Error:
        pass
    try:
        answer = theirs.bio_read(1 << 16)
    except SSL.WantReadError:
        return
    ours.dataReceived(answer)


# -- whose certificates are believed ----------------------------------------------------------------------------------


def test_an_authority_of_the_sites_own_is_believed(folder: Path) -> None:
    """C{ca_file}, for the name and for the address that stand in the certificate."""
    trust = Trust(settings(ca_file=folder / "ca.pem"))
    assert verifyObject(IPolicyForHTTPS, trust)
    assert meet(trust).trusted
    assert meet(trust, host="10.0.0.1").trusted


def test_an_unknown_authority_is_not_believed(folder: Path) -> None:
    """Neither one that C{ca_file} does not hold, nor, without C{ca_file}, one that the platform does not know."""
    named = meet(Trust(settings(ca_file=folder / "ca.pem")), OTHER.issue(HOST))
    assert not named.trusted and isinstance(named.reason, SSL.Error)
    assert not meet(Trust(settings())).trusted


def test_a_certificate_for_another_name_is_not_believed(folder: Path) -> None:
    """Though its authority is trusted."""
    met = meet(Trust(settings(ca_file=folder / "ca.pem")), CA.issue("other.example"))
    assert not met.trusted and isinstance(met.reason, VerificationError)


def test_a_file_may_hold_several_authorities(folder: Path) -> None:
    """With text between them, as bundles have it."""
    both = b"# ours\n" + CA.certificates + b"\n# theirs\n" + OTHER.certificates
    (folder / "ca.pem").write_bytes(both)
    trust = Trust(settings(ca_file=folder / "ca.pem"))
    assert meet(trust).trusted and meet(trust, OTHER.issue(HOST)).trusted


@pytest.mark.parametrize("server", [OTHER.issue("other.example"), CA.issue(HOST), OTHER], ids=["other", "ours", "self"])
def test_insecure_takes_any_certificate(server: Identity) -> None:
    """Of any authority for any name; the name is still sent to the server."""
    met = meet(Trust(settings(insecure=True)), server)
    assert met.trusted and met.name == HOST.encode()


def test_an_address_is_not_sent_as_a_name() -> None:
    """RFC 6066 section 3 knows no addresses there."""
    trust = Trust(settings(insecure=True))
    assert meet(trust, host="10.0.0.1").name is None
    assert meet(trust, host="localhost").name == b"localhost"


# -- which certificate is shown ---------------------------------------------------------------------------------------

BETWEEN = CA.issue("Between", authority=True)
CLIENT = BETWEEN.issue("appliance.example")


def shown(met: Met) -> list[str]:
    return [each.subject.rfc4514_string() for each in met.shown]


@pytest.mark.parametrize("insecure", [False, True])
def test_the_client_certificate_is_shown_with_its_chain(folder: Path, insecure: bool) -> None:
    """So that a server that knows only the root can follow it."""
    certificate, key = CLIENT.write(folder, "client")
    ca_file = None if insecure else folder / "ca.pem"
    trust = Trust(settings(ca_file=ca_file, client_cert=certificate, client_key=key, insecure=insecure))
    met = meet(trust, wants=CA)
    # OpenSSL adds the root where it knows it.
    assert met.trusted and shown(met)[:2] == ["CN=appliance.example", "CN=Between"]


def test_the_key_may_stand_beside_the_certificate(folder: Path) -> None:
    """One file with both, the key first or last."""
    for text in (CLIENT.certificates + CLIENT.private(), CLIENT.private() + CLIENT.certificates):
        (folder / "both.pem").write_bytes(text)
        trust = Trust(settings(ca_file=folder / "ca.pem", client_cert=folder / "both.pem"))
        assert shown(meet(trust, wants=CA))[:1] == ["CN=appliance.example"]


@pytest.mark.parametrize(
    ("host", "is_shown"),
    [(HOST, True), ("auth.example", True), ("a.store.example", True), ("cdn.example", False), ("10.0.0.1", False)],
)
def test_the_client_certificate_is_shown_to_no_other(folder: Path, host: str, is_shown: bool) -> None:
    """Not to a host an upstream leads to; the upstream itself and the hosts that the settings name see it."""
    certificate, key = CLIENT.write(folder, "client")
    chosen = settings(
        insecure=True,
        client_cert=certificate,
        client_key=key,
        auth_hosts=("auth.example:443",),
        redirect_hosts=("*.store.example",),
    )
    assert bool(meet(Trust(chosen), host=host, wants=CA).shown) is is_shown


# -- files that cannot be used ----------------------------------------------------------------------------------------


def broken(folder: Path) -> Iterator[tuple[dict[str, Path], str, str]]:
    """Settings, the key at fault, and what is said of it."""
    certificate, key = CLIENT.write(folder, "client")
    files = {
        "empty": b"",
        "text": b"-----BEGIN CERTIFICATE-----\nbm90aGluZw==\n-----END CERTIFICATE-----\n",
        "locked": CLIENT.private(b"hunter2"),
        "other": OTHER.private(),
        "rubbish": b"-----BEGIN PRIVATE KEY-----\nbm90aGluZw==\n-----END PRIVATE KEY-----\n",
    }
    paths = {name: folder / name for name in files}
    for name, data in files.items():
        paths[name].write_bytes(data)
    gone = folder / "gone"
    yield {"ca_file": gone}, "ca_file", "cannot be read"
    yield {"ca_file": folder}, "ca_file", "cannot be read"
    yield {"ca_file": paths["empty"]}, "ca_file", "no certificate in PEM form"
    yield {"ca_file": key}, "ca_file", "no certificate in PEM form"
    yield {"ca_file": paths["text"]}, "ca_file", "a certificate that cannot be read"
    yield {"client_cert": gone, "client_key": key}, "client_cert", "cannot be read"
    yield {"client_cert": key, "client_key": key}, "client_cert", "no certificate in PEM form"
    yield {"client_cert": certificate}, "client_cert", "no private key in PEM form"
    yield {"client_cert": certificate, "client_key": certificate}, "client_key", "no private key in PEM form"
    yield {"client_cert": certificate, "client_key": gone}, "client_key", "cannot be read"
    yield {"client_cert": certificate, "client_key": paths["locked"]}, "client_key", "is encrypted"
    yield {"client_cert": certificate, "client_key": paths["other"]}, "client_key", "not that of the first certificate"
    yield {"client_cert": certificate, "client_key": paths["rubbish"]}, "client_key", "cannot be read"


def test_a_file_that_cannot_be_used_is_refused_at_the_start(folder: Path) -> None:
    """Naming the key of the configuration, the file, and what is wrong with it; nothing of a key or a passphrase."""
    for values, key, words in broken(folder):
        with pytest.raises(ConfigError, match=rf"^upstreams\.up\.example\.{key}: ") as caught:
            Trust(settings(**values))
        assert words in str(caught.value) and str(values[key]) in str(caught.value)
        assert "hunter2" not in str(caught.value) and "bm90" not in str(caught.value)


def test_an_insecure_upstream_needs_no_authorities(folder: Path) -> None:
    """C{ca_file} is not looked into then."""
    assert meet(Trust(settings(insecure=True, ca_file=folder / "gone"))).trusted


# -- files that change ------------------------------------------------------------------------------------------------


@pytest.fixture
def complaints() -> Iterator[list[str]]:
    found: list[str] = []

    @implementer(ILogObserver)
    def observe(event: Any) -> None:
        if event.get("log_namespace", "").endswith("trust.Trust"):
            found.append(event["log_format"].format(**event))

    globalLogPublisher.addObserver(observe)
    yield found
    globalLogPublisher.removeObserver(observe)


def replace(path: Path, data: bytes) -> None:
    (path.parent / "new").write_bytes(data)
    os.replace(path.parent / "new", path)


def test_a_new_file_counts_for_the_next_connection(folder: Path) -> None:
    """Authorities and our own certificate are renewed without a restart."""
    certificate, key = CLIENT.write(folder, "client")
    trust = Trust(settings(ca_file=folder / "ca.pem", client_cert=certificate, client_key=key))
    assert shown(meet(trust, wants=CA))[0] == "CN=appliance.example"
    replace(folder / "ca.pem", OTHER.certificates)
    CA.issue("renewed.example").write(folder, "client")
    assert not meet(trust).trusted
    met = meet(trust, OTHER.issue(HOST), wants=CA)
    assert met.trusted and shown(met)[0] == "CN=renewed.example"


def test_a_broken_new_file_changes_nothing_and_is_reported_once(folder: Path, complaints: list[str]) -> None:
    """What was read before stays in force until the file can be read again."""
    trust = Trust(settings(ca_file=folder / "ca.pem"))
    for spoil in (lambda: replace(folder / "ca.pem", b"half of it"), (folder / "ca.pem").unlink):
        complaints.clear()
        spoil()
        assert meet(trust).trusted and meet(trust).trusted
        assert len(complaints) == 1
        assert "upstreams.up.example.ca_file" in complaints[0] and "stays in force" in complaints[0]
    replace(folder / "ca.pem", OTHER.certificates)
    assert meet(trust, OTHER.issue(HOST)).trusted and not meet(trust).trusted


def test_a_certificate_and_its_key_may_be_replaced_one_after_the_other(folder: Path, complaints: list[str]) -> None:
    """Between the two the old pair is shown."""
    certificate, key = CLIENT.write(folder, "client")
    trust = Trust(settings(ca_file=folder / "ca.pem", client_cert=certificate, client_key=key))
    renewed = CA.issue("renewed.example")
    replace(certificate, renewed.certificates)
    assert shown(meet(trust, wants=CA))[0] == "CN=appliance.example"
    replace(key, renewed.private())
    assert shown(meet(trust, wants=CA))[0] == "CN=renewed.example"
    assert len(complaints) == 1
