"""/docs: the admin's desk. Swagger UI from an installed package, served by us: it opens without a network.

The key that is pasted there is kept nowhere: closing or reloading the page forgets it. The page may load and call
nothing but this service (its Content-Security-Policy), and nothing of it is written into the page as a script.
"""

from __future__ import annotations

from html import escape
from importlib import resources
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles

from service.api.deps import located
from service.api.front import front_router
from service.api.problems import table
from service.api.schemas.common import Problem
from service.errors import URN

STATIC = "/docs-static"
START = "/docs/start.js"
DOCUMENT = "/openapi.json"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="stylesheet" href="{static}/swagger-ui.css">
<link rel="icon" href="{static}/favicon-32x32.png">
</head>
<body>
<div id="swagger-ui" data-description="{description}"></div>
<script src="{static}/swagger-ui-bundle.js"></script>
<script src="{start}"></script>
</body>
</html>
"""

SCRIPT = """localStorage.removeItem("authorized");  // an earlier release kept keys there
SwaggerUIBundle({
  url: document.getElementById("swagger-ui").dataset.description,
  dom_id: "#swagger-ui",
  layout: "BaseLayout",
  deepLinking: true,
  displayRequestDuration: true,
  persistAuthorization: false,
  showExtensions: true,
  showCommonExtensions: true,
  presets: [SwaggerUIBundle.presets.apis, SwaggerUIBundle.SwaggerUIStandalonePreset],
});
"""

TAGS = [
    {"name": "samples", "description": "Contribute images, and list the samples of an owner."},
    {"name": "erasures", "description": "Take samples back out of the model, exactly. Use stops with the answer."},
    {"name": "predictions", "description": "Classify images with the prompts of their clusters."},
    {"name": "model", "description": "What has been learned, cluster by cluster."},
    {"name": "operations", "description": "Health, status and metrics."},
]

DESCRIPTION = """
Press **Authorize** and paste an API key (embedded mode leaves an admin key in `DATA/admin-key`), then try
any call here.

Every error is `application/problem+json` (RFC 9457), of a kind listed below. Every response carries `X-Request-Id`.
Whatever an operation does not know by name is refused (422): query parameters, form fields, members of JSON; and so is
what comes twice, and a body where none is read. A method that a path does not have is 405, headers beyond measure are
431.

### An image as the body itself

`POST /samples` and `POST /predict` also take a single image as the body, as `application/octet-stream` or `image/*`.
Of a sample, `label` and `owner` are then said in the query (mind who logs it), which is for nothing else:

    curl --data-binary @cat.jpg -H 'Content-Type: image/jpeg' -H "Authorization: Bearer $KEY" \\
      "$API/samples?label=tabby%20cat&owner=customer-4711"

### Problems

A problem's `code` names its kind, and so does its `type`, `URN` and the code. Neither ever changes; titles and details
are for people.

PROBLEMS
""".replace("URN", URN).replace("PROBLEMS", table())


def describe(app: FastAPI) -> None:
    """Describe the API in full; `app.openapi()` says it, whether or not it is shown."""

    def description() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _openapi(app)
        return app.openapi_schema

    app.openapi = description  # type: ignore[method-assign]  # FastAPI's documented way to extend the schema


def install(app: FastAPI) -> APIRouter:
    """Add /docs and its scripts, and the description; their router."""
    assets = resources.files("fastapi_swagger") / "resources"
    app.mount(STATIC, StaticFiles(directory=str(assets)), name="docs-static")
    router = front_router(include_in_schema=False)

    @router.get("/docs")
    async def page(request: Request) -> HTMLResponse:
        places = {"static": STATIC, "start": START, "description": DOCUMENT}
        seen = {name: escape(located(request, path)) for name, path in places.items()}
        return HTMLResponse(
            PAGE.format(title=escape(f"{app.title} API"), **seen), headers={"Content-Security-Policy": POLICY}
        )

    @router.get(START)
    async def start() -> Response:
        return Response(SCRIPT, media_type="text/javascript")

    @router.get(DOCUMENT)
    async def description(request: Request) -> JSONResponse:
        prefix = located(request, "")
        return JSONResponse(app.openapi() | ({"servers": [{"url": prefix}]} if prefix else {}))

    app.include_router(router)
    return router


def _openapi(app: FastAPI) -> dict[str, Any]:
    document = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=DESCRIPTION,
        routes=app.routes,
        tags=TAGS,
    )
    schemas = document["components"]["schemas"]
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(problem.pop("$defs"))
    schemas["Problem"] = problem
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    for operation in (operation for path in document["paths"].values() for operation in path.values()):
        fields = _require_form_fields(operation, schemas)
        _show_once(operation, fields)
    for schema in schemas.values():
        _show_file_choosers(schema)
    return document


def _require_form_fields(operation: dict[str, Any], schemas: dict[str, Any]) -> list[str]:
    """A form's fields are optional in code where the body may be an image instead; in a form they are not. Their names.

    [] for an operation whose body is always a form, or none.
    """
    form = operation.get("requestBody", {}).get("content", {}).get("multipart/form-data", {}).get("schema", {})
    required = form.pop("required", None)
    if required is None:
        return []
    schema = schemas[form["$ref"].rsplit("/", 1)[1]]
    schema["required"] = required
    for name, field in schema["properties"].items():
        (meant,) = (choice for choice in field.pop("anyOf") if choice != {"type": "null"})
        schema["properties"][name] = meant | field
    return list(schema["properties"])


def _show_once(operation: dict[str, Any], fields: list[str]) -> None:
    """What is said in a form or, of an image as the body itself, in the query: shown in the form; DESCRIPTION tells."""
    if "parameters" in operation:
        shown = [one for one in operation["parameters"] if one["in"] != "query" or one["name"] not in fields]
        operation["parameters"] = shown


def _show_file_choosers(schema: dict[str, Any]) -> None:
    """Swagger UI knows a list of files by `format: binary` alone, not by the `contentMediaType` that FastAPI writes."""
    for field in schema.get("properties", {}).values():
        for part in (field, field.get("items", {})):
            if part.get("contentMediaType") == "application/octet-stream":
                part["format"] = "binary"
