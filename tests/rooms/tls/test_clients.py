"""The certificates of clients: who is let in, who is called what, and what is in force after a change."""

from __future__ import annotations

from pathlib import Path

import pytest
from OpenSSL import SSL

from appliance.errors import ConfigError
from appliance.tls.clients import ClientFiles
from appliance.tls.peers import names_of
from appliance.tls.server import ClientDemands
from tests.doubles.certificates import Identity, authority
from tests.rooms.tls.visits import Echo, Site, Visitor, client_files, replace

ROOT = authority("Root")
SITE = ROOT.issue("cache.site")
CLIENTS = authority("Clients")
NODE = CLIENTS.issue("node-1", "node-1.site")
VERSIONS = [(SSL.TLS1_2_VERSION, SSL.TLS1_2_VERSION), (SSL.TLS1_3_VERSION, SSL.TLS1_3_VERSION)]


def site_for(folder: Path, revoked: bytes | None = None, required: bool = False) -> Site:
    return Site.of(folder, SITE, ClientDemands(client_files(folder, CLIENTS, revoked), required))


def names(visitor: Visitor, which: str = "subject") -> tuple[str, ...] | None:
    assert visitor.error is None
    assert Echo.last is not None
    return names_of(Echo.last.transport, which)


@pytest.mark.parametrize("versions", VERSIONS)
def test_a_client_is_called_what_its_certificate_says(tmp_path: Path, versions: tuple[int, int]) -> None:
    visitor = Visitor(site_for(tmp_path), shows=NODE, versions=versions)
    assert names(visitor) == ("node-1", "node-1", "node-1.site")
    assert names(visitor, "san") == ("node-1", "node-1.site")


def test_a_certificate_may_be_vouched_for_on_the_way(tmp_path: Path) -> None:
    team = CLIENTS.issue("Team", authority=True)
    assert names(Visitor(site_for(tmp_path), shows=team.issue("node-2"))) == ("node-2", "node-2")


def test_an_authority_in_the_middle_may_be_the_one_that_is_believed(tmp_path: Path) -> None:
    """The root's other authorities are not, then."""
    team, others = CLIENTS.issue("Team", authority=True), CLIENTS.issue("Others", authority=True)
    path = tmp_path / "team.pem"
    path.write_bytes(team.certificates.split(b"-----END CERTIFICATE-----\n")[0] + b"-----END CERTIFICATE-----\n")
    site = Site.of(tmp_path, SITE, ClientDemands(ClientFiles(path)))
    assert names(Visitor(site, shows=team.issue("node-2"))) == ("node-2", "node-2")
    assert Visitor(site, shows=others.issue("node-2")).error is not None


def test_a_client_without_one_is_let_in_where_none_is_required(tmp_path: Path) -> None:
    visitor = Visitor(site_for(tmp_path))
    assert visitor.say(b"hello") == b"hello"
    assert names(visitor) is None


def test_and_not_where_one_is(tmp_path: Path) -> None:
    site = site_for(tmp_path, required=True)
    assert Visitor(site).error is not None
    assert site.refused == [("certificate", "192.0.2.7", "it has shown none, and one is required")]
    assert Visitor(site, shows=NODE).error is None
    assert len(site.refused) == 1


@pytest.mark.parametrize("versions", VERSIONS)
@pytest.mark.parametrize("required", [False, True])
@pytest.mark.parametrize(
    ("shown", "why"),
    [
        (authority("Others").issue("node-1"), "its authority is not among those of client_ca_file"),
        (authority("node-1"), "it vouches for itself"),
        (CLIENTS.issue("node-1", days=-1), "it has expired"),
        (NODE, "it is revoked"),
    ],
)
def test_a_bad_certificate_fails_the_handshake(
    tmp_path: Path, shown: Identity, why: str, required: bool, versions: tuple[int, int]
) -> None:
    """Also where none is required: who shows one wants to be known by it. The address and the reason are told."""
    site = site_for(tmp_path, CLIENTS.revoking(NODE), required)
    visitor = Visitor(site, shows=shown, versions=versions)
    assert visitor.error is not None
    serial = f"{shown.certificate.serial_number:x}"
    assert site.refused == [("certificate", "192.0.2.7", f"{serial}: {why}")]


def test_what_a_stranger_wrote_into_a_certificate_is_not_repeated(tmp_path: Path) -> None:
    site = site_for(tmp_path)
    Visitor(site, shows=authority("Others").issue("drop table"))
    assert "drop" not in str(site.refused)


def test_a_list_of_revoked_ones_that_has_ended_lets_in_no_certificate(tmp_path: Path) -> None:
    """Whether one was revoked since is not known."""
    site = site_for(tmp_path, CLIENTS.revoking(days=-1))
    assert Visitor(site, shows=NODE).error is not None
    assert "has expired; ask the authority for the next one" in site.refused[0][2]
    assert Visitor(site).error is None


def test_a_revocation_is_in_force_for_the_next_connection(tmp_path: Path) -> None:
    site = site_for(tmp_path, CLIENTS.revoking())
    first = Visitor(site, shows=NODE)
    assert first.error is None
    replace(tmp_path / "revoked.pem", CLIENTS.revoking(NODE))
    assert site.look()
    assert Visitor(site, shows=NODE).error is not None
    # A ticket from before is of no use either.
    assert Visitor(site, returning=first).error is not None


def test_who_is_connected_goes_on_without_a_name_then(tmp_path: Path) -> None:
    site = site_for(tmp_path, CLIENTS.revoking())
    visitor = Visitor(site, shows=NODE)
    assert names(visitor) == ("node-1", "node-1", "node-1.site")
    replace(tmp_path / "revoked.pem", CLIENTS.revoking(NODE))
    site.look()
    assert names(visitor) is None
    assert visitor.say(b"hello") == b"hello"


def test_who_is_connected_keeps_its_name_through_other_changes(tmp_path: Path) -> None:
    """Another node is revoked, an authority comes in addition, the certificate of the site is renewed."""
    team = CLIENTS.issue("Team", authority=True)
    site = site_for(tmp_path)
    visitors = [Visitor(site, shows=NODE), Visitor(site, shows=team.issue("node-2"))]
    connected = []
    for each, shown in zip(visitors, ("node-1", "node-2"), strict=True):
        assert each.error is None
        connected.append((each.connection, shown))
    replace(tmp_path / "clients.pem", CLIENTS.certificates + authority("More").certificates)
    ROOT.issue("cache.site").write(tmp_path, "site")
    assert site.look()
    for protocol, shown in connected:
        assert names_of(protocol)[0] == shown


def test_a_certificate_that_ends_while_its_client_is_connected_names_it_no_more(tmp_path: Path) -> None:
    site = site_for(tmp_path)
    visitor = Visitor(site, shows=NODE)
    assert names(visitor) is not None
    site.clock.advance(2 * 86400)
    assert names(visitor) is None


def test_a_list_that_ends_while_a_client_is_connected_leaves_it_without_a_name(tmp_path: Path) -> None:
    """As it would be without one after its next handshake; with the next list it has its name again."""
    site = site_for(tmp_path, CLIENTS.revoking(days=0.2))
    first = Visitor(site, shows=NODE)
    again = Visitor(site, returning=first)
    site.clock.advance(0.5 * 86400)
    assert names(first) is None
    assert names(again) is None
    replace(tmp_path / "revoked.pem", CLIENTS.revoking())
    site.look()
    assert names(first) is not None
    replace(tmp_path / "revoked.pem", CLIENTS.revoking(NODE))
    site.look()
    assert names(first) is None


def test_a_session_with_a_certificate_is_resumed_with_its_name(tmp_path: Path) -> None:
    site = site_for(tmp_path)
    first = Visitor(site, "cache.site", shows=NODE)
    again = Visitor(site, "cache.site", returning=first)
    assert again.is_resumed
    assert names(again) == ("node-1", "node-1", "node-1.site")


@pytest.mark.parametrize("content", [b"", b"-----BEGIN X509 CRL-----\nMII", authority("Clients").revoking()])
def test_files_that_cannot_be_used_change_nothing(tmp_path: Path, content: bytes) -> None:
    """Neither is a list that another authority of the same name has signed."""
    site = site_for(tmp_path, CLIENTS.revoking(NODE))
    replace(tmp_path / "revoked.pem", content)
    replace(tmp_path / "clients.pem", CLIENTS.certificates + authority("More").certificates)
    assert not site.look()
    assert Visitor(site, shows=NODE).error is not None
    assert Visitor(site, shows=CLIENTS.issue("node-2")).error is None


def test_a_start_is_refused_with_files_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="client_crl_file: .*revoked.pem holds no list of revoked certificates"):
        site_for(tmp_path, b"")
    with pytest.raises(ConfigError, match="client_crl_file: the list of CN=Clients is signed by none"):
        site_for(tmp_path, authority("Clients").revoking())
    with pytest.raises(ConfigError, match="client_crl_file: .*revoked.pem has no list of an authority in"):
        site_for(tmp_path, authority("Others").revoking())
    with pytest.raises(ConfigError, match="client_ca_file: .*nothing.pem cannot be read"):
        Site.of(tmp_path, SITE, ClientDemands(ClientFiles(tmp_path / "nothing.pem")))


def test_a_connection_without_tls_has_no_names() -> None:
    assert names_of(object()) is None
    assert names_of(None) is None


def test_names_that_no_user_can_have_are_left_out(tmp_path: Path) -> None:
    site = site_for(tmp_path)
    assert names(Visitor(site, shows=CLIENTS.issue("a\nb", "node-1.site")), "subject") == ("node-1.site",)


def test_an_authority_in_the_middle_may_revoke(tmp_path: Path) -> None:
    """Its own list is enough, where it is believed without its root."""
    team = CLIENTS.issue("Team", authority=True)
    path, revoked, node = tmp_path / "team.pem", tmp_path / "revoked.pem", team.issue("node-2")
    path.write_bytes(team.certificates.split(b"-----END CERTIFICATE-----\n")[0] + b"-----END CERTIFICATE-----\n")
    revoked.write_bytes(team.revoking(node))
    site = Site.of(tmp_path, SITE, ClientDemands(ClientFiles(path, revoked)))
    assert names(Visitor(site, shows=team.issue("node-3"))) == ("node-3", "node-3")
    assert Visitor(site, shows=node).error is not None
    assert site.refused[0][2].endswith("it is revoked")


@pytest.mark.parametrize("whole", [True, False])
def test_an_authority_that_was_revoked_vouches_for_no_client(tmp_path: Path, whole: bool) -> None:
    """Every authority on the way has a list, and none of them is passed over; clients may send those between along."""
    team, others = CLIENTS.issue("Team", authority=True), CLIENTS.issue("Others", authority=True)
    paths = tmp_path / "ca.pem", tmp_path / "lists.pem"
    paths[0].write_bytes(CLIENTS.certificates + (team.certificates + others.certificates if whole else b""))
    paths[1].write_bytes(CLIENTS.revoking(others) + team.revoking() + others.revoking())
    site = Site.of(tmp_path, SITE, ClientDemands(ClientFiles(*paths)))
    assert names(Visitor(site, shows=team.issue("node-2"))) == ("node-2", "node-2")
    assert Visitor(site, shows=others.issue("node-2")).error is not None
