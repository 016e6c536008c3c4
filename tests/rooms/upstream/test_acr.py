"""Azure Container Registry: Entra ID's token is exchanged for the registry's own, which is renewed before it ends."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from zope.interface import implementer
from zope.interface.verify import verifyObject

from appliance.errors import UpstreamDenied, UpstreamError, UpstreamInvalid, UpstreamUnavailable
from appliance.upstream.credentials.renewing import MIN_INTERVAL, IAcceptedCredentials
from appliance.upstream.interfaces import ICredentials, Secret
from appliance.upstream.kinds.acr import AcrCredentials, claims_of, is_refresh_token, life_of
from tests.doubles.deferreds import failing, result

HOST = "contoso.azurecr.io"
HOUR = 3600.0
TENANT = "409520d4-8100-4d1d-ad47-72432ddcc120"


def jwt(**claims: object) -> str:
    parts = (json.dumps(part).encode() for part in ({"alg": "RS256"}, claims))
    return ".".join([*(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts), "c2ln"])


def refresh_token(number: int = 1, life: float = 3 * HOUR) -> str:
    return jwt(
        iss="Azure Container Registry", grant_type="refresh_token", jti=str(number), iat=1000, exp=1000 + int(life)
    )


def entra(number: int = 1, **more: object) -> str:
    return jwt(iss=f"https://sts.windows.net/{TENANT}/", tid=TENANT, jti=str(number), **more)


@implementer(IAcceptedCredentials)
class File:
    """
    A token file.

    @ivar replacement: what it holds once the present content was reported as refused.
    """

    source = "token_file"

    def __init__(self, text: str) -> None:
        self.text = text
        self.replacement: str | None = None
        self.complaints = 0

    def accepted(self, secret: Secret) -> None:
        """See L{IAcceptedCredentials.accepted}; not recorded."""

    def current(self) -> Deferred[Secret]:
        return succeed(Secret(f"token_file#{hash(self.text)}", "", self.text, Secret.Use.BEARER))

    def refused(self, secret: Secret) -> Deferred[bool]:
        self.complaints += 1
        self.text, self.replacement = self.replacement or self.text, None
        return succeed(self.text != secret.danger_text)


class Exchange:
    """C{POST /oauth2/exchange} of a registry that takes the Entra tokens in C{accepted}."""

    def __init__(self) -> None:
        self.accepted = {entra(1), entra(2)}
        self.forms: list[dict[str, str]] = []
        self.life = 3 * HOUR
        self.fault: UpstreamError | None = None
        self.answer: bytes | None = None

    def post(self, path: str, fields: Mapping[str, str]) -> Deferred[bytes]:
        assert path == "/oauth2/exchange"
        self.forms.append(dict(fields))
        if self.fault is not None:
            return fail(self.fault)
        if fields["access_token"] not in self.accepted:
            return fail(UpstreamDenied("ours", "POST https://contoso.azurecr.io/oauth2/exchange answered 401"))
        if self.answer is not None:
            return succeed(self.answer)
        return succeed(json.dumps({"refresh_token": refresh_token(len(self.forms), self.life)}).encode())


class Bench:
    def __init__(self, text: str) -> None:
        self.clock = Clock()
        self.file = File(text)
        self.exchange = Exchange()
        self.credentials = AcrCredentials(self.file, "ours", HOST, self.clock, self.exchange.post)

    def current(self) -> Secret:
        return result(self.credentials.current())


@pytest.fixture
def bench() -> Bench:
    return Bench(entra())


def test_entras_token_becomes_an_identity_token(bench: Bench) -> None:
    """It is exchanged once, for the registry and the tenant it is of."""
    verifyObject(ICredentials, bench.credentials)
    secret = bench.current()
    assert (secret.danger_text, secret.use) == (refresh_token(1), Secret.Use.IDENTITY)
    assert bench.current() == secret
    form = {"grant_type": "access_token", "service": HOST, "tenant": TENANT, "access_token": entra()}
    assert bench.exchange.forms == [form]


def test_a_token_that_tells_no_tenant_is_exchanged_without(bench: Bench) -> None:
    """An opaque one, say."""
    bench.file.text = "opaque"
    bench.exchange.accepted.add("opaque")
    bench.current()
    assert "tenant" not in bench.exchange.forms[0]


def test_it_is_renewed_before_it_ends(bench: Bench) -> None:
    """In the last fifth of the life that its claims name; none is shown that is over."""
    first = bench.current()
    bench.clock.advance(2.3 * HOUR)
    assert bench.current() == first
    bench.clock.advance(0.2 * HOUR)
    bench.current()
    second = bench.current()
    assert second.danger_text == refresh_token(2)
    assert second.identity != first.identity


def test_a_new_file_is_exchanged_at_its_first_use(bench: Bench) -> None:
    """Another program renews Entra's token and replaces the file; nothing needs a restart."""
    first = bench.current()
    bench.file.text = entra(2)
    second = bench.current()
    assert second.identity != first.identity
    assert [form["access_token"] for form in bench.exchange.forms] == [entra(1), entra(2)]


def test_a_refused_token_is_exchanged_again(bench: Bench) -> None:
    """A registry may forget what it gave, before its end."""
    first = bench.current()
    bench.clock.advance(MIN_INTERVAL)
    assert result(bench.credentials.refused(first)) is True
    assert bench.current().danger_text == refresh_token(2)


def test_a_token_refused_after_the_file_was_replaced_is_replaced(bench: Bench) -> None:
    """Twenty pulls that showed the old one go on with the new one."""
    first = bench.current()
    bench.file.text = entra(2)
    assert [result(bench.credentials.refused(first)) for _ in range(20)] == [True] * 20
    assert len(bench.exchange.forms) == 2


def test_a_file_replaced_a_little_late_is_waited_for(bench: Bench) -> None:
    """An exchange that is denied looks at the file once more, as any refusal does."""
    bench.file.text, bench.file.replacement = "over", entra(2)
    assert bench.current().use is Secret.Use.IDENTITY
    assert bench.file.complaints == 1


def test_a_token_that_is_denied_is_denied(bench: Bench) -> None:
    """And shown in no message."""
    bench.file.text = "s3cret"
    fault = failing(bench.credentials.current())
    assert isinstance(fault, UpstreamDenied)
    assert "s3cret" not in str(fault)


def test_a_registry_that_is_out_denies_nothing(bench: Bench) -> None:
    """What is cached is served as for any outage."""
    bench.exchange.fault = UpstreamUnavailable("ours", "no connection")
    assert isinstance(failing(bench.credentials.current()), UpstreamUnavailable)
    assert bench.file.complaints == 0


@pytest.mark.parametrize("answer", [b"", b"[]", b"{}", b'{"refresh_token": 5}', b'{"refresh_token": "a b"}', b"\xff"])
def test_an_exchange_that_gives_no_token_is_invalid(bench: Bench, answer: bytes) -> None:
    """Nothing of it is sent on."""
    bench.exchange.answer = answer
    assert isinstance(failing(bench.credentials.current()), UpstreamInvalid)


def test_the_registrys_own_token_is_used_as_it_is() -> None:
    """What `az acr login --expose-token` printed needs no exchange, and lives until it is refused."""
    bench = Bench(refresh_token())
    secret = bench.current()
    assert (secret.danger_text, secret.use) == (refresh_token(), Secret.Use.IDENTITY)
    assert result(bench.credentials.refused(secret)) is False
    bench.file.text = refresh_token(2)
    assert result(bench.credentials.refused(secret)) is True
    assert bench.exchange.forms == []


@pytest.mark.parametrize(
    ("token", "life"),
    [
        (refresh_token(life=HOUR), HOUR),
        (refresh_token(life=1), 60),
        (refresh_token(life=1e9), 24 * HOUR),
        (jwt(exp=5), HOUR),
        (jwt(iat="0", exp="9"), HOUR),
        ("opaque", HOUR),
    ],
)
def test_a_life_is_believed_within_bounds(token: str, life: float) -> None:
    """It is counted from the token's making, whatever our clock says."""
    assert life_of(token) == life


@given(st.one_of(st.text(), st.lists(st.text(alphabet="abcIJ.=-_09{}", max_size=40), max_size=5).map(".".join)))
def test_anything_may_stand_in_the_file(text: str) -> None:
    """What is no JWT has no claims and is no refresh token."""
    assert isinstance(claims_of(text), dict)
    assert not is_refresh_token(text)


@given(st.dictionaries(st.text(max_size=10), st.one_of(st.text(), st.integers(-(2**53), 2**53), st.none())))
def test_claims_are_read_back(claims: dict[str, object]) -> None:
    """In base64url without padding, as RFC 7515 section 2 writes it."""
    assert claims_of(jwt(**claims)) == claims
