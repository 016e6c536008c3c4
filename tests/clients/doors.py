"""An appliance with a door of each kind, and those who come to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.clients.engine import SITE
from tests.clients.logins import replace
from tests.clients.visitors import Door, Who
from tests.doubles.certificates import Identity, authority
from tests.doubles.passwords import hashed
from tests.process.service import UPSTREAM, Appliance, free_port

ANA, BOB = Who("ana", "Danger-ana-4711"), Who("bob", "Danger-bob-0815")
"""One who is of the team, and one who is not."""

MISTYPED = Who("ana", "Danger-ana-4710")

ACCESS = [
    {"allow": {"networks": ["127.0.0.0/8"], "listeners": ["mirror"], "repositories": [f"{UPSTREAM}/nodes/**"]}},
    {"allow": {"users": ["ana"], "repositories": [f"{UPSTREAM}/quiet/**"], "actions": ["pull"]}},
    {"allow": {"groups": ["team"], "repositories": [f"{UPSTREAM}/team/**"]}},
    {"allow": {"repositories": [f"{UPSTREAM}/library/**"]}},
]
"""What is the nodes', which have only an address; what ana may pull, and not list; the team's, and what is anyone's."""

GROUPS = {"team": [ANA.user, "node-7"]}


class Doors:
    """
    An appliance in front of the registry at a URL, with these doors:

    @ivar mirror: plain HTTP and no login, as dockerd's mirrors need it; its default upstream is L{UPSTREAM}.
    @ivar offered: TLS; who has a login can use it.
    @ivar required: TLS; who has no login gets nothing.
    @ivar certificates: TLS, for those with a certificate of the site's authority; its default upstream is L{UPSTREAM}.
    @ivar appliance: the process; not started yet.
    @ivar ca: the site's authority; C{node} has a certificate of it and is of the team, C{other} has one and is not, and
        that of C{former} was revoked. C{stranger} has one of another authority, with the name that C{node} has.
    """

    def __init__(self, folder: Path, upstream_url: str, **settings: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.ca = authority("Site")
        issued = [self.ca.issue(name) for name in ("node-7", "node-8", "node-7")]
        self.node, self.other, self.former = map(Who.of, issued)
        self.stranger = Who.of(authority("Elsewhere").issue("node-7"))
        self.write_logins(ANA, BOB)
        self.ca_file = folder / "ca.pem"
        replace(self.ca_file, self.ca.certificates.decode())
        replace(folder / "crl.pem", self.ca.revoking(issued[2]).decode())
        self.serve_with(self.ca.issue(SITE, "127.0.0.1", "localhost"))
        settings = {"access": ACCESS, "groups": GROUPS, **settings}
        self.appliance = Appliance(folder / "appliance", upstream_url, **settings)
        checkers = {"checkers": [f"htpasswd:{folder}/htpasswd"]}
        self.appliance.settings["listen"][0]["name"] = "mirror"
        self.mirror = Door(self.appliance.authority)
        self.offered = self._add("offered", login="offered", **checkers)
        self.required = self._add("required", login="required", **checkers)
        authority_files = {"client_ca_file": str(self.ca_file), "client_crl_file": f"{folder}/crl.pem"}
        self.certificates = self._add("certificates", login="required", default_upstream=UPSTREAM, **authority_files)
        self.appliance.write()

    def _add(self, name: str, **listener: Any) -> Door:
        port = free_port()
        files = f"privateKey={self.folder}/server.key:certKey={self.folder}/server.pem"
        endpoint = f"ssl:port={port}:interface=127.0.0.1:{files}"
        self.appliance.settings["listen"].append({"name": name, "endpoint": endpoint, **listener})
        return Door(f"127.0.0.1:{port}", self.ca_file)

    def write_logins(self, *users: Who) -> None:
        """From now on these are good, and no others."""
        lines = [f"{who.user}:{hashed(who.password)}\n" for who in users]
        replace(self.folder / "htpasswd", "".join(lines))

    def serve_with(self, server: Identity) -> None:
        """The certificate that the doors with TLS show."""
        replace(self.folder / "server.key", server.private().decode())
        replace(self.folder / "server.pem", server.certificates.decode())

    @property
    def all(self) -> Sequence[Door]:
        """Every door."""
        return self.mirror, self.offered, self.required, self.certificates
