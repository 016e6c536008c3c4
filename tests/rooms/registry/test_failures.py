"""The one table from errors to what clients see."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance import errors
from appliance.flow.disk import InlineThreads
from appliance.registry.failures import for_clients, internal, refusal
from appliance.registry.request import etag_matches, quotable
from appliance.upstream.credentials.configured import SecretFile
from appliance.upstream.http.proxy import Proxy
from appliance.upstream.url import Url

UP = "docker.io"
TABLE = [
    (errors.DigestInvalid("x"), 400, "DIGEST_INVALID"),
    (errors.NameInvalid("x"), 400, "NAME_INVALID"),
    (errors.TagInvalid("x"), 400, "TAG_INVALID"),
    (errors.RequestInvalid("Host: is no name"), 400, "UNSUPPORTED"),
    (errors.HostUnknown("nothing here is called x"), 421, "DENIED"),
    (errors.ForeignPage("a web page"), 403, "DENIED"),
    (errors.PathInvalid("x"), 400, "NAME_INVALID"),
    (errors.NamespaceConflict("x"), 400, "NAME_INVALID"),
    (errors.QueryInvalid("x"), 400, "PAGINATION_NUMBER_INVALID"),
    (errors.RangeInvalid("x"), 400, "RANGE_INVALID"),
    (errors.RangeUnsatisfiable(7), 416, "RANGE_INVALID"),
    (errors.UpstreamUnknown("x"), 404, "NAME_UNKNOWN"),
    (errors.LoginRequired("x"), 401, "UNAUTHORIZED"),
    (errors.LoginWrong("x"), 401, "UNAUTHORIZED"),
    (errors.AccessDenied("x"), 404, "MANIFEST_UNKNOWN"),
    (errors.LoginExposed(), 403, "DENIED"),
    (errors.ClientLimited("x", 3), 429, "TOOMANYREQUESTS"),
    (errors.LoginsBusy(), 429, "TOOMANYREQUESTS"),
    (errors.LoginUnavailable("x"), 503, "UNAVAILABLE"),
    (errors.NotPermitted("x"), 403, "DENIED"),
    (errors.NotHeld("x"), 404, "MANIFEST_UNKNOWN"),
    (errors.Offline("x"), 404, "MANIFEST_UNKNOWN"),
    (errors.ReferrersUnknown("x"), 502, "UNAVAILABLE"),
    (errors.Unsupported("x"), 405, "UNSUPPORTED"),
    (errors.UpstreamMissing(UP, "x"), 404, "MANIFEST_UNKNOWN"),
    (errors.UpstreamMissing(UP, "x", True), 404, "NAME_UNKNOWN"),
    (errors.UpstreamDenied(UP, "x"), 404, "NAME_UNKNOWN"),
    (errors.UpstreamRateLimited(UP, "x"), 429, "TOOMANYREQUESTS"),
    (errors.UpstreamTimeout(UP, "x"), 504, "UNAVAILABLE"),
    (errors.UpstreamUnavailable(UP, "x"), 502, "UNAVAILABLE"),
    (errors.UpstreamInvalid(UP, "x"), 502, "UNAVAILABLE"),
    (errors.UpstreamRefused(UP, "x"), 502, "UNAVAILABLE"),
    (errors.RangeIgnored(UP, "x"), 502, "UNAVAILABLE"),
]


@pytest.mark.parametrize(("error", "status", "code"), TABLE, ids=lambda each: type(each).__name__)
def test_each_error_has_its_status_and_code(error: Exception, status: int, code: str) -> None:
    """As an OCI error document with the error's own words."""
    told = refusal(error, "manifest")
    assert told is not None and told.status == status
    document = json.loads(told.body)["errors"]
    assert [each["code"] for each in document] == [code] and document[0]["message"] == str(error)


def test_every_error_that_an_upstream_or_a_request_can_cause_is_in_the_table() -> None:
    """A new one without a row would be an internal error to clients."""
    ours = {errors.ConfigError, errors.ManifestInvalid, errors.PullcacheError, errors.UpstreamError}
    classes = {
        each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, errors.PullcacheError)
    }
    stored = {each for each in classes if issubclass(each, errors.StoreError)}
    # Bundles and removals are the admin endpoint's and the command's business; no client of the registry meets one.
    operators = errors.BundleError | errors.NotOneBundle | errors.RemovalRefused
    carried = {each for each in classes if issubclass(each, operators)}
    assert classes - stored - carried - ours == {type(error) for error, _, _ in TABLE}


@pytest.mark.parametrize(
    ("kind", "code"),
    [("manifest", "MANIFEST_UNKNOWN"), ("blob", "BLOB_UNKNOWN"), ("tags", "NAME_UNKNOWN"), ("other", "NAME_UNKNOWN")],
)
def test_what_is_missing_is_named_by_its_kind(kind: str, code: str) -> None:
    """podman falls back to another mirror on BLOB_UNKNOWN."""
    for error in (errors.NotHeld("x"), errors.Offline("x"), errors.UpstreamMissing(UP, "x")):
        told = refusal(error, kind)
        assert told is not None and json.loads(told.body)["errors"][0]["code"] == code


def test_headers_of_refusals() -> None:
    """Retry-After in whole seconds, rounded up; the size with 416; the methods with 405."""

    def headers(error: Exception) -> dict[str, str]:
        told = refusal(error, "blob")
        assert told is not None
        return told.headers

    assert headers(errors.UpstreamRateLimited(UP, "x", 1.2)) == {"Retry-After": "2"}
    assert headers(errors.UpstreamRateLimited(UP, "x")) == {"Retry-After": "60"}
    assert headers(errors.RangeUnsatisfiable(7)) == {"Content-Range": "bytes */7"}
    assert headers(errors.Unsupported("x")) == {"Allow": "GET, HEAD"}
    assert headers(errors.UpstreamDenied(UP, "x")) == {}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (errors.UpstreamMissing(UP, "x"), "pullcache; fwd=uri-miss; fwd-status=404"),
        (errors.UpstreamMissing(UP, "x", remembered=True), "pullcache; hit; detail=missing"),
        (errors.UpstreamDenied(UP, "x"), "pullcache; fwd=uri-miss; detail=denied"),
        (errors.UpstreamRateLimited(UP, "x"), "pullcache; fwd=uri-miss; detail=rate_limited"),
        (errors.UpstreamTimeout(UP, "x"), "pullcache; fwd=uri-miss; detail=unavailable"),
        (errors.UpstreamInvalid(UP, "x"), "pullcache; fwd=uri-miss; detail=unavailable"),
        (errors.Offline("x"), "pullcache; detail=offline"),
        (errors.NotHeld("x"), "pullcache; detail=not-held"),
        (errors.DigestInvalid("x"), "None"),
        (errors.NotPermitted("x"), "None"),
    ],
    ids=lambda each: type(each).__name__,
)
def test_a_refusal_says_where_it_came_from(error: Exception, said: str) -> None:
    """In the words of RFC 9211; nothing where the request alone was wrong."""
    told = refusal(error, "manifest")
    assert told is not None and str(told.cache) == said


def test_a_mistake_of_ours_tells_nothing() -> None:
    """No text of the exception reaches the client."""
    assert refusal(ZeroDivisionError("secret"), "blob") is None
    assert internal().status == 500 and b"secret" not in internal().body


@given(st.text())
def test_a_warning_fits_into_a_header(text: str) -> None:
    """Printable ASCII without quotes and backslashes, bounded."""
    safe = quotable(text)
    assert safe.isascii() and (safe.isprintable() or not safe) and not set(safe) & {'"', "\\"} and len(safe) <= 1000


@pytest.mark.parametrize(
    ("values", "matches"),
    [
        (["d"], True),
        (['"d"'], True),
        (['W/"d"'], True),
        (["*"], True),
        (['"a", "d"'], True),
        (['"a"', '"d"'], True),
        (['"a"'], False),
        ([""], False),
        ([], False),
        (['"dd"'], False),
    ],
)
def test_an_entity_tag_in_any_clothes(values: list[str], matches: bool) -> None:
    """Quoted, bare, weak, in lists and several lines (RFC 9110 section 13.1.2)."""
    assert etag_matches(values, "d") is matches


# -- what is of this site alone -------------------------------------------------------------------------------------

PROXY = Proxy(Url.parse("http://squid.corp:3128"), "HTTPS_PROXY")
INTERNAL = [
    (f"{PROXY.shown}: cannot connect: refused", "the proxy: cannot connect: refused"),
    (f"{PROXY.shown}: CONNECT h:443 answered 403", "the proxy: CONNECT h:443 answered 403"),
    (f"through {Proxy(Url.parse('https://[fd00::1]:8443'), 'x').shown}", "through the proxy"),
    ("the password from /etc/pullcache/hub.secret was refused", "the password from [file] was refused"),
    ("cannot read '/srv/my files/token': no", "cannot read '[file]': no"),
    (
        "store /var/lib/pullcache: cannot be written; check (/var/lib)",
        "store [file]: cannot be written; check ([file])",
    ),
    (
        "led to cdn.example (10.0.0.7, 8.8.8.8, fd00::1)",
        "led to cdn.example ([private address], 8.8.8.8, [private address])",
    ),
    ("GET http://192.168.3.4:5000/v2/a/b answered 500", "GET http://[private address]:5000/v2/a/b answered 500"),
    ("GET https://[fe80::1]:5000/v2/: no", "GET https://[private address]:5000/v2/: no"),
]
HARMLESS = [
    "GET https://registry-1.docker.io/v2/library/nginx/manifests/1.27 answered 503: try later",
    f"library/nginx@sha256:{'a' * 64}: 5 bytes of another digest came",
    "GET /v2/ answered 500 at 2026-11-21T08:05:06+00:00, 08:00:00, version 1.2.3.4.5, a/b:1.2.3",
    "application/vnd.oci.image.index.v1+json and 100;w=21600",
]


@pytest.mark.parametrize(("said", "told"), INTERNAL)
def test_clients_see_no_path_no_proxy_and_no_address_of_ours(said: str, told: str) -> None:
    """What went wrong, without a map of the site; operators read the whole in the log and in the status."""
    for error in (errors.UpstreamUnavailable(UP, said), errors.UpstreamDenied(UP, said), errors.StoreError(said)):
        answer = refusal(error, "manifest")
        assert answer is not None and said in str(error)
        assert json.loads(answer.body)["errors"][0]["message"] == str(error).replace(said, told)


@pytest.mark.parametrize("path", ["/srv/my secrets/hub.txt", "/srv/a,b;c (d)/hub.txt", "/srv/pull's/hub.txt"])
def test_a_file_of_any_name_is_left_out(path: str) -> None:
    """Of a secret's file, clients see that it cannot be used."""
    for name in ("password_file", "token_file", "auth_file"):
        file = SecretFile(name, Path(path), "up.example", InlineThreads())
        fault = file.fault("cannot be read: No such file or directory")
        answer = refusal(fault, "manifest")
        assert answer is not None and b"cannot be read" in answer.body
        assert not any(part in answer.body for part in (b"srv", b"secrets", b"hub.txt", b"b;c", b"pull"))


@pytest.mark.parametrize("said", HARMLESS)
def test_everything_else_is_sent_as_it_is(said: str) -> None:
    """URLs of a registry, digests, moments and numbers are no secret."""
    assert for_clients(said) == said


def test_a_clients_own_words_stay() -> None:
    """A client that asks for an address gets that address in the answer."""
    for error in (errors.UpstreamUnknown("10.0.0.5: no such upstream"), errors.NameInvalid("'/etc/passwd' is no name")):
        answer = refusal(error, "manifest")
        assert answer is not None and json.loads(answer.body)["errors"][0]["message"] == str(error)


@given(st.text())
def test_what_clients_see_is_one_line_that_drives_no_terminal(said: str) -> None:
    """Whatever an upstream wrote into its answer."""
    assert for_clients(said).isprintable()
