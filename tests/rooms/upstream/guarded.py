"""Registries that want a token or a password, and what is shown to them."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

from tests.rooms.upstream.net import (
    AUTH,
    REGISTRY,
    Asked,
    Net,
    Reply,
)

MANIFEST = b"{}"
OK = Reply(body=MANIFEST)


def bearer(realm: str = REGISTRY + "/token", extra: str = ',service="reg"') -> Reply:
    return Reply(401, {"WWW-Authenticate": f'Bearer realm="{realm}"{extra}'})


def token(text: str = "t1", **more: object) -> Reply:
    return Reply(200, {"Content-Type": "application/json"}, json.dumps({"token": text, **more}).encode())


class Guarded:
    """A registry that wants a token, and its token server; counts the tokens it gives: t1, t2 and so on."""

    def __init__(self, net: Net, realm: str = REGISTRY + "/token", life: int | None = 300) -> None:
        self.net = net
        self.realm = realm
        self.life = life
        self.given = 0
        self.good: set[str] = set()
        self.grant: Callable[[Asked], Reply | None] = self.give
        net.servers[REGISTRY] = self.registry
        net.servers.setdefault(AUTH, self.registry)

    def registry(self, asked: Asked) -> Reply | None:
        if asked.target.startswith("/token"):
            return self.grant(asked)
        return OK if asked.one("authorization") in self.good else bearer(self.realm)

    def give(self, asked: Asked) -> Reply:
        self.given += 1
        text = f"t{self.given}"
        self.good.add(f"Bearer {text}")
        return token(text) if self.life is None else token(text, expires_in=self.life)

    def token_requests(self) -> list[Asked]:
        return [asked for asked in self.net.asked if asked.target.startswith("/token")]


BASIC = "Basic " + base64.b64encode(b"user:pa ss").decode()


def password(folder: Path, text: str = "pa ss\n") -> Path:
    path = folder / "password"
    path.write_text(text, newline="")
    return path


def basic_registry(net: Net, accepted: list[str]) -> None:
    net.servers[REGISTRY] = lambda asked: (
        OK if asked.one("authorization") in accepted else Reply(401, {"WWW-Authenticate": 'Basic realm="x"'})
    )


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def basic_of(text: str) -> str:
    return "Basic " + base64.b64encode(f"user:{text}".encode()).decode()


def identity(folder: Path, text: str = "re+fr$sh &=") -> Path:
    entry = {"auth": base64.b64encode(b"00000000-0000:").decode(), "identitytoken": text}
    return write(folder / "config.json", json.dumps({"auths": {"registry.example": entry}}))
