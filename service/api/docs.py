"""/docs: the admin's desk. Swagger UI from an installed package, served by us: it opens without a network."""

from __future__ import annotations

from importlib import resources
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

from service.api.schemas.common import Problem

STATIC = "/docs-static"

TAGS = [
    {"name": "samples", "description": "Contribute images, and see what is held for whom."},
    {"name": "erasures", "description": "Take samples back out of the model, exactly. Use stops with the answer."},
    {"name": "predictions", "description": "Classify images with the prompts of their clusters."},
    {"name": "model", "description": "What has been learned, cluster by cluster."},
    {"name": "operations", "description": "Health, status and metrics."},
]

DESCRIPTION = """
Press **Authorize** and paste an API key (embedded mode leaves an admin key in `DATA/admin-key`), then try
any call here.

Every error is `application/problem+json` (RFC 9457). Every response carries `X-Request-Id`.
"""


def install(app: FastAPI) -> None:
    """Add /docs and its scripts, and describe the API in full."""
    assets = resources.files("fastapi_swagger") / "resources"
    app.mount(STATIC, StaticFiles(directory=str(assets)), name="docs-static")

    @app.get("/docs", include_in_schema=False)
    async def swagger() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="/openapi.json",
            title=f"{app.title} API",
            swagger_js_url=f"{STATIC}/swagger-ui-bundle.js",
            swagger_css_url=f"{STATIC}/swagger-ui.css",
            swagger_favicon_url=f"{STATIC}/favicon-32x32.png",
            swagger_ui_parameters={"persistAuthorization": True, "displayRequestDuration": True},
        )

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _openapi(app)
        return app.openapi_schema

    app.openapi = describe  # type: ignore[method-assign]  # FastAPI's documented way to extend the schema


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
        _require_form_fields(operation, schemas)
    for schema in schemas.values():
        _show_file_choosers(schema)
    return document


def _require_form_fields(operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    """A form's fields are optional in code where the body may be an image instead; in a form they are not."""
    form = operation.get("requestBody", {}).get("content", {}).get("multipart/form-data", {}).get("schema", {})
    required = form.pop("required", None)
    if required is None:
        return
    schema = schemas[form["$ref"].rsplit("/", 1)[1]]
    schema["required"] = required
    for name, field in schema["properties"].items():
        (meant,) = (choice for choice in field.pop("anyOf") if choice != {"type": "null"})
        schema["properties"][name] = meant | field


def _show_file_choosers(schema: dict[str, Any]) -> None:
    """Swagger UI knows a list of files by `format: binary` alone, not by the `contentMediaType` that FastAPI writes."""
    for field in schema.get("properties", {}).values():
        for part in (field, field.get("items", {})):
            if part.get("contentMediaType") == "application/octet-stream":
                part["format"] = "binary"
