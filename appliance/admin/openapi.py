"""The OpenAPI 3.1 document, made from the table of routes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from appliance import __version__
from appliance.admin.operators import COOKIE, CSRF
from appliance.admin.route import JSON, Parameter, Route
from appliance.api import Error

_PARAMETER = re.compile(r"<(?:[a-z]+:)?([a-z_]+)>")
_SCHEMAS = "#/components/schemas/{name}"
_SCHEMES = {
    "token": {"type": "http", "scheme": "bearer", "description": "A token of admin: token_file."},
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": COOKIE,
        "description": f"Set by /login, _PORT behind its name; what changes something also has {CSRF}.",
    },
}


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """
    The document (OpenAPI Specification 3.1.0).

    @param routes: all there are.
    """
    kinds = [kind for route in routes for kind in (route.takes, route.gives) if kind is not None]
    typed = [kind for kind in kinds if not isinstance(kind, str)]
    schemas, components = msgspec.json.schema_components([*typed, Error], ref_template=_SCHEMAS)
    known = {str(kind): schema for kind, schema in zip([*typed, Error], schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(path_of(route), {})[route.method.lower()] = _operation(route, known)
    return {
        "openapi": "3.1.0",
        "info": {"title": "pullcache", "version": __version__},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": _SCHEMES},
    }


def path_of(route: Route) -> str:
    """The route's path as OpenAPI writes it."""
    return _PARAMETER.sub(r"{\1}", route.path)


def _operation(route: Route, known: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": route.summary,
        "description": f"For {'everybody' if route.role is None else f'the role {route.role.word}'}.",
        "security": [{name: []} for name in _SCHEMES] if route.role is not None else [],
        "operationId": re.sub(r"\W+", "_", route.name).strip("_"),
        "parameters": [
            *(
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
                for name in _PARAMETER.findall(route.path)
            ),
            *map(_in_query, route.query),
        ],
        "responses": {
            str(route.status): {"description": "Done.", "content": _content(route.gives, known)},
            "default": {"description": "Not done.", "content": _content(Error, known)},
        },
    }
    if route.takes is not None:
        operation["requestBody"] = {"required": True, "content": _content(route.takes, known)}
    return operation


def _content(kind: Any, known: dict[str, Any]) -> dict[str, Any]:
    return {kind: {}} if isinstance(kind, str) else {JSON: {"schema": known[str(kind)]}}


def _in_query(parameter: Parameter) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "boolean"} if parameter.flag else {"type": "string"}
    if parameter.repeated:
        schema = {"type": "array", "items": schema}
    return {"name": parameter.name, "in": "query", "description": parameter.summary, "schema": schema}
