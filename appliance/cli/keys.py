"""C{pullcache keygen}, and the keys that other commands are given."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path

from appliance.bundle.minisign import PublicKey, SecretKey
from appliance.cli.command import DONE, Commands, Local, new_command
from appliance.cli.failures import CommandFailed, WrongUsage
from appliance.errors import BundleError

#: Holds the password of a secret key that has one.
PASSWORD_VARIABLE = "PULLCACHE_KEY_PASSWORD"

#: Key files are a few lines; anything larger was named by mistake.
KEY_BYTES = 64 * 1024


def add_to(commands: Commands) -> None:
    """Add C{keygen}."""
    parser = new_command(commands, "keygen", "make a key pair to sign bundles with: NAME.key and NAME.pub")
    parser.add_argument("-o", "--output", metavar="NAME", required=True, help="where to, without .key and .pub")
    parser.set_defaults(run=keygen)


def keygen(local: Local, options: Namespace) -> int:
    """Write both files, in minisign's form; what is there already is never replaced."""
    secret_file, public_file = (Path(options.output + ending) for ending in (".key", ".pub"))
    for path in (secret_file, public_file):
        if path.exists():
            raise CommandFailed(f"{path} exists; a key is never replaced: choose another name with -o")
    key = SecretKey.generate()
    try:
        key.save(secret_file)
        with public_file.open("x", encoding="ascii") as file:
            file.write(key.public.dump())
    except OSError as error:
        secret_file.unlink(missing_ok=True)
        raise CommandFailed(f"{options.output}: {error.strerror or error}") from error
    screen, public = local.screen, key.public
    if screen.as_json:
        screen.document({"id": public.key_id, "public": str(public), "key": str(secret_file), "pub": str(public_file)})
    screen.say(f"key {public.key_id}")
    screen.say(f"{secret_file}  signs: keep it to yourself (export --sign {secret_file})")
    screen.say(f"{public_file}  verifies: carry it to the other side once (import --trust {public_file})")
    screen.say(f"or have an appliance take nothing else, in its configuration: bundles: {{trust: [{public}]}}")
    return DONE


def secret_key(path: Path) -> SecretKey:
    """
    The key in this file; its password, if it has one, is in the environment.

    @raise WrongUsage: it cannot be used.
    """
    try:
        return SecretKey.load(_text(path), os.environ.get(PASSWORD_VARIABLE))
    except BundleError as error:
        raise WrongUsage(f"{path}: {error} (a password is taken from {PASSWORD_VARIABLE})") from error


def public_key(given: str) -> PublicKey:
    """
    The key in this file, or the key itself as minisign's one line.

    @raise WrongUsage: it is neither.
    """
    path = Path(given)
    is_file = path.is_file()
    try:
        return PublicKey.parse(_text(path) if is_file else given)
    except BundleError as error:
        raise WrongUsage(f"{given}: {error}" if is_file else f"{given}: there is no such file, and {error}") from error


def _text(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(KEY_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        raise WrongUsage(f"{path} cannot be read as a key: {error}") from error
