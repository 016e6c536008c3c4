"""Amazon ECR: passwords that AWS gives for twelve hours, renewed before they end."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

import pytest
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    NoCredentialsError,
    ReadTimeoutError,
)
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from appliance.errors import (
    ConfigError,
    UpstreamDenied,
    UpstreamError,
    UpstreamRateLimited,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from appliance.flow.disk import InlineThreads
from appliance.interfaces import IThreads
from appliance.settings import UpstreamSettings
from appliance.upstream.credentials.configured import CredentialArguments
from appliance.upstream.credentials.renewing import FAILURE_SHARED, MIN_INTERVAL, TIMEOUT, RenewingCredential
from appliance.upstream.http.proxy import proxies_for
from appliance.upstream.interfaces import ICredentials, Secret
from appliance.upstream.kinds import ecr
from appliance.upstream.kinds.ecr import (
    Ecr,
    EcrApi,
    EcrPublic,
    api_of,
    ask_botocore,
    aws_credentials,
    danger_proxies,
    fault_of,
    lease_of,
)
from tests.doubles.deferreds import failing, pending, result
from tests.doubles.threads import HeldThreads

T = TypeVar("T")

HOST = "123456789012.dkr.ecr.eu-west-1.amazonaws.com"
HOUR = 3600.0
MOMENT = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)
DATE = "Sat, 21 Nov 2026 12:00:00 GMT"


def settings(**more: Any) -> UpstreamSettings:
    return UpstreamSettings(**{"name": "ours", "urls": (f"https://{HOST}",), "kind": "ecr", **more})


def arguments(clock: Clock, host: str = HOST) -> CredentialArguments:
    def post(path: str, fields: object) -> Deferred[bytes]:
        raise AssertionError("AWS is not asked with a form")

    processes: Any = None
    return CredentialArguments("ours", host, clock, InlineThreads(), processes, post)


def credentials_from(
    clock: Clock, ask: Callable[[EcrApi], Mapping[str, Any]], threads: IThreads | None = None
) -> RenewingCredential:
    api = EcrApi("ecr", "eu-west-1")
    return aws_credentials(api, settings(), clock, threads or InlineThreads(), lambda: None, ask)


def answer(text: str) -> Mapping[str, Any]:
    return {"authorizationData": [{"authorizationToken": text}]}


def token(password: str) -> str:
    return base64.b64encode(f"AWS:{password}".encode()).decode()


class Aws:
    """AWS as a function: gives a new password each time, or raises what it is given."""

    def __init__(self) -> None:
        self.asked: list[EcrApi] = []
        self.fault: UpstreamError | None = None

    def __call__(self, api: EcrApi) -> Mapping[str, Any]:
        self.asked.append(api)
        if self.fault is not None:
            raise self.fault
        return answer(token(f"password-{len(self.asked)}"))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def amazon() -> Aws:
    return Aws()


@pytest.fixture
def credentials(clock: Clock, amazon: Aws) -> RenewingCredential:
    return credentials_from(clock, amazon)


# -- renewal --------------------------------------------------------------------------------------------------------


def test_a_secret_is_a_password_for_the_user_aws(credentials: RenewingCredential) -> None:
    """What GetAuthorizationToken gives in base64 is shown with Basic."""
    verifyObject(ICredentials, credentials)
    secret = result(credentials.current())
    assert (secret.username, secret.danger_text, secret.use) == ("AWS", "password-1", Secret.Use.PASSWORD)
    assert "password-1" not in repr(secret) + secret.identity


def test_aws_is_not_asked_before_a_secret_is_needed(credentials: RenewingCredential, amazon: Aws) -> None:
    """A start without a network is not held up, and a secret in its first hours is used again."""
    assert amazon.asked == []
    assert result(credentials.current()) == result(credentials.current())
    assert len(amazon.asked) == 1


def test_it_is_renewed_well_before_it_ends(clock: Clock, credentials: RenewingCredential, amazon: Aws) -> None:
    """In its last fifth the next use asks for another; none is shown that is over."""
    first = result(credentials.current())
    clock.advance(9.5 * HOUR)
    assert result(credentials.current()) == first
    clock.advance(0.2 * HOUR)
    result(credentials.current())
    second = result(credentials.current())
    assert (second.danger_text, len(amazon.asked)) == ("password-2", 2)
    assert second.identity != first.identity


def test_a_renewal_holds_up_no_request(clock: Clock, amazon: Aws) -> None:
    """While AWS takes its time, pulls go on with the secret that is still alive."""
    threads = HeldThreads()
    credentials = credentials_from(clock, amazon, threads)
    waiting = credentials.current()
    threads.step()
    first = result(waiting)
    clock.advance(11 * HOUR)
    assert [result(credentials.current()) for _ in range(20)] == [first] * 20
    assert len(threads.waiting) == 1
    threads.step()
    assert result(credentials.current()).danger_text == "password-2"


def test_all_who_wait_share_one_request(clock: Clock, amazon: Aws) -> None:
    """Twenty pulls at a start ask AWS once; one that leaves takes nothing from the others."""
    threads = HeldThreads()
    credentials = credentials_from(clock, amazon, threads)
    waiting = [credentials.current() for _ in range(20)]
    left = waiting.pop()
    left.addErrback(lambda _: None)
    left.cancel()
    assert len(threads.waiting) == 1
    threads.step()
    assert {result(each).danger_text for each in waiting} == {"password-1"}
    assert clock.getDelayedCalls() == []


def test_a_renewal_that_fails_is_tried_again_while_the_secret_lives(
    clock: Clock, credentials: RenewingCredential, amazon: Aws
) -> None:
    """An outage of AWS in the hours before the end fails no pull, and is not hammered."""
    first = result(credentials.current())
    amazon.fault = UpstreamUnavailable("ours", "AWS is out")
    clock.advance(10 * HOUR)
    for _ in range(10):
        assert result(credentials.current()) == first
    assert len(amazon.asked) == 2
    clock.advance(MIN_INTERVAL)
    assert result(credentials.current()) == first
    assert len(amazon.asked) == 3
    clock.advance(2 * HOUR)
    assert isinstance(failing(credentials.current()), UpstreamUnavailable)


def test_a_failure_is_shared_for_a_moment(clock: Clock, credentials: RenewingCredential, amazon: Aws) -> None:
    """A hundred pulls without AWS credentials are a hundred answers and one question; a new pull soon asks again."""
    amazon.fault = UpstreamDenied("ours", "no AWS credentials")
    for _ in range(100):
        assert isinstance(failing(credentials.current()), UpstreamDenied)
    assert len(amazon.asked) == 1
    amazon.fault = None
    clock.advance(FAILURE_SHARED)
    assert result(credentials.current()).username == "AWS"


def test_a_refused_secret_is_replaced_at_once(clock: Clock, credentials: RenewingCredential, amazon: Aws) -> None:
    """After a 401 or a 403 that says it is too old, hours before its end."""
    first = result(credentials.current())
    clock.advance(MIN_INTERVAL)
    assert result(credentials.refused(first)) is True
    assert result(credentials.current()).danger_text == "password-2"


def test_a_secret_that_was_replaced_meanwhile_is_not_replaced_again(
    clock: Clock, credentials: RenewingCredential, amazon: Aws
) -> None:
    """Twenty pulls that were refused with the same secret cost one new one."""
    first = result(credentials.current())
    clock.advance(MIN_INTERVAL)
    assert [result(credentials.refused(first)) for _ in range(20)] == [True] * 20
    assert len(amazon.asked) == 2


def test_a_new_secret_that_is_refused_is_not_replaced(credentials: RenewingCredential, amazon: Aws) -> None:
    """A registry that refuses whatever AWS gives is not asked for ever."""
    assert result(credentials.refused(result(credentials.current()))) is False
    assert len(amazon.asked) == 1


def test_no_request_waits_for_ever(clock: Clock, amazon: Aws) -> None:
    """A credential process that hangs costs one thread and a time limit, however many pulls come."""
    threads = HeldThreads()
    credentials = credentials_from(clock, amazon, threads)
    waiting = [credentials.current() for _ in range(5)]
    clock.advance(TIMEOUT)
    assert all(isinstance(failing(each), UpstreamTimeout) for each in waiting)
    late = credentials.current()
    assert pending(late)
    assert len(threads.waiting) == 1
    threads.step()
    assert result(late).danger_text == "password-1"


def test_each_pull_waits_its_own_time(clock: Clock, amazon: Aws) -> None:
    """One that comes when AWS has been silent for a minute does not fail with the first, a moment later."""
    threads = HeldThreads()
    credentials = credentials_from(clock, amazon, threads)
    first = credentials.current()
    clock.advance(TIMEOUT - 1)
    second = credentials.current()
    clock.advance(1)
    failing(first, UpstreamTimeout)
    threads.step()
    assert result(second).danger_text == "password-1"
    assert clock.getDelayedCalls() == []


def test_a_pull_that_leaves_stops_its_clock(clock: Clock, amazon: Aws) -> None:
    """Nothing is left of it but the request to AWS, whose answer the next pull takes."""
    threads = HeldThreads()
    credentials = credentials_from(clock, amazon, threads)
    left = credentials.current()
    left.cancel()
    failing(left, CancelledError)
    assert clock.getDelayedCalls() == []
    threads.step()
    assert result(credentials.current()).danger_text == "password-1"
    assert len(amazon.asked) == 1


@pytest.mark.parametrize("text", ["", "%%%", base64.b64encode(b"no colon").decode(), "gIA="])
def test_an_answer_that_is_no_login_is_denied(clock: Clock, text: str) -> None:
    """And is not repeated in the message."""
    credentials = credentials_from(clock, lambda api: answer(text))
    fault = failing(credentials.current())
    assert isinstance(fault, UpstreamDenied)
    assert not text or text not in str(fault)


# -- hosts and settings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "api"),
    [
        (HOST, EcrApi("ecr", "eu-west-1")),
        ("123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com", EcrApi("ecr", "us-gov-west-1", fips=True)),
        ("123456789012.dkr-ecr.us-east-1.on.aws", EcrApi("ecr", "us-east-1", dual_stack=True)),
        ("123456789012.dkr-ecr-fips.us-east-1.on.aws", EcrApi("ecr", "us-east-1", fips=True, dual_stack=True)),
        ("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn", EcrApi("ecr", "cn-north-1")),
        ("123456789012.dkr-ecr.cn-north-1.on.amazonwebservices.com.cn", EcrApi("ecr", "cn-north-1", dual_stack=True)),
        ("123456789012.dkr.ecr.us-iso-east-1.c2s.ic.gov", EcrApi("ecr", "us-iso-east-1")),
        ("123456789012.dkr.ecr.eusc-de-east-1.amazonaws.eu", EcrApi("ecr", "eusc-de-east-1")),
        ("public.ecr.aws", None),
        ("registry.example", None),
        ("12345678901.dkr.ecr.eu-west-1.amazonaws.com", None),
        (f"{HOST}.attacker.example", None),
    ],
)
def test_the_region_stands_in_the_hosts_name(host: str, api: EcrApi | None) -> None:
    """Of every partition, with FIPS and dual-stack endpoints."""
    assert api_of(host) == api


def test_ecr_takes_its_secret_from_aws(clock: Clock) -> None:
    """Without a word about credentials in the configuration."""
    given: Any = Ecr().credentials(settings(), arguments(clock))
    assert given.source == "AWS ecr in eu-west-1"


@pytest.mark.parametrize(
    "files", [{"username": "AWS", "password_file": Path("/p")}, {"token_file": Path("/t")}, {"auth_file": Path("/a")}]
)
def test_the_settings_files_come_first(clock: Clock, monkeypatch: pytest.MonkeyPatch, files: dict[str, Any]) -> None:
    """With them botocore is not needed, and the host may be any."""
    monkeypatch.setattr(ecr, "find_spec", lambda name: None)
    named = settings(urls=("https://registry.example",), **files)
    Ecr().check(named)
    own: Any = Ecr().credentials(named, arguments(clock))
    assert own is None or own.source == "token_file /t"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"urls": ("https://registry.example",)}, r"upstreams\.ours\.url: registry\.example is no host of ECR"),
        (
            {"urls": (f"https://{HOST}", "https://123456789012.dkr.ecr.us-east-1.amazonaws.com")},
            r"upstreams\.ours\.url: .*different regions",
        ),
        ({"credentials": "gcp"}, r"upstreams\.ours\.credentials: 'gcp'"),
    ],
)
def test_what_cannot_work_is_refused_at_the_start(wrong: dict[str, Any], words: str) -> None:
    """With the key's path and the next step."""
    with pytest.raises(ConfigError, match=words):
        Ecr().check(settings(**wrong))


def test_without_botocore_the_next_step_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The extra is one command away."""
    monkeypatch.setattr(ecr, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'pullcache\[ecr\]'"):
        Ecr().check(settings())
    with pytest.raises(ConfigError, match=r"pip install 'pullcache\[ecr\]'"):
        EcrPublic().check(settings(kind="ecr-public", credentials="aws"))
    EcrPublic().check(settings(kind="ecr-public"))


def test_ecr_public_asks_aws_only_when_configured(clock: Clock) -> None:
    """Every client may pull from it; one that logs in may do so more often."""
    public = settings(kind="ecr-public", urls=("https://public.ecr.aws",))
    assert EcrPublic().credentials(public, arguments(clock, host="public.ecr.aws")) is None
    named = settings(kind="ecr-public", urls=("https://public.ecr.aws",), credentials="aws")
    given: Any = EcrPublic().credentials(named, arguments(clock, host="public.ecr.aws"))
    assert given.source == "AWS ecr-public in us-east-1"


# -- botocore -------------------------------------------------------------------------------------------------------


def client_error(code: str, message: str, status: int = 400) -> ClientError:
    answer: Any = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "GetAuthorizationToken")


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        (NoCredentialsError(), UpstreamDenied),
        (CredentialRetrievalError(provider="custom-process", error_msg="s3cret"), UpstreamDenied),
        (client_error("AccessDeniedException", "User: arn:aws:iam::1:user/x is not authorized"), UpstreamDenied),
        (client_error("SignatureDoesNotMatch", "x-amz-security-token:s3cret"), UpstreamDenied),
        (client_error("ThrottlingException", "Rate exceeded"), UpstreamRateLimited),
        (client_error("ServerException", "s3cret", 500), UpstreamUnavailable),
        (ConnectTimeoutError(endpoint_url="https://api"), UpstreamTimeout),
        (ReadTimeoutError(endpoint_url="https://api"), UpstreamTimeout),
        (EndpointConnectionError(endpoint_url="https://api"), UpstreamUnavailable),
        (ValueError("Invalid endpoint: https://s3cret@"), UpstreamDenied),
    ],
)
def test_every_failure_of_aws_is_one_of_ours(reason: Exception, kind: type[UpstreamError]) -> None:
    """What it says may be logged and sent to clients: there is no secret in it."""
    fault = fault_of("ours", reason)
    assert type(fault) is kind
    assert "s3cret" not in str(fault)


def test_a_life_is_counted_from_the_answers_date() -> None:
    """A clock of ours that is wrong by years neither keeps a dead token nor asks for ever."""
    answer = {
        "authorizationData": [{"authorizationToken": token("p"), "expiresAt": MOMENT + timedelta(hours=11)}],
        "ResponseMetadata": {"HTTPHeaders": {"date": DATE}},
    }
    assert lease_of("ours", answer).life == 11 * HOUR


@pytest.mark.parametrize("ends", [None, MOMENT - timedelta(days=1), MOMENT + timedelta(days=999)])
def test_a_life_is_believed_within_bounds(ends: datetime | None) -> None:
    """Missing, past or far: a token of ECR Public lives a minute at least and twelve hours at most."""
    answer = {
        "authorizationData": {"authorizationToken": token("p"), "expiresAt": ends},
        "ResponseMetadata": {"HTTPHeaders": {"date": DATE}},
    }
    assert 60 <= lease_of("ours", answer).life <= 12 * HOUR


def proxies_of(named: UpstreamSettings, environ: Mapping[str, str]) -> dict[str, str] | None:
    proxy = proxies_for(named, environ).https
    return danger_proxies(named, lambda: None if proxy is None else proxy.danger_url())


PROXY = {"http": "http://proxy:3128", "https": "http://proxy:3128"}


@pytest.mark.parametrize(
    ("more", "environ", "proxies"),
    [
        ({}, {"HTTPS_PROXY": "http://proxy:3128"}, None),
        ({"proxy": "none"}, {"HTTPS_PROXY": "http://proxy:3128"}, {}),
        ({"proxy": "http://proxy:3128"}, {}, PROXY),
        ({"proxy": "http://proxy:3128"}, {"NO_PROXY": "*"}, PROXY),
    ],
)
def test_aws_is_asked_through_the_upstreams_proxy(
    more: dict[str, Any], environ: dict[str, str], proxies: dict[str, str] | None
) -> None:
    """Without one botocore goes by the environment, as we do."""
    assert proxies_of(settings(**more), environ) == proxies


def test_a_proxy_that_wants_a_login_gets_it(tmp_path: Path) -> None:
    """Signs that mean something in a URL are quoted."""
    (tmp_path / "p").write_text("p@ss/w\n")
    named = settings(proxy="http://proxy:3128", proxy_username="u", proxy_password_file=tmp_path / "p")
    expected = dict.fromkeys(("http", "https"), "http://u:p%40ss%2Fw@proxy:3128")
    assert proxies_of(named, {}) == expected


class Amazon(BaseHTTPRequestHandler):
    """GetAuthorizationToken as AWS's API answers it (JSON 1.1)."""

    status = 200
    answer: dict[str, Any] = {}
    targets: list[str] = []

    def do_POST(self) -> None:
        body = json.dumps(self.answer).encode()
        self.targets.append(self.headers["X-Amz-Target"])
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(self.status)
        self.send_header("Content-Type", "application/x-amz-json-1.1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def date_time_string(self, timestamp: float | None = None) -> str:
        return DATE

    def log_message(self, *args: object) -> None:
        """Nothing is printed."""


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Amazon]]:
    """AWS's API on the loopback interface, for botocore as the environment configures it."""

    class Fresh(Amazon):
        targets: list[str] = []

    server = HTTPServer(("127.0.0.1", 0), Fresh)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    for name in ("AWS_ENDPOINT_URL_ECR", "AWS_ENDPOINT_URL_ECR_PUBLIC"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    yield Fresh
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.process
@pytest.mark.parametrize(
    ("api", "target"),
    [
        (EcrApi("ecr", "eu-west-1"), "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken"),
        (EcrApi("ecr-public", "us-east-1"), "SpencerFrontendService.GetAuthorizationToken"),
    ],
)
def test_botocore_asks_and_understands(endpoint: type[Amazon], api: EcrApi, target: str) -> None:
    """The private API gives a list of authorizations and the public one a single one; both live for their time."""
    data = {"authorizationToken": token("p"), "expiresAt": MOMENT.timestamp() + 2 * HOUR}
    endpoint.answer = {"authorizationData": [data] if api.service == "ecr" else data}
    given = lease_of("ours", ask_botocore(settings(), lambda: None, api))
    assert (given.secret.username, given.secret.danger_text) == ("AWS", "p")
    assert given.life == 2 * HOUR
    assert endpoint.targets == [target]


@pytest.mark.process
def test_botocore_is_refused(endpoint: type[Amazon]) -> None:
    """The answer names who may not do what."""
    endpoint.status = 400
    endpoint.answer = {"__type": "AccessDeniedException", "message": "User: arn:aws:iam::1:user/x is not authorized"}
    with pytest.raises(UpstreamDenied, match=r"^ours: AWS answered 400 AccessDeniedException: User: arn:aws:iam::1"):
        ask_botocore(settings(), lambda: None, EcrApi("ecr", "eu-west-1"))


@pytest.mark.process
def test_an_environment_that_botocore_cannot_use_is_a_denial(
    endpoint: type[Amazon], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it raises, a pull is answered in our words."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_ECR", "no url")
    with pytest.raises(UpstreamDenied, match=r"AWS gave no authorization token \(ValueError\)"):
        ask_botocore(settings(), lambda: None, EcrApi("ecr", "eu-west-1"))
