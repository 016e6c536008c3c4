"""The OpenAPI document: what is described is what there is."""

from __future__ import annotations

import inspect
import json
import re
from typing import Any

import pytest

from appliance import errors
from appliance.admin.failures import Refused, answer_for, internal
from tests.doubles.appliance import Appliance

PLACES = {"reference": "a/b", "export": "x", "n": "1", "receipt": "x", "sending": "x"}


@pytest.fixture(scope="module")
def site() -> Appliance:
    return Appliance()


@pytest.fixture(scope="module")
def document(site: Appliance) -> Any:
    return site.get("openapi.json")


def operations(document: Any) -> list[tuple[str, str, Any]]:
    return [(path, method, found) for path, methods in document["paths"].items() for method, found in methods.items()]


def test_every_route_is_described_and_nothing_else(site: Appliance, document: Any) -> None:
    """What the router knows and what the document says are the same."""
    rules = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in site.app._app.url_map.iter_rules()
        for method in rule.methods or ()
        if method not in ("HEAD", "OPTIONS")
    }
    assert {(path, method) for path, method, _ in operations(document)} == rules
    assert ("/api/v1/exports/{export}/volumes/{n}", "get") in rules and len(rules) >= 18


def test_every_described_route_answers(site: Appliance, document: Any) -> None:
    """Each leads somewhere: not one is an unknown page or another method's."""
    for path, method, _ in operations(document):
        filled = re.sub(r"{(\w+)}", lambda match: PLACES[match[1]], path)
        asked = site.treq.request(method.upper(), f"http://127.0.0.1:5001{filled}")
        site.treq.flush()
        response = asked.result
        content = site.treq.content(response)
        site.treq.flush()
        assert response.code != 405, filled
        if response.code == 404:
            assert json.loads(content.result)["error"]["code"] == "not-held", filled


def test_the_document_is_of_openapi_3_1(document: Any) -> None:
    """Fields as the specification wants them; no two operations have one id, and each has a summary."""
    assert document["openapi"] == "3.1.0" and document["info"]["title"] == "pullcache"
    found = [operation for _, _, operation in operations(document)]
    assert len({operation["operationId"] for operation in found}) == len(found)
    assert all(operation["summary"].endswith(".") and operation["responses"]["default"] for operation in found)


def test_the_document_says_who_may_ask(document: Any) -> None:
    """A client made from it shows a token where one is asked for."""
    schemes = document["components"]["securitySchemes"]
    assert schemes["token"]["scheme"] == "bearer" and schemes["session"]["in"] == "cookie"
    for path, _, operation in operations(document):
        is_open = path in ("/healthz", "/readyz", "/login")
        assert [name for each in operation["security"] for name in each] == ([] if is_open else list(schemes))


def test_every_place_in_a_path_is_a_parameter(document: Any) -> None:
    """A client made from the document knows what to fill in."""
    for path, _, operation in operations(document):
        named = [each["name"] for each in operation["parameters"] if each["in"] == "path"]
        assert named == re.findall(r"{(\w+)}", path)
        assert all(each["required"] for each in operation["parameters"] if each["in"] == "path")


def test_every_reference_in_the_document_leads_somewhere(document: Any) -> None:
    """And every schema is used."""
    text = json.dumps(document)
    named = set(re.findall(r'"#/components/schemas/([^"]+)"', text))
    assert named == set(document["components"]["schemas"])
    assert {"Status", "PlannedExport", "ExportOrder", "ImportOrder", "Inventory", "Receipt", "Error"} <= named


def test_the_names_of_the_schemas_stay(document: Any) -> None:
    """Programs that were generated from the document have classes of these names."""
    assert sorted(document["components"]["schemas"]) == [
        "AccessAnswer",
        "AccessReport",
        "AuditEntry",
        "AuditList",
        "CertificateStatus",
        "Change",
        "CollectionOrder",
        "CollectionReport",
        "Counts",
        "Damaged",
        "DiskStatus",
        "EarlierBundle",
        "Error",
        "ErrorDetail",
        "ExportOrder",
        "Files",
        "GoneBlob",
        "GoneImage",
        "HeldBlob",
        "Image",
        "ImageDetail",
        "ImageList",
        "ImportOrder",
        "Inventory",
        "Lack",
        "LackingBlob",
        "LastCollection",
        "LeftOver",
        "LoggedIn",
        "LoginOrder",
        "MissingBlob",
        "Pin",
        "PinList",
        "PinOrder",
        "PlannedExport",
        "PlatformState",
        "RateLimitStatus",
        "Receipt",
        "ReceiptList",
        "Received",
        "Referrer",
        "Reloaded",
        "RemovalReport",
        "ScrubOrder",
        "ScrubStatus",
        "SharedBlobs",
        "Status",
        "TagMove",
        "Totals",
        "Unreadable",
        "UpstreamSays",
        "UpstreamStatus",
        "UrlStatus",
        "VolumeFile",
        "Waiting",
        "WantEntry",
        "WantList",
    ]


def test_the_parameters_are_those_that_are_taken(site: Appliance, document: Any) -> None:
    """An export's query is described, and what is not is refused."""
    [operation] = [op for path, method, op in operations(document) if (path, method) == ("/api/v1/exports", "get")]
    kinds = {each["name"]: each["schema"]["type"] for each in operation["parameters"]}
    assert kinds == {
        "ref": "array",
        "all": "boolean",
        "since": "string",
        "platform": "array",
        "partial": "boolean",
        "complete": "boolean",
        "title": "string",
    }
    for path in ("status", "inventory", "openapi.json", "images/nginx:1"):
        assert site.error("GET", f"{path}?x=1")[1] == "bad-request"


def test_an_unknown_page_says_where_to_look(site: Appliance) -> None:
    """In JSON, wherever it is."""
    for path in ("nothing", "exports/x/y", "status/x", "", "../status"):
        code, word, message = site.error("GET", path)
        assert (code, word) == (404, "not-found") and "/api/v1/openapi.json" in message


# -- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (errors.BundleError("x"), 422, "bundle"),
        (errors.BundleUnreadable("x"), 422, "bundle-unreadable"),
        (errors.BundleNotRead("x"), 422, "bundle-not-read"),
        (errors.BundleNotStored("x"), 507, "bundle-not-stored"),
        (errors.BundleDamaged("x"), 422, "bundle-damaged"),
        (errors.BundleUntrusted("x"), 403, "bundle-untrusted"),
        (errors.BundleTooNew("x"), 422, "bundle-too-new"),
        (errors.BundleIncomplete("x"), 409, "bundle-incomplete"),
        (errors.BundleConflict("x"), 409, "bundle-conflict"),
        (errors.NotHeld("x"), 404, "not-held"),
        (errors.NameInvalid("x"), 400, "name-invalid"),
        (errors.Offline("x"), 409, "offline"),
        (errors.UpstreamTimeout("u", "x"), 502, "upstream"),
        (errors.BlobDamaged("x"), 500, "store"),
        (OSError(28, "No space left on device", "/store"), 500, "disk"),
        (Refused(415, "unsupported-media-type", "x"), 415, "unsupported-media-type"),
    ],
)
def test_each_error_has_a_status_and_a_word(error: Exception, status: int, code: str) -> None:
    """Programs decide by the word, people read the sentence."""
    found = answer_for(error)
    assert found is not None
    assert (found[0], found[1]["error"]["code"]) == (status, code)


def test_every_error_of_bundles_has_its_own_word() -> None:
    """A new one cannot be forgotten."""
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.BundleError)]
    words = [found[1]["error"]["code"] for kind in kinds if (found := answer_for(kind("x"))) is not None]
    assert len(set(words)) == len(kinds) > 5


def test_what_is_none_of_ours_is_a_mistake() -> None:
    """Nothing of it is in an answer."""
    assert answer_for(ValueError("secret")) is None
    assert "secret" not in str(internal())
