"""The OpenAPI document of the REST interface, made from its routes; ``docs/central-openapi.json`` is what it gives.

``python -m sync.central.openapi`` prints it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from gateway.journal.canonical import JsonValue
from sync.central.routes import ANYTHING, JSON_TYPE, OCTETS_TYPE, Field, Route

JsonObject = dict[str, JsonValue]
_PROBLEM: JsonObject = {
    "description": "what speaks against it",
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}


def document(routes: Sequence[Route]) -> JsonObject:
    """OpenAPI 3.1."""
    paths: dict[str, JsonValue] = {}
    for route in routes:
        operations = paths.setdefault(route.path, {})
        assert isinstance(operations, dict)  # noqa: S101 - made here
        operations[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "edge-central",
            "version": "1",
            "description": "Gateways, certificates, settings and alerts of a central. Times are UTC ms, serial numbers hex. "
            "Lists are given page by page: send `next` as `after`. Every change needs an Idempotency-Key.",
        },
        "servers": [{"url": "/api/v1"}],
        "security": [{"bearer": []}, {"certificate": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "certificate": {"type": "mutualTLS"},
            },
            "schemas": {
                "Problem": {
                    "type": "object",
                    "description": "RFC 9457; hint says what to do",
                    "properties": {
                        "type": {"type": "string"}, "title": {"type": "string"}, "status": {"type": "integer"},
                        "detail": {"type": "string"}, "hint": {"type": "string"},
                    },
                }
            },
        },
    }  # fmt: skip


def _operation(route: Route) -> JsonObject:
    parameters: list[JsonValue] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in route.variables
    ]
    parameters += [
        {"name": each.name, "in": "query", "description": each.about, "required": each.required, "schema": _schema(each)}
        for each in route.query
    ]
    if route.changes:
        parameters.append({"name": "Idempotency-Key", "in": "header", "required": True, "schema": {"type": "string"}})
    success: JsonObject = {"description": route.gives}
    if route.status != 204:
        success["content"] = {route.media: {"schema": {"type": "object"} if route.media == JSON_TYPE else {}}}
    operation: JsonObject = {
        "operationId": _identifier(route), "summary": route.summary, "parameters": parameters,
        "responses": {str(route.status): success, "default": _PROBLEM},
    }  # fmt: skip
    if route.octets:
        operation["requestBody"] = {"required": True, "content": {OCTETS_TYPE: {"schema": {}}}}
    elif route.body:
        operation["requestBody"] = {"required": True, "content": {JSON_TYPE: {"schema": _body(route.body)}}}
    return operation


def _identifier(route: Route) -> str:
    words = [each.strip("{}") for each in route.path.split("/") if each]
    return "-".join((route.method.lower(), *words))


def _schema(each: Field) -> JsonObject:
    return {} if each.type == ANYTHING else {"type": each.type}


def _body(fields: Sequence[Field]) -> JsonObject:
    required: list[JsonValue] = [each.name for each in fields if each.required]
    properties: JsonObject = {each.name: {**_schema(each), "description": each.about} for each in fields}
    schema: JsonObject = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**schema, "required": required} if required else schema


def text(routes: Sequence[Route]) -> str:
    return json.dumps(document(routes), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


if __name__ == "__main__":
    from sync.central.rest_answers import ROUTES

    sys.stdout.write(text(ROUTES))
