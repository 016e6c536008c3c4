"""C{pullcache certificate}: TLS for a site that has no authority of its own."""

from __future__ import annotations

import time
from argparse import ArgumentTypeError, Namespace
from pathlib import Path

from appliance.cli.command import DONE, Commands, Local, new_command
from appliance.errors import ConfigError
from appliance.oci.timestamps import timestamp
from appliance.tls.authority import AUTHORITY, DAYS, SERVER, Issued, issue

#: Where each client looks for the authority of a registry at HOST:PORT.
_PLACES = (
    ("docker", "/etc/docker/certs.d/{host}/ca.crt"),
    ("podman, skopeo, buildah", "/etc/containers/certs.d/{host}/ca.crt"),
    (
        "containerd",
        '/etc/containerd/certs.d/{host}/ca.crt, and in hosts.toml under [host."https://{host}"]: ca = that file',
    ),
    ("k3s", '/etc/rancher/k3s/registries.yaml: configs: {{"{host}": {{tls: {{ca_file: /etc/rancher/k3s/ca.crt}}}}}}'),
    ("all programs", "/usr/local/share/ca-certificates/pullcache.crt, then update-ca-certificates (Debian)"),
)


def add_to(commands: Commands) -> None:
    """Add C{certificate}."""
    summary = "make an authority and a certificate for a site without one, or renew the certificate"
    parser = new_command(commands, "certificate", summary)
    parser.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="NAME",
        help="a host or address that clients call the appliance by; may be repeated (those of the one that is there)",
    )
    parser.add_argument("-o", "--output", metavar="DIR", type=Path, required=True, help="the folder for all of it")
    parser.add_argument("--days", type=_days, default=DAYS, help=f"how long it holds ({DAYS})")
    parser.add_argument("--port", type=int, default=5000, help="of the listener, for what is printed (5000)")
    parser.set_defaults(run=certificate)


def _days(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 825:
        raise ArgumentTypeError(f"{text} is no number of days from 1 to 825, the most that clients accept")
    return int(text)


def certificate(local: Local, options: Namespace) -> int:
    """Make it, and say what goes where."""
    folder: Path = options.output.absolute()
    if not folder.parent.is_dir():
        raise ConfigError(f"{folder.parent} is no folder")
    made = issue(folder, options.name, time.time(), options.days)
    screen = local.screen
    if screen.as_json:
        screen.document(
            {
                "certificate": str(folder / SERVER),
                "authority": str(folder / AUTHORITY),
                "names": list(made.names),
                "until": timestamp(made.until),
                "fingerprint": made.fingerprint,
                "isNewAuthority": made.is_new_authority,
            }
        )
    for line in _lines(made, options.port):
        screen.say(line)
    return DONE


def _lines(made: Issued, port: int) -> list[str]:
    folder = made.folder
    lines = [
        f"{folder / SERVER}: certificate and key for {', '.join(made.names)}, until {timestamp(made.until)[:10]}",
        f"{folder / AUTHORITY}: the authority, SHA-256 {made.fingerprint}",
    ]
    if not made.is_new_authority:
        return [*lines, "a running appliance shows it within ten seconds; clients that have the authority need nothing"]
    escaped = str(folder).replace(":", "\\:")
    lines += [
        "",
        "In the configuration (the folder must belong to the user that pullcache runs as, who renews the certificate):",
        f"  listen: [{{endpoint: 'tls:{escaped}:port={port}'}}]",
        "",
        f"Copy {folder / AUTHORITY}, never the keys, to each client:",
    ]
    for name in made.names:
        host = f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
        lines += [f"  {client}: {place.format(host=host)}" for client, place in _PLACES]
    return lines
