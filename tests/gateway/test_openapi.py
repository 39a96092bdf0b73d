"""The OpenAPI document and its page."""

import json

from openapi_pydantic import OpenAPI
from tests.gateway.conftest import Gateway

from vaefarm_producer.gateway.routes import ROUTES


async def test_the_document_names_every_route_and_is_valid(gateway: Gateway) -> None:
    async with gateway.client.get("/openapi.json") as answer:
        raw = json.loads(await answer.text())

    OpenAPI.model_validate(raw)
    assert raw["openapi"] == "3.1.0"
    routed = {path for (_, path), route in gateway.app[ROUTES].items() if not route.is_page}
    assert set(raw["paths"]) == routed
    assert routed < {route.resource.canonical for route in gateway.app.router.routes() if route.resource}
    assert "JobAnswer" in raw["components"]["schemas"]
    named = [operation["operationId"] for path in raw["paths"].values() for operation in path.values()]
    assert len(set(named)) == len(named)
    assert raw["paths"]["/v1/jobs"]["post"]["responses"].keys() >= {"200", "202", "429", "503"}
    assert raw["paths"]["/v1/jobs/{job_id}/image"]["get"]["responses"].keys() >= {"200", "206", "304", "416"}
    assert [one["name"] for one in raw["paths"]["/v1/events"]["get"]["parameters"]] == ["status"]


async def test_the_page_loads_nothing_from_elsewhere(gateway: Gateway) -> None:
    async with gateway.client.get("/docs") as answer:
        page, policy = await answer.text(), answer.headers["Content-Security-Policy"]
    assert "http" not in page
    assert "'self'" in policy
    for path in ("/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js", "/docs/page.js"):
        assert path in page
        async with gateway.client.get(path) as answer:
            assert answer.status == 200
    async with gateway.client.get("/docs/other.js") as answer:
        assert (answer.status, answer.content_type) == (404, "application/json")
