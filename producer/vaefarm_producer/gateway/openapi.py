"""The OpenAPI 3.1 document, made from the table of routes and the models that validate, and a page that renders it."""

import re
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from typing import Any, Final

from aiohttp import web
from openapi_pydantic import OpenAPI
from openapi_pydantic.util import PydanticSchema, construct_open_api_with_schema_class
from pydantic import BaseModel

from .models import Problem
from .routes import ROUTES, Access, Route

#: What any route may answer besides, and why.
PROBLEMS: Final[dict[int, str]] = {
    400: "The request is none that HTTP knows.",
    401: "No key, or one that is none.",
    403: "The key may not do this, or the call comes from a place that may not.",
    404: "No such job, as far as the caller may know.",
    408: "The body came too slowly, or ended too early.",
    409: "The job's state, or other content under its id, does not allow it.",
    410: "The job has expired.",
    413: "The body is too large.",
    422: "What was given is wrong: what, what was expected, what to do.",
    429: "The key's rate or quota is used up; Retry-After says when to try again.",
    503: "Redis is away, or the farm is full; Retry-After says when to try again.",
    504: "The wait gave up; the job lives on.",
}

#: How each kind of access is shown.
SECURITY: Final[dict[Access, list[dict[str, list[str]]]]] = {
    "open": [],
    "landing": [],
    "signed": [{"bearer": []}, {"basic": []}, {"signed": []}],
    "key": [{"bearer": []}, {"basic": []}],
    "admin": [{"bearer": []}, {"basic": []}],
}

#: What the page may load and run: its own files alone. Swagger UI writes style attributes, and draws by data URLs.
PAGE_POLICY: Final[str] = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self';"
    " frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)

#: Files of Swagger UI that the page needs, and their types.
PAGE_FILES: Final[dict[str, str]] = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "favicon-32x32.png": "image/png",
}

PAGE: Final[str] = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>vaefarm: HTTP API</title>
<link rel="stylesheet" href="/docs/swagger-ui.css">
<link rel="icon" type="image/png" href="/docs/favicon-32x32.png">
</head>
<body>
<div id="page"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/page.js"></script>
</body>
</html>
"""

#: Inline scripts are not allowed, so the page's three lines are a file too.
PAGE_SCRIPT: Final[str] = (
    'SwaggerUIBundle({url: "/openapi.json", dom_id: "#page", deepLinking: true, validatorUrl: null,'
    " tryItOutEnabled: false});\n"
)


async def get_document(request: web.Request) -> web.Response:
    """The document."""
    return web.Response(body=document(request.app), content_type="application/json")


async def get_page(_: web.Request) -> web.Response:
    """The page."""
    return web.Response(text=PAGE, content_type="text/html", headers={"Content-Security-Policy": PAGE_POLICY})


async def get_page_file(request: web.Request) -> web.Response:
    """A file of the page. Raises HTTPNotFound."""
    name = request.match_info["file"]
    if name == "page.js":
        return web.Response(text=PAGE_SCRIPT, content_type="text/javascript")
    if name not in PAGE_FILES:
        raise web.HTTPNotFound
    return web.Response(body=page_file(name), content_type=PAGE_FILES[name], headers={"Cache-Control": "max-age=3600"})


@cache
def page_file(name: str) -> bytes:
    """The bytes of a file of Swagger UI."""
    return files("swagger_ui").joinpath("static", name).read_bytes()


#: Where an application keeps its document once it was made.
DOCUMENT: Final = web.AppKey("document", dict[str, bytes])


def document(app: web.Application) -> bytes:
    """The document of an application's routes, as JSON."""
    kept = app[DOCUMENT]
    if "" not in kept:
        shown = {id(route): route for route in app[ROUTES].values() if not route.is_page}
        kept[""] = describe(list(shown.values())).model_dump_json(by_alias=True, exclude_none=True, indent=1).encode()
    return kept[""]


def describe(routes: list[Route]) -> OpenAPI:
    """The document of a table of routes."""
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(plain(route.path), {})[route.method.lower()] = operation(route)
    raw = OpenAPI.model_validate(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "vaefarm",
                "version": version("vaefarm"),
                "description": "Diffusion VAE decodes off your generation GPUs. Latents in, pictures out, by job id.",
            },
            "paths": paths,
            "components": {
                "securitySchemes": {
                    "bearer": {"type": "http", "scheme": "bearer", "description": "A key."},
                    "basic": {"type": "http", "scheme": "basic", "description": "Any name; the password is a key."},
                    "signed": {"type": "apiKey", "in": "query", "name": "token", "description": "Of a signed URL."},
                }
            },
        }
    )
    return construct_open_api_with_schema_class(raw)


def plain(path: str) -> str:
    """A path as OpenAPI writes it: `{name}` without the pattern that aiohttp may have behind it."""
    return re.sub(r"\{(\w+):[^{}]*\}", r"{\1}", path)


def operation(route: Route) -> dict[str, Any]:
    """One route."""
    names = re.findall(r"\{(\w+)", route.path)
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": PATH_SCHEMAS.get(name, {"type": "string"})}
        for name in names
    ]
    if route.query is not None:
        parameters += query_parameters(route.query)
    found: dict[str, Any] = {
        "summary": route.summary,
        "operationId": re.sub(r"\W", "_", route.method.lower() + re.sub(r"[{}]", "", plain(route.path))),
        "parameters": parameters,
        "responses": {str(status): answer for status, answer in responses(route).items()},
        "security": SECURITY[route.access],
        "tags": [route.path.split("/")[1] or "hf"],
    }
    if route.bodies:
        binary = {"schema": {"type": "string", "format": "binary"}}
        told = {"schema": schema_of(route.body)} if route.body else binary
        content = {kind: told if kind == "application/json" else binary for kind in route.bodies}
        found["requestBody"] = {"required": True, "content": content}
    return found


#: What is known of a path's parameters.
PATH_SCHEMAS: Final[dict[str, dict[str, Any]]] = {
    "job_id": {"type": "string", "pattern": r"^[A-Za-z0-9_-]{1,100}$"},
    "index": {"type": "integer", "minimum": 0, "maximum": 999999},
    "vae": {"type": "string", "pattern": r"^[A-Za-z0-9_-]{1,64}$"},
}


def query_parameters(model: type[BaseModel]) -> list[dict[str, Any]]:
    """A model's fields as parameters; one that is an object travels as JSON."""
    schema = model.model_json_schema()
    required = schema.get("required", ())
    found = []
    for name, field in schema["properties"].items():
        kinds = {one.get("type") for one in field.get("anyOf", [field])}
        shape = {"content": {"application/json": {"schema": field}}} if "object" in kinds else {"schema": field}
        found.append({"name": name, "in": "query", "required": name in required, **shape})
    return found


def schema_of(model: type[BaseModel]) -> PydanticSchema[Any]:
    """A reference to a model's schema, which is put among the components."""
    return PydanticSchema[Any].model_validate({"schema_class": model})


def responses(route: Route) -> dict[int, dict[str, Any]]:
    """What a route answers."""
    success: dict[str, Any] = {"description": "Done."}
    if route.answer is not None:
        success["content"] = {"application/json": {"schema": schema_of(route.answer)}}
    else:
        success["content"] = {kind: {} for kind in route.content_types}
    problem = {"application/json": {"schema": schema_of(Problem)}}
    told = {status: {"description": why, "content": problem} for status, why in PROBLEMS.items()}
    also: dict[int, dict[str, Any]] = {status: {"description": why} for status, why in route.also.items()}
    if 200 in also:
        also[200]["content"] = success["content"]
    return {route.status: success, **also, **told}
