"""Which certificate a client is shown, by its name and by what stands in the files now."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL

from appliance.errors import ConfigError
from appliance.tls.certificates import CertificateFolder, NamedFiles
from appliance.tls.transport import CLOSED_WITHIN
from tests.doubles.certificates import authority
from tests.rooms.tls.visits import Echo, Line, Site, Visitor, replace

ROOT = authority("Root")


def test_a_client_is_answered_over_tls(tmp_path: Path) -> None:
    site = Site.of(tmp_path, ROOT.issue("cache.site"))
    visitor = Visitor(site, "cache.site", trusts=ROOT)
    assert visitor.error is None
    assert visitor.say(b"hello") == b"hello"


def test_the_certificates_between_are_sent_along(tmp_path: Path) -> None:
    between = ROOT.issue("Between", authority=True)
    assert Visitor(Site.of(tmp_path, between.issue("cache.site")), trusts=ROOT).error is None


def test_those_in_a_file_of_their_own_too(tmp_path: Path) -> None:
    own = ROOT.issue("Between", authority=True).issue("cache.site")
    certificate, key = own.write(tmp_path, "site")
    first, _, rest = own.certificates.partition(b"-----END CERTIFICATE-----\n")
    certificate.write_bytes(first + b"-----END CERTIFICATE-----\n")
    (tmp_path / "between.pem").write_bytes(rest)
    assert Visitor(Site(NamedFiles(certificate, key, tmp_path / "between.pem")), trusts=ROOT).error is None


def test_key_and_certificate_may_share_a_file(tmp_path: Path) -> None:
    own = ROOT.issue("cache.site")
    both = tmp_path / "both.pem"
    both.write_bytes(own.private() + own.certificates)
    assert Visitor(Site(NamedFiles(both, both)), trusts=ROOT).error is None


def test_a_new_certificate_is_shown_once_both_files_are_there(tmp_path: Path) -> None:
    """A file at a time: between the two the old one is shown, with a fault that says why."""
    site = Site.of(tmp_path, ROOT.issue("cache.site"))
    old = Visitor(site)
    renewed = ROOT.issue("cache.site")

    replace(tmp_path / "site.pem", renewed.certificates)
    assert not site.look()
    assert Visitor(site).shown == old.shown
    assert "the key in" in site.server.faults[0] and "is not that of" in site.server.faults[0]

    replace(tmp_path / "site.key", renewed.private())
    assert site.look()
    assert site.server.faults == []
    assert Visitor(site).shown == renewed.certificate


def test_a_connection_goes_on_while_its_certificate_is_replaced(tmp_path: Path) -> None:
    site = Site.of(tmp_path, ROOT.issue("cache.site"))
    visitor = Visitor(site)
    ROOT.issue("cache.site").write(tmp_path, "site")
    assert site.look()
    assert visitor.say(b"still here") == b"still here"


@pytest.mark.parametrize("content", [b"", b"-----BEGIN CERTIFICATE-----\nMII", b"nonsense"])
def test_half_a_file_changes_nothing(tmp_path: Path, content: bytes) -> None:
    site = Site.of(tmp_path, ROOT.issue("cache.site"))
    before = Visitor(site).shown
    replace(tmp_path / "site.pem", content)
    assert not site.look()
    assert Visitor(site).shown == before
    (tmp_path / "site.key").unlink()
    assert not site.look()
    assert Visitor(site).shown == before


def test_half_a_chain_changes_nothing(tmp_path: Path) -> None:
    """A file that is being written in place: the certificate itself is whole already, and so is its key."""
    middle = ROOT.issue("Middle", authority=True)
    whole = middle.issue("cache.site")
    site = Site.of(tmp_path, whole)
    (tmp_path / "site.pem").write_bytes(whole.certificates[:-30])
    assert not site.look()
    assert "cannot be read" in site.server.faults[0]
    assert len(Visitor(site).tls.get_peer_cert_chain() or ()) == 2


def test_a_file_that_may_be_read_now_is_tried_again(tmp_path: Path) -> None:
    """Neither its content nor its date has changed."""
    ROOT.issue("a.site").write(tmp_path, "a")
    before = CertificateFolder(tmp_path).stamps()
    (tmp_path / "a.key").chmod(0o600)
    assert CertificateFolder(tmp_path).stamps() != before


def test_a_key_that_openssl_holds_for_too_short_changes_nothing(tmp_path: Path) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    site = Site.of(tmp_path, ROOT.issue("cache.site"))
    before = Visitor(site).shown
    key = rsa.generate_private_key(65537, 1024)
    name, made = ROOT.certificate.subject, ROOT.certificate
    times = made.not_valid_before_utc, made.not_valid_after_utc
    builder = x509.CertificateBuilder(name, name, key.public_key(), 7, *times)
    replace(tmp_path / "site.pem", builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM))
    replace(tmp_path / "site.key", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    assert not site.look()
    assert "OpenSSL does not take" in site.server.faults[0] and "small" in site.server.faults[0]
    assert Visitor(site).shown == before


def test_a_start_is_refused_with_a_key_that_does_not_fit(tmp_path: Path) -> None:
    certificate, _ = ROOT.issue("cache.site").write(tmp_path, "site")
    _, key = ROOT.issue("cache.site").write(tmp_path, "other")
    with pytest.raises(ConfigError, match=r"other\.key is not that of the first certificate in .*site\.pem"):
        Site(NamedFiles(certificate, key))


# -- folders --------------------------------------------------------------------------------------------------------


def test_each_name_has_its_certificate(tmp_path: Path) -> None:
    for name in ("a.site", "b.site"):
        ROOT.issue(name).write(tmp_path, name)
    site = Site.in_folder(tmp_path)
    for name in ("a.site", "b.site", "B.SITE"):
        assert name.lower() in str(Visitor(site, name).shown.subject)


def test_a_wildcard_is_for_one_label(tmp_path: Path) -> None:
    ROOT.issue("aaa.example").write(tmp_path, "0first")
    ROOT.issue("*.site").write(tmp_path, "star")
    site = Site.in_folder(tmp_path)
    assert "*.site" in str(Visitor(site, "cache.site").shown.subject)
    assert "aaa.example" in str(Visitor(site, "deep.cache.site").shown.subject)


def test_who_names_no_host_gets_the_certificate_of_the_address_it_connected_to(tmp_path: Path) -> None:
    """As nodes do that know the cache by its address: no client sends an address as a name."""
    ROOT.issue("a.site").write(tmp_path, "a")
    ROOT.issue("b.site", "192.0.2.9").write(tmp_path, "b")
    site = Site.in_folder(tmp_path)
    assert "b.site" in str(Visitor(site, connected_to="192.0.2.9").shown.subject)
    assert "a.site" in str(Visitor(site, connected_to="192.0.2.1").shown.subject)


def test_certbots_and_kubernetes_folders_are_read_as_they_are(tmp_path: Path) -> None:
    between = ROOT.issue("Between", authority=True)
    live = tmp_path / "cache.site"
    live.mkdir()
    own = between.issue("cache.site")
    pems = own.certificates.split(b"-----END CERTIFICATE-----\n")
    for name, content in {
        "cert.pem": pems[0] + b"-----END CERTIFICATE-----\n",
        "chain.pem": pems[1] + b"-----END CERTIFICATE-----\n",
        "fullchain.pem": own.certificates,
        "privkey.pem": own.private(),
    }.items():
        (live / name).write_bytes(content)
    mounted = tmp_path / "secret"
    (mounted / "..2026").mkdir(parents=True)
    (mounted / "..data").symlink_to("..2026")
    other = ROOT.issue("other.site")
    (mounted / "..2026" / "tls.crt").write_bytes(other.certificates)
    (mounted / "..2026" / "tls.key").write_bytes(other.private())
    for name in ("tls.crt", "tls.key"):
        (mounted / name).symlink_to(f"..data/{name}")
    site = Site.in_folder(tmp_path)
    assert site.server.faults == []
    assert len(site.server.certificates) == 2
    assert Visitor(site, "cache.site", trusts=ROOT).error is None
    assert Visitor(site, "other.site", trusts=ROOT).error is None


def test_a_certificate_that_vouches_for_itself_is_shown(tmp_path: Path) -> None:
    """C{openssl req -x509} says of each certificate that it may sign others."""
    from tests.doubles.certificates import _made

    alone = _made(("cache.site",), False, None, ())
    alone.write(tmp_path, "alone")
    assert Visitor(Site.in_folder(tmp_path), trusts=alone).error is None


def test_new_files_in_the_folder_are_found(tmp_path: Path) -> None:
    ROOT.issue("a.site").write(tmp_path, "a")
    site = Site.in_folder(tmp_path)
    ROOT.issue("b.site").write(tmp_path, "b")
    assert "a.site" in str(Visitor(site, "b.site").shown.subject)
    assert site.look()
    assert "b.site" in str(Visitor(site, "b.site").shown.subject)


def test_a_bad_file_in_the_folder_harms_no_other(tmp_path: Path) -> None:
    """What it held stays in force, what is new beside it is taken."""
    old = ROOT.issue("a.site")
    old.write(tmp_path, "a")
    site = Site.in_folder(tmp_path)
    replace(tmp_path / "a.pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    ROOT.issue("b.site").write(tmp_path, "b")
    assert site.look()
    assert Visitor(site, "a.site").shown == old.certificate
    assert "b.site" in str(Visitor(site, "b.site").shown.subject)
    assert "a.pem holds a certificate that cannot be read" in site.server.faults[0]


def test_a_certificate_whose_key_is_not_there_yet_changes_nothing(tmp_path: Path) -> None:
    old = ROOT.issue("a.site")
    old.write(tmp_path, "a")
    site = Site.in_folder(tmp_path)
    renewed = ROOT.issue("a.site")
    replace(tmp_path / "a.pem", renewed.certificates)
    assert not site.look()
    assert Visitor(site, "a.site").shown == old.certificate
    assert "no key in" in site.server.faults[0]
    replace(tmp_path / "a.key", renewed.private())
    assert site.look()
    assert Visitor(site, "a.site").shown == renewed.certificate


def test_what_is_removed_is_not_shown_any_more_but_for_the_last(tmp_path: Path) -> None:
    for name in ("a.site", "b.site"):
        ROOT.issue(name).write(tmp_path, name)
    site = Site.in_folder(tmp_path)
    for each in tmp_path.glob("b.site.*"):
        each.unlink()
    assert site.look()
    assert "a.site" in str(Visitor(site, "b.site").shown.subject)
    for each in list(tmp_path.iterdir()):
        each.unlink()
    assert not site.look()
    assert "a.site" in str(Visitor(site).shown.subject)
    tmp_path.rmdir()
    assert not site.look()
    assert "is no folder" in site.server.faults[0]


def test_a_folder_that_is_back_as_it_was_is_no_fault_any_more(tmp_path: Path) -> None:
    """As after a mount that was gone for a while."""
    folder = tmp_path / "tls"
    folder.mkdir()
    ROOT.issue("a.site").write(folder, "a")
    site = Site.in_folder(folder)
    folder.rename(tmp_path / "away")
    site.look()
    assert "is no folder" in site.server.faults[0]
    (tmp_path / "away").rename(folder)
    site.look()
    assert site.server.faults == []


def test_of_two_for_one_name_the_one_that_holds_longest_is_shown(tmp_path: Path) -> None:
    long = ROOT.issue("a.site", days=9)
    for number, each in enumerate((ROOT.issue("a.site", days=-1), long, ROOT.issue("a.site"))):
        each.write(tmp_path, f"{number}")
    assert Visitor(Site.in_folder(tmp_path), "a.site").shown == long.certificate


def test_an_empty_folder_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{tmp_path} holds no certificate"):
        Site.in_folder(tmp_path)
    ROOT.issue("a.site").write(tmp_path, "a")[1].unlink()
    with pytest.raises(ConfigError, match=r"no key in .* is that of the certificate in .*a\.pem"):
        Site.in_folder(tmp_path)


def test_the_same_fault_is_said_once(tmp_path: Path) -> None:
    site = Site.of(tmp_path, ROOT.issue("a.site"))
    replace(tmp_path / "site.key", b"")
    said: list[str] = []
    site.server._log = type("Log", (), {"warn": lambda self, text, **what: said.append(text.format(**what))})()  # type: ignore
    for _ in range(3):
        site.look()
        replace(tmp_path / "site.key", b" ")
    assert len(said) == 1 and "what was read before stays in force" in said[0]


def test_no_repr_shows_a_key(tmp_path: Path) -> None:
    own = ROOT.issue("a.site")
    own.write(tmp_path, "a")
    shown = Site.in_folder(tmp_path).server.certificates[0]
    assert isinstance(shown.key, ec.EllipticCurvePrivateKey)
    assert "key=" not in repr(shown)


def test_the_stamps_of_a_folder_are_those_of_its_files(tmp_path: Path) -> None:
    ROOT.issue("a.site").write(tmp_path, "a")
    (tmp_path / "README").write_text("not looked at")
    assert sorted(path.name for path in CertificateFolder(tmp_path).stamps()) == ["a.key", "a.pem"]


# -- what is spoken -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "is_spoken"),
    [(SSL.TLS1_VERSION, False), (SSL.TLS1_1_VERSION, False), (SSL.TLS1_2_VERSION, True), (SSL.TLS1_3_VERSION, True)],
)
def test_tls_1_2_and_newer_is_spoken(tmp_path: Path, version: int, is_spoken: bool) -> None:
    site = Site.of(tmp_path, ROOT.issue("a.site"))
    assert (Visitor(site, versions=(version, version)).error is None) == is_spoken
    # Their owner is told why his old clients are not let in.
    assert site.refused == ([] if is_spoken else [("handshake", "192.0.2.7", "unsupported protocol")])


def test_who_speaks_http_without_tls_is_told_so(tmp_path: Path) -> None:
    """Instead of a connection that ends without a word; and reads it to the end, whatever it sends meanwhile."""
    line = Line(Site.of(tmp_path, ROOT.issue("a.site")))
    answered = line.carry(b"GET /v2/ HTTP/1.1\r\n")
    answered += line.carry(b"Host: a.site\r\n\r\n")
    assert answered.startswith(b"HTTP/1.0 400 ")
    assert b"Client sent an HTTP request to an HTTPS server" in answered
    assert line.is_over and Echo.last is not None and not Echo.last.lost
    line.network.close()
    line.carry()
    assert Echo.last.lost


def test_a_client_that_is_gone_is_not_waited_for(tmp_path: Path) -> None:
    """It never answers that it closes, too; its connection would be counted among those that are open for ever."""
    site = Site.of(tmp_path, ROOT.issue("a.site"))
    visitor, other = Visitor(site), Visitor(site)
    for each in (visitor, other):
        each.connection.loseConnection()
        assert each.say(b"") == b"" and isinstance(each.error, SSL.ZeroReturnError), "the end is said"
    assert visitor.connection.connected and other.connection.connected
    other.line.network.close()
    other.line.carry()
    assert not other.connection.connected
    assert len(site.clock.getDelayedCalls()) == 1
    site.clock.advance(CLOSED_WITHIN)
    assert not visitor.connection.connected
    assert not site.clock.getDelayedCalls()


@pytest.mark.parametrize(("offered", "spoken"), [((b"h2", b"http/1.1"), b"http/1.1"), ((b"h2",), b""), ((), b"")])
def test_http_1_1_is_what_is_agreed_on(tmp_path: Path, offered: tuple[bytes, ...], spoken: bytes) -> None:
    visitor = Visitor(Site.of(tmp_path, ROOT.issue("a.site")), speaks=offered)
    assert visitor.error is None
    assert visitor.tls.get_alpn_proto_negotiated() == spoken


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
def test_a_session_is_resumed_by_its_ticket_also_after_a_renewal(tmp_path: Path, version: int) -> None:
    site = Site.of(tmp_path, ROOT.issue("a.site"))
    first = Visitor(site, "a.site", versions=(version, version))
    assert not first.is_resumed
    again = Visitor(site, "a.site", returning=first)
    assert again.is_resumed
    ROOT.issue("a.site").write(tmp_path, "site")
    assert site.look()
    assert Visitor(site, "a.site", returning=again).is_resumed


def test_tickets_are_sealed_with_a_new_key_each_day(tmp_path: Path) -> None:
    site = Site.of(tmp_path, ROOT.issue("a.site"))
    first = Visitor(site, "a.site")
    site.clock.advance(25 * 3600)
    site.look()
    again = Visitor(site, "a.site", returning=first)
    assert again.error is None and not again.is_resumed
