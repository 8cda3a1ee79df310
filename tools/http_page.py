"""The reference of the HTTP API, made of its OpenAPI description."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]
OPENING = (
    "The same description is shown by every service at `/docs`, where calls can be tried, and stands in `openapi.json`."
)
METHODS = ("get", "post", "put", "patch", "delete")


def page(description: Schema) -> str:
    """Every operation and every object, as Markdown. `description` is the parsed openapi.json."""
    schemas = description["components"]["schemas"]
    lines = ["# HTTP reference", "", OPENING, "", description["info"]["description"].strip(), ""]
    for tag, operations in _by_tag(description["paths"]).items():
        lines += [f"## {tag.capitalize()}", ""]
        for method, path, operation in operations:
            lines += [*_operation(method, path, operation, schemas), ""]
    lines += ["## Objects", ""]
    for name, schema in schemas.items():
        if not name.startswith(("Body_", "Listing_")):
            lines += [f"### {name}", "", *_paragraph(schema.get("description")), *_fields(schema), ""]
    return "\n".join(lines).rstrip() + "\n"


def _by_tag(paths: Schema) -> dict[str, list[tuple[str, str, Schema]]]:
    found: dict[str, list[tuple[str, str, Schema]]] = {}
    for path, operations in paths.items():
        for method, operation in operations.items():
            if method in METHODS:
                found.setdefault(operation["tags"][0], []).append((method.upper(), path, operation))
    return found


def _operation(method: str, path: str, operation: Schema, schemas: Schema) -> Iterator[str]:
    yield f"### {method} {path}"
    yield ""
    yield f"{operation['summary']}. Scope: {_scope(operation)}."
    yield ""
    yield from _paragraph(operation.get("description"))
    parameters = operation.get("parameters", [])
    if parameters:
        yield "| Parameter | In | Type | |"
        yield "|---|---|---|---|"
        for one in parameters:
            kind = _type(one["schema"]) + ("" if one.get("required") else ", optional")
            yield f"| `{one['name']}` | {one['in']} | {kind} | {_cell(one.get('description'))} |"
        yield ""
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"Body, `{media}`:"
        yield ""
        yield from _body(content["schema"], schemas)
        yield ""
    yield from _answers(operation["responses"])


def _scope(operation: Schema) -> str:
    scopes = [scope for each in operation.get("security", []) for names in each.values() for scope in names]
    return " and ".join(f"`{scope}`" for scope in scopes) if scopes else "none; no key is asked for"


def _body(schema: Schema, schemas: Schema) -> list[str]:
    name = _name(schema)
    return _fields(schemas[name]) if name in schemas else [_type(schema)]


def _answers(responses: Schema) -> Iterator[str]:
    problems = []
    for status, response in responses.items():
        content = response.get("content", {})
        if "application/problem+json" in content:
            problems.append(status)
            continue
        kinds = [_type(each["schema"]) if each.get("schema") else f"`{media}`" for media, each in content.items()]
        words = response["description"]
        said = "" if words == "Successful Response" else f": {words[0].lower()}{words[1:]}".rstrip(".")
        yield f"- {status}: {' or '.join(kinds) or 'no content'}{said}"
    if problems:
        yield f"- Problems: {', '.join(problems)}"


def _fields(schema: Schema) -> list[str]:
    properties = schema.get("properties")
    if not properties:
        return [_type(schema)]
    needed = schema.get("required", ())
    rows = ["| Field | Type | |", "|---|---|---|"]
    for name, field in properties.items():
        optional = "" if name in needed else ", optional"
        rows.append(f"| `{name}` | {_type(field)}{optional} | {_cell(field.get('description'))} |")
    return rows


def _name(schema: Schema) -> str:
    return str(schema.get("$ref", "")).rpartition("/")[2]


def _type(schema: Schema) -> str:
    """A type in words: `string`, a list of something, one of several, or the name of an object."""
    name = _name(schema)
    if name.startswith("Listing_"):
        name = name.removeprefix("Listing_").rstrip("_")
        return f"page of [{name}](#{name.lower()})"
    if name:
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(each) for each in schema["anyOf"]))
    if "enum" in schema:
        return " or ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    kind = schema.get("type", "anything")
    return f"{kind} ({schema['format']})" if "format" in schema else str(kind)


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


def _paragraph(text: str | None) -> list[str]:
    return [text.strip(), ""] if text else []
