"""The API as one HTML page without scripts or anything from elsewhere, so that it works on a closed network. Pure."""

from collections.abc import Mapping
from html import escape
from typing import Any

STYLE = "body{font:16px system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}code,pre{background:#f2f2f2;padding:2px 4px}td,th{text-align:left;padding:2px 12px 2px 0;vertical-align:top}"  # noqa: E501


def page(openapi: Mapping[str, Any]) -> str:
    """HTML of an OpenAPI document: every operation with its parameters and what it answers."""
    info = openapi["info"]
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><style>{STYLE}</style>",
        f"<title>{escape(info['title'])}</title>",
        f"<h1>{escape(info['title'])}</h1><p>{escape(info.get('description', ''))}</p>",
        "<p>Machine-readable: <a href=/openapi.json>/openapi.json</a></p>",
    ]
    for path, operations in openapi["paths"].items():
        for method, operation in operations.items():
            parts.append(_operation(method, path, operation))
    return "".join(parts)


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    rows = "".join(_parameter(p) for p in operation.get("parameters", []))
    table = f"<table><tr><th>parameter<th>in<th>type<th>what</tr>{rows}</table>" if rows else ""
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    answer = operation.get("responses", {}).get("200", operation.get("responses", {}).get(200, {}))
    schema = answer.get("content", {}).get("application/json", {}).get("schema")
    return (
        f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(operation.get('summary', ''))}</p>{table}"
        f"{_fields('body', body)}{_fields('answer', schema)}"
    )


def _parameter(parameter: Mapping[str, Any]) -> str:
    schema = parameter.get("schema", {})
    bounds = [f"{word} {schema[key]}" for key, word in (("minimum", "from"), ("maximum", "to")) if key in schema]
    default = [f"default {schema['default']}"] if "default" in schema else []
    kind = ", ".join([schema.get("type", "any"), *bounds, *default])
    return (
        f"<tr><td><code>{escape(parameter['name'])}</code><td>{escape(parameter['in'])}<td>{escape(kind)}"
        f"<td>{escape(parameter.get('description', ''))}</tr>"
    )


def _fields(what: str, schema: Mapping[str, Any] | None) -> str:
    if not schema or "properties" not in schema:
        return ""
    names = ", ".join(f"<code>{escape(name)}</code>" for name in schema["properties"])
    return f"<p>{what}: {names}</p>"
