"""An authority for a site without one, and its certificate, which is renewed in time."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest
from cryptography import x509
from OpenSSL import crypto

from appliance.errors import ConfigError
from appliance.tls.authority import AUTHORITY, AUTHORITY_KEY, SERVER, is_due, issue, renew
from appliance.tls.certificates import CertificateFolder, NamedFiles
from tests.doubles.certificates import Identity
from tests.rooms.tls.visits import Site, Visitor

NOW = time.time()
DAY = 86400.0


def authority_in(folder: Path) -> Identity:
    return Identity(x509.load_pem_x509_certificate((folder / AUTHORITY).read_bytes()), None)  # type: ignore[arg-type]


def test_the_folder_is_an_endpoints_as_it_is(tmp_path: Path) -> None:
    """Clients that have the authority believe what is shown, by host and by address."""
    folder = tmp_path / "tls"
    made = issue(folder, ["cache.site", "192.0.2.1", "2001:DB8::1"], NOW)
    assert made.is_new_authority and made.names == ("cache.site", "192.0.2.1", "2001:db8::1")
    for site in (Site.in_folder(folder), Site(NamedFiles(folder / SERVER, folder / SERVER))):
        assert Visitor(site, "cache.site", trusts=authority_in(folder)).error is None
        assert list(site.server.warnings(NOW)) == []
    (shown,) = Site.in_folder(folder).server.certificates
    assert shown.names == ("cache.site", "192.0.2.1", "2001:db8::1")


def test_strict_clients_believe_it(tmp_path: Path) -> None:
    """RFC 5280 as Python and others check it: usage, identifiers and constraints are all there."""
    issue(tmp_path, ["cache.site"], NOW)
    store = crypto.X509Store()
    store.add_cert(crypto.X509.from_cryptography(authority_in(tmp_path).certificate))
    store.set_flags(crypto.X509StoreFlags.X509_STRICT)
    own = x509.load_pem_x509_certificate((tmp_path / SERVER).read_bytes())
    crypto.X509StoreContext(store, crypto.X509.from_cryptography(own)).verify_certificate()


def test_keys_are_for_their_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    before = os.umask(0)
    try:
        issue(folder, ["cache.site"], NOW)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert modes == {AUTHORITY: 0o644, AUTHORITY_KEY: 0o600, SERVER: 0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_root_makes_belongs_to_whom_the_folder_belongs(tmp_path: Path) -> None:
    """Otherwise the service could read none of it, and renew nothing."""
    os.chown(tmp_path, 4711, 4712)
    issue(tmp_path, ["cache.site"], NOW)
    assert {(path.stat().st_uid, path.stat().st_gid) for path in tmp_path.iterdir()} == {(4711, 4712)}


def test_a_renewal_keeps_authority_and_names(tmp_path: Path) -> None:
    """Clients need nothing new."""
    issue(tmp_path, ["cache.site", "10.0.0.5"], NOW, days=90)
    ca, old = authority_in(tmp_path).certificate, (tmp_path / SERVER).read_bytes()
    made = renew(tmp_path, NOW + 70 * DAY)
    assert not made.is_new_authority and made.names == ("cache.site", "10.0.0.5")
    assert made.until == pytest.approx(NOW + 160 * DAY, abs=2)
    assert authority_in(tmp_path).certificate == ca
    assert (tmp_path / SERVER).read_bytes() != old
    renew(tmp_path, NOW)
    assert Visitor(Site.in_folder(tmp_path), trusts=authority_in(tmp_path)).error is None


def test_it_is_renewed_when_a_third_of_its_time_is_left(tmp_path: Path) -> None:
    issue(tmp_path, ["cache.site"], NOW, days=90)
    assert not is_due(tmp_path, NOW) and not is_due(tmp_path, NOW + 59 * DAY)
    assert is_due(tmp_path, NOW + 61 * DAY) and is_due(tmp_path, NOW + 200 * DAY)


@pytest.mark.parametrize("gone", [AUTHORITY, AUTHORITY_KEY, SERVER])
def test_what_is_not_all_there_is_not_ours_to_renew(tmp_path: Path, gone: str) -> None:
    """The key of the authority may be kept elsewhere."""
    issue(tmp_path, ["cache.site"], NOW)
    (tmp_path / gone).unlink()
    assert not is_due(tmp_path, NOW + 400 * DAY)


def test_new_names_replace_the_old_ones(tmp_path: Path) -> None:
    issue(tmp_path, ["cache.site"], NOW)
    made = issue(tmp_path, ["mirror.site"], NOW)
    assert made.names == ("mirror.site",) and not made.is_new_authority


def test_no_certificate_outlives_its_authority(tmp_path: Path) -> None:
    issue(tmp_path, ["cache.site"], NOW)
    end = authority_in(tmp_path).certificate.not_valid_after_utc.timestamp()
    assert issue(tmp_path, (), end - 10 * DAY).until == end
    with pytest.raises(ConfigError, match=r"ca\.crt: the authority has ended; move ca\.crt and ca\.key away"):
        issue(tmp_path, (), end + 1)


@pytest.mark.parametrize("name", ["", "https://cache.site", "cache.site:5000", "-a", "a..b", "a" * 64, "cache site"])
def test_what_is_no_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="is no host name and no address"):
        issue(tmp_path / "tls", [name], NOW)
    assert not (tmp_path / "tls").exists()


def test_without_a_name_there_must_be_a_certificate(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"server\.pem is not there yet: say for which names .*--name"):
        issue(tmp_path, (), NOW)


def test_half_an_authority_is_never_replaced(tmp_path: Path) -> None:
    """All clients of the site have it: a lost key is for an operator to find."""
    issue(tmp_path, ["cache.site"], NOW)
    (tmp_path / AUTHORITY_KEY).unlink()
    with pytest.raises(ConfigError, match=r"ca\.key cannot be read"):
        issue(tmp_path, (), NOW)
    other = tmp_path / "other"
    issue(other, ["cache.site"], NOW)
    (other / AUTHORITY_KEY).rename(tmp_path / AUTHORITY_KEY)
    with pytest.raises(ConfigError, match="is not that of the authority in"):
        issue(tmp_path, (), NOW)


def test_the_folder_shows_one_certificate_not_the_authority(tmp_path: Path) -> None:
    issue(tmp_path, ["cache.site"], NOW)
    known, faults = CertificateFolder(tmp_path).read(())
    assert [each.path.name for each in known] == [SERVER] and faults == []
