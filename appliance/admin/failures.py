"""The only table from what went wrong to what an operator reads: a status code, a word for programs, a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from werkzeug.exceptions import HTTPException

from appliance import errors


class Refused(errors.PullcacheError):
    """
    The request cannot be answered as it is.

    @ivar status: HTTP status code.
    @ivar code: in one word, for programs.
    @ivar headers: of the answer, beside the usual ones.
    """

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = headers or {}


# The first class that fits counts.
_TABLE: tuple[tuple[type[Exception], int, str], ...] = (
    (errors.DigestInvalid, 400, "digest-invalid"),
    (errors.NameInvalid, 400, "name-invalid"),
    (errors.TagInvalid, 400, "tag-invalid"),
    (errors.ConfigError, 400, "bad-request"),
    (errors.RequestInvalid, 400, "bad-request"),
    (errors.HostUnknown, 421, "host-unknown"),
    (errors.ForeignPage, 403, "foreign-page"),
    (errors.NotHeld, 404, "not-held"),
    (errors.RemovalRefused, 409, "not-removable"),
    (errors.UpstreamUnknown, 404, "upstream-unknown"),
    (errors.NotPermitted, 403, "not-permitted"),
    (errors.BundleUntrusted, 403, "bundle-untrusted"),
    (errors.BundleConflict, 409, "bundle-conflict"),
    (errors.BundleIncomplete, 409, "bundle-incomplete"),
    (errors.BundleUpstreamUnknown, 409, "bundle-upstream-unknown"),
    (errors.BundleTooNew, 422, "bundle-too-new"),
    (errors.BundleDamaged, 422, "bundle-damaged"),
    (errors.BundleNotRead, 422, "bundle-not-read"),
    (errors.BundleUnreadable, 422, "bundle-unreadable"),
    (errors.BundleNotStored, 507, "bundle-not-stored"),
    (errors.BundleError, 422, "bundle"),
    (errors.Offline, 409, "offline"),
    (errors.UpstreamError, 502, "upstream"),
    (errors.ScrubUnderWay, 409, "scrub-under-way"),
    (errors.NotSaved, 507, "not-saved"),
    (errors.StoreError, 500, "store"),
)

# Those of no row: everything else in a document says that the request cannot be met as it is.
_FAILURES = frozenset({"disk", "internal", "stopped"})

_NO_PAGE = "there is no such page here; /api/v1/openapi.json lists those there are"
_HTTP = {404: ("not-found", _NO_PAGE), 405: ("method-not-allowed", "that method is not offered here")}


def answer_for(error: BaseException) -> tuple[int, dict[str, Any]] | None:
    """Status and document for an error, C{None} when it is in no table: a mistake of ours, to be logged."""
    if isinstance(error, HTTPException):
        code, message = _HTTP.get(error.code or 404, ("bad-request", "the request cannot be answered"))
        return error.code or 404, document(code, message)
    if isinstance(error, Refused):
        return error.status, document(error.code, str(error))
    if isinstance(error, OSError):
        # The disk's own words: no room, no such file, no permission.
        return 500, document("disk", f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}")
    for exception, status, code in _TABLE:
        if isinstance(error, exception):
            missing = isinstance(error, errors.BundleIncomplete) and list(error.missing)
            return status, document(code, str(error), **({"missing": missing} if missing else {}))
    return None


def outcome_of(found: Mapping[str, Any] | None) -> tuple[str, str]:
    """What the audit log calls an answer, and why: C{found} is the error document, C{None} where it is none."""
    if found is None:
        return "done", ""
    code = found["error"]["code"]
    is_ours = code in _FAILURES or any(word == code and status >= 500 for _, status, word in _TABLE)
    return "failed" if is_ours else "refused", found["error"]["message"]


def headers_of(error: BaseException | None) -> Mapping[str, str]:
    """What the answer to an error has in its head, beside the usual."""
    return error.headers if isinstance(error, Refused) else {}


def internal() -> tuple[int, dict[str, Any]]:
    """The answer for a mistake of ours; the log has it."""
    return 500, document("internal", "internal error; see the log of the appliance")


def document(code: str, message: str, **more: Any) -> dict[str, Any]:
    """An error document."""
    return {"error": {"code": code, "message": message, **more}}
