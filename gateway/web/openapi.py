"""The OpenAPI document of a REST interface, made from its routes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from gateway.journal.canonical import JsonValue
from gateway.web.routes import ANYTHING, JSON_TYPE, Field, Route

P = TypeVar("P")
JsonObject = dict[str, JsonValue]
_PROBLEM: JsonObject = {
    "description": "what speaks against it",
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}


@dataclass(frozen=True, slots=True)
class Interface:
    """What a document says beside its routes. ``schemes`` are the ways to prove who asks, each of which is enough."""

    title: str
    description: str
    server: str
    schemes: Mapping[str, JsonObject]


def document(interface: Interface, routes: Sequence[Route[P]]) -> JsonObject:
    """OpenAPI 3.1."""
    paths: dict[str, JsonValue] = {}
    for route in routes:
        operations = paths.setdefault(route.path, {})
        assert isinstance(operations, dict)  # noqa: S101 - made here
        operations[route.method.lower()] = _operation(route)
    return {
        "openapi": "3.1.0",
        "info": {"title": interface.title, "version": "1", "description": interface.description},
        "servers": [{"url": interface.server}],
        "security": [{name: []} for name in interface.schemes],
        "paths": paths,
        "components": {
            "securitySchemes": dict(interface.schemes),
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


def _operation(route: Route[P]) -> JsonObject:
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
        operation["requestBody"] = {"required": True, "content": {route.takes: {"schema": {}}}}
    elif route.body:
        operation["requestBody"] = {"required": True, "content": {JSON_TYPE: {"schema": _body(route.body)}}}
    return operation


def _identifier(route: Route[P]) -> str:
    words = [each.strip("{}") for each in route.path.split("/") if each]
    return "-".join((route.method.lower(), *words))


def _schema(each: Field) -> JsonObject:
    return {} if each.type == ANYTHING else {"type": each.type}


def _body(fields: Sequence[Field]) -> JsonObject:
    required: list[JsonValue] = [each.name for each in fields if each.required]
    properties: JsonObject = {each.name: {**_schema(each), "description": each.about} for each in fields}
    schema: JsonObject = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**schema, "required": required} if required else schema


def text(interface: Interface, routes: Sequence[Route[P]]) -> str:
    """As it is checked in."""
    return json.dumps(document(interface, routes), indent=1, ensure_ascii=False, sort_keys=True) + "\n"
