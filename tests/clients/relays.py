"""
What stands between the appliance and a registry: nginx in front of it, and the HTTP proxies tinyproxy and squid; and
what stands between clients and the appliance: HAProxy and nginx with the files of C{etc/balancers}.

Each has C{programs}, C{start()}, C{log()} with every request that passed, and C{kill()}.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

from tests.clients import tools
from tests.doubles.certificates import Identity
from tests.process.service import CHECKOUT, free_port, until

BALANCERS = CHECKOUT / "etc" / "balancers"
"""The files that are shipped."""

BALANCER = "127.0.0.9"
"""The address from which a balancer connects, so that it can be told from its clients."""

BASIC_AUTH = Path("/usr/lib/squid/basic_ncsa_auth")
"""squid's helper that reads a file of passwords."""

# Where Debian has what only an administrator starts.
os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"])


class Relay:
    """One process that listens on a port of 127.0.0.1 and writes its requests into C{folder/access}."""

    programs: tuple[str, ...] = ()

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def authority(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    def _run(self, *command: str | Path) -> None:
        with (self.folder / "output").open("wb") as output:
            self._process = subprocess.Popen([*map(str, command)], stdout=output, stderr=subprocess.STDOUT)
        until(self._answers, f"{self.programs[0]} listens")

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise tools.Failed((self.folder / "output").read_text(errors="replace"))
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def log(self) -> str:
        """The requests so far."""
        path = self.folder / "access"
        return path.read_text(errors="replace") if path.exists() else ""

    def kill(self) -> None:
        """End it; its helpers and workers go with it."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.wait(tools.PATIENCE)


class Nginx(Relay):
    """TLS in front of a registry; with C{clients} only for those with a certificate of that authority."""

    programs = ("nginx",)

    def __init__(self, folder: Path, registry: str, server: Identity, clients: Identity | None) -> None:
        super().__init__(folder / "nginx")
        self.folder.mkdir()
        self._registry = registry
        self._server = server
        self._clients = clients

    def start(self) -> Nginx:
        """Start it and wait until it listens."""
        certificate, key = self._server.write(self.folder, "server")
        lines = [f"listen {self.authority} ssl;", f"ssl_certificate {certificate};", f"ssl_certificate_key {key};"]
        if self._clients is not None:
            (self.folder / "clients.pem").write_bytes(self._clients.certificates)
            lines += [f"ssl_client_certificate {self.folder}/clients.pem;", "ssl_verify_client on;"]
        self._serve(
            f"server {{ {' '.join(lines)}\nlocation / {{ proxy_pass http://{self._registry};\n"
            "proxy_set_header Host $http_host; proxy_set_header X-Forwarded-Proto https; } }\n"
        )
        return self

    def _serve(self, servers: str) -> None:
        temporary = [f"{kind}_temp_path {self.folder}/{kind};" for kind in NGINX_TEMPORARY]
        config = self.folder / "nginx.conf"
        config.write_text(
            f"{'user root;' if os.geteuid() == 0 else ''} daemon off; pid {self.folder}/pid; error_log stderr;\n"
            f"events {{}}\nhttp {{ access_log {self.folder}/access; {' '.join(temporary)}\n{servers}}}\n"
        )
        self._run("nginx", "-c", config, "-e", "stderr")


NGINX_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
"""Folders that nginx wants to make."""


class NginxBalancer(Nginx):
    """TLS in front of the appliance, with C{X-Forwarded-For}: the shipped file."""

    def start(self) -> NginxBalancer:
        """Start it and wait until it listens."""
        certificate, key = self._server.write(self.folder, "server")
        self._serve(
            _with(
                (BALANCERS / "nginx.conf").read_text(),
                {
                    "listen 5443": f"listen {self.authority}",
                    "/etc/nginx/pullcache.pem": str(certificate),
                    "/etc/nginx/pullcache.key": str(key),
                    "server pullcache.example:5000;": f"server {self._registry};",
                    "proxy_pass http://pullcache;": f"proxy_pass http://pullcache; proxy_bind {BALANCER};",
                },
            )
        )
        return self


class Haproxy(Relay):
    """Passes connections on behind a PROXY header (HAProxy's proxy-protocol.txt): the shipped file."""

    programs = ("haproxy",)

    def __init__(self, folder: Path, appliance: str) -> None:
        super().__init__(folder / "haproxy")
        self.folder.mkdir()
        self._appliance = appliance

    def start(self, header: str = "send-proxy-v2") -> Haproxy:
        """Start it and wait until it listens; C{header} is the version's keyword."""
        config = self.folder / "haproxy.cfg"
        config.write_text(
            _with(
                (BALANCERS / "haproxy.cfg").read_text(),
                {
                    "bind :5443": f"bind {self.authority}",
                    "pullcache.example:5444 send-proxy-v2 check": f"{self._appliance} {header} source {BALANCER} check",
                },
            )
        )
        self._run("haproxy", "-db", "-f", config)
        return self


def _with(text: str, here: dict[str, str]) -> str:
    """The text with what is the site's own put in."""
    for placeholder, value in here.items():
        assert placeholder in text, placeholder
        text = text.replace(placeholder, value)
    return text


class Tinyproxy(Relay):
    """Lets every process of this machine through."""

    programs = ("tinyproxy",)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "tinyproxy")
        self.folder.mkdir()

    def start(self) -> Tinyproxy:
        """Start it and wait until it listens."""
        config = self.folder / "tinyproxy.conf"
        config.write_text(
            f"Port {self.port}\nListen 127.0.0.1\nTimeout 60\nAllow 127.0.0.1\n"
            f'LogFile "{self.folder}/access"\nLogLevel Connect\n'
        )
        self._run("tinyproxy", "-d", "-c", config)
        return self


class Squid(Relay):
    """
    Lets through those who know a password; resolves C{names} to 127.0.0.1 by itself.

    @ivar tls_port: where it speaks TLS with its clients, when it was given a certificate for that.
    """

    programs = ("squid", "htpasswd")

    def __init__(self, names: tuple[str, ...], tls: Identity | None = None) -> None:
        # Started by root it becomes the user proxy, to whom pytest's folders are closed.
        super().__init__(Path(tempfile.mkdtemp(prefix="squid")))
        self.folder.chmod(0o755)
        self._names = names
        self._tls = tls
        self.tls_port = free_port()

    def allow(self, user: str, password: str) -> None:
        """That login is good, and no other. squid takes up to two seconds to notice."""
        (self.folder / "passwords").write_bytes(tools.run("htpasswd", "-nbm", user, password))

    def start(self) -> Squid:
        """Start it and wait until it listens."""
        (self.folder / "hosts").write_text("".join(f"127.0.0.1 {name}\n" for name in self._names))
        ports = f"http_port {self.authority}\n"
        if self._tls is not None:
            certificate, key = self._tls.write(self.folder, "proxy")
            ports += f"https_port 127.0.0.1:{self.tls_port} tls-cert={certificate} tls-key={key}\n"
        config = self.folder / "squid.conf"
        config.write_text(
            f"{ports}visible_hostname proxy.test\nhosts_file {self.folder}/hosts\npid_filename none\n"
            f"access_log stdio:{self.folder}/access\ncache_log /dev/stderr\nlogfile_rotate 0\ncache deny all\n"
            f"coredump_dir none\nnetdb_filename none\nshutdown_lifetime 0 seconds\n"
            f"auth_param basic program {BASIC_AUTH} {self.folder}/passwords\nauth_param basic children 1\n"
            "auth_param basic realm tests\nauth_param basic credentialsttl 1 second\n"
            "acl known proxy_auth REQUIRED\nhttp_access allow known\nhttp_access deny all\n"
        )
        if os.geteuid() == 0:
            for path in (self.folder, *self.folder.iterdir()):
                shutil.chown(path, "proxy")
        self._run("squid", "-N", "-f", config)
        return self

    def kill(self) -> None:
        """See L{Relay.kill}; its folder goes, too."""
        super().kill()
        shutil.rmtree(self.folder, ignore_errors=True)
