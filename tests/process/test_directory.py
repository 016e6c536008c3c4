"""Users of an LDAP directory, by a site's own checker: the example of C{etc/checkers} against OpenLDAP."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients import tools
from tests.clients.plain import ask
from tests.doubles.remote import RemoteRegistry
from tests.process.service import CHECKOUT, UPSTREAM, Appliance, free_port, until

pytestmark = [pytest.mark.real_client, pytest.mark.process]

BASE = "ou=people,dc=site"
SLAPD = """
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile {folder}/pid
access to attrs=userPassword by anonymous auth by * none
access to * by self read by * none
database mdb
suffix "dc=site"
directory {folder}/db
"""
PEOPLE = """
dn: dc=site
objectClass: domain
dc: site

dn: ou=people,dc=site
objectClass: organizationalUnit
ou: people

dn: uid=ann,ou=people,dc=site
objectClass: inetOrgPerson
uid: ann
cn: Ann
sn: Other
userPassword: one

dn: uid=o\\2Cbob,ou=people,dc=site
objectClass: inetOrgPerson
uid: o,bob
cn: Bob
sn: Other
userPassword: two
"""


class Directory:
    """OpenLDAP with a few people."""

    def __init__(self, folder: Path) -> None:
        (folder / "db").mkdir(parents=True)
        self._config = folder / "slapd.conf"
        self._config.write_text(SLAPD.format(folder=folder))
        people = folder / "people.ldif"
        people.write_text(PEOPLE)
        tools.run("/usr/sbin/slapadd", "-f", self._config, "-l", people)
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Directory:
        command = ["/usr/sbin/slapd", "-f", str(self._config), "-h", f"ldap://127.0.0.1:{self.port}", "-d", "0"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(self._answers, "slapd answers")
        return self

    def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def _answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Directory]:
    tools.need("/usr/sbin/slapd")
    if importlib.util.find_spec("ldaptor") is None:
        pytest.skip("not installed: ldaptor")
    directory = Directory(tmp_path / "directory")
    yield directory.start()
    directory.kill()


def status(appliance: Appliance, path: str, user: str, password: str) -> int:
    shown = b64encode(f"{user}:{password}".encode()).decode()
    return ask(appliance.authority, path, headers={"Authorization": f"Basic {shown}"}).status


def test_users_of_a_directory_log_in(directory: Directory, upstream: RemoteRegistry, tmp_path: Path) -> None:
    """
    By its passwords and under the names it knows them by; an empty password is none of theirs, and no name is more than
    a name. While it is down, who logged in goes on, and the others are told to come again.
    """
    upstream.add("team/app", sizes=[1000])
    plugins = tmp_path / "site" / "twisted" / "plugins"
    plugins.mkdir(parents=True)
    shutil.copy(CHECKOUT / "etc" / "checkers" / "site_ldap.py", plugins)
    appliance = Appliance(tmp_path / "appliance", upstream.url)
    appliance.environment["PYTHONPATH"] = str(tmp_path / "site")
    listen = appliance.settings["listen"][0]
    listen.update(login="required", checkers=[f"ldap:uid=%s,{BASE}@tcp:127.0.0.1:{directory.port}"])
    appliance.settings["access"] = [{"allow": {"users": ["ann", "o,bob"], "repositories": [f"{UPSTREAM}/team/**"]}}]
    appliance.write()
    appliance.start()
    path = "/v2/team/app/manifests/latest"
    try:
        assert status(appliance, path, "ann", "one") == 200
        assert status(appliance, path, "o,bob", "two") == 200
        assert status(appliance, path, "ANN", "one") == 200
        for user, password in (
            ("ann", "two"),
            ("ann", ""),
            ("eve", "one"),
            ("ann,ou=people", "one"),
            ("*", "one"),
            ("o\\2Cbob", "two"),
        ):
            assert (user, status(appliance, path, user, password)) == (user, 401)
        directory.kill()
        assert status(appliance, path, "ann", "one") == 200
        assert status(appliance, path, "ann", "another") == 503
        directory.start()
        assert status(appliance, path, "ann", "another") == 401
    finally:
        appliance.kill()
    assert "another" not in appliance.log()
    lines = [line for line in appliance.log().splitlines() if path in line and " 200 " in line]
    assert {line.split()[-1] for line in lines} == {"ann", "o,bob"}
