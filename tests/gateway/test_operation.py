"""Health, readiness, figures, the log and traces of a running gateway."""

import asyncio
import json
import logging
from collections.abc import Iterator

import numpy as np
import pytest
import redis
from aiohttp import web
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families
from tests.conftest import RedisServer, Serve, StartWorker, eventually, redis_servers
from tests.gateway.conftest import Gateway

from vaefarm_producer import Farm, InvalidOption
from vaefarm_producer.gateway import health
from vaefarm_producer.gateway.access import PRINCIPAL, Principal
from vaefarm_producer.gateway.desk import DESK
from vaefarm_shared import leases, workers
from vaefarm_shared.figures import Figures
from vaefarm_shared.leases import Source, Wanted
from vaefarm_shared.logs import LogFormat, formatter
from vaefarm_shared.settings import Settings

LATENTS = np.zeros((1, 4, 8, 8), np.float32)
RAW = {"vae": "demo", "shape": "1,4,8,8", "dtype": "float32"}
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def ask(gateway: Gateway, path: str) -> tuple[int, str]:
    async with gateway.client.get(path) as answer:
        return answer.status, await answer.text()


def live(connection: redis.Redis, *vaes: str, **more: object) -> None:
    """Have a worker listed that serves those."""
    connection.sadd("rq:workers", "rq:worker:listed")
    workers.publish_worker(connection, "listed", {"vaes": dict.fromkeys(vaes, "r"), "sizes": {}, **more})


async def test_the_root_and_health_say_ok_as_hugging_faces_endpoints_do(gateway: Gateway) -> None:
    assert await ask(gateway, "/") == (200, "Ok")
    assert await ask(gateway, "/health") == (200, "Ok")


async def test_a_gateway_without_a_worker_is_ready_for_those_who_need_redis_alone(gateway: Gateway) -> None:
    assert (await ask(gateway, "/ready"))[0] == 503
    assert await ask(gateway, "/ready?need=redis") == (200, '{"ready": true}')
    assert (await ask(gateway, "/ready?need=luck"))[0] == 422


async def test_the_backlog_is_told_in_seconds_without_that_of_paused_vaes(
    gateway: Gateway, farm: Farm, connection: redis.Redis
) -> None:
    farm.submit_many([LATENTS] * 3, vae="demo")
    farm.submit_many([LATENTS] * 2, vae="sdxl")

    async def told(path: str) -> tuple[int, float]:
        found = json.loads((await ask(gateway, path))[1])
        return found["queued"], found["backlog_seconds"]

    assert await told("/v1/queues") == (5, 5.0), "a second each while nothing was decoded"
    connection.hset("vaefarm:pace", "demo:s", 20.0)
    assert [await told(path) for path in ("/v1/queues", "/v1/vaes/demo")] == [(5, 62.0), (3, 60.0)]
    farm.pause("demo")
    assert [await told(path) for path in ("/v1/queues", "/v1/vaes/demo")] == [(2, 2.0), (3, 0.0)]


async def test_a_gateway_is_ready_once_a_worker_serves_the_default_vae(
    start_gateway: object, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "BELIEVED_SECONDS", 0.0)
    gateway: Gateway = await start_gateway(default_vae="sdxl")  # type: ignore[operator]
    live(connection, "demo")
    status, text = await ask(gateway, "/ready")
    assert (status, json.loads(text)["missing"]) == (503, "worker")
    assert (await ask(gateway, "/ready?need=redis"))[0] == 200
    assert "'sdxl'" in json.loads(text)["error"]

    live(connection, "demo", "sdxl", unavailable={"sdxl": "its weights are gone"})
    assert (await ask(gateway, "/ready"))[0] == 503

    live(connection, "demo", "sdxl")
    assert await ask(gateway, "/ready") == (200, '{"ready": true}')


async def test_any_worker_will_do_where_no_default_vae_is_set(gateway: Gateway, connection: redis.Redis) -> None:
    live(connection, "demo")
    assert (await ask(gateway, "/ready"))[0] == 200


async def test_a_hundred_probes_within_a_second_ask_redis_once(
    gateway: Gateway, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "BELIEVED_SECONDS", 60.0)
    live(connection, "demo")
    transport, asked = gateway.app[DESK].transport, []
    workers_of = transport.workers

    def counted() -> list[dict[str, object]]:
        asked.append(1)
        return workers_of()

    monkeypatch.setattr(transport, "workers", counted)

    answers = await asyncio.gather(*(ask(gateway, "/ready") for _ in range(100)))

    assert {status for status, _ in answers} == {200}
    assert len(asked) == 1


async def test_without_redis_a_gateway_lives_is_not_ready_and_its_own_figures_go_on(
    start_gateway: object, settings: Settings, tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "BELIEVED_SECONDS", 0.0)
    server = RedisServer(next(iter(redis_servers().values())), tmp_path)  # type: ignore[arg-type]
    gateway: Gateway = await start_gateway(settings.at(server.url))  # type: ignore[operator]

    assert await ask(gateway, "/health") == (200, "Ok")
    status, text = await ask(gateway, "/ready")
    assert (status, json.loads(text)["missing"]) == (503, "redis")
    figures = await scrape(gateway)
    assert figures["vaefarm_redis_up", ()] == 0
    assert figures["vaefarm_http_requests_total", ("GET", "/ready", "503")] == 1

    server.start()
    try:
        eventually_ready = {"redis"}
        while "redis" in eventually_ready:
            status, text = await ask(gateway, "/ready")
            eventually_ready = {json.loads(text).get("missing")}
        assert eventually_ready == {"worker"}
    finally:
        server.stop()


async def scrape(gateway: Gateway) -> dict[tuple[str, tuple[str, ...]], float]:
    """Each sample's value by its name and labels, these in the order of their names."""
    status, text = await ask(gateway, "/metrics")
    assert status == 200
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_the_farms_figures_are_the_same_on_each_gateway(
    start_gateway: object, farm: Farm, serve: Serve, connection: redis.Redis
) -> None:
    jobs = [farm.submit(LATENTS * n, vae="demo", priority="high") for n in range(3)]
    farm.submit(np.zeros((1, 4, 128, 128), np.float32), vae="demo", priority="low")
    jobs[2].cancel()
    first: Gateway = await start_gateway()  # type: ignore[operator]
    second: Gateway = await start_gateway()  # type: ignore[operator]

    def farm_wide(figures: dict[tuple[str, tuple[str, ...]], float]) -> dict[tuple[str, tuple[str, ...]], float]:
        apart = ("vaefarm_http", "process", "python")
        return {key: value for key, value in figures.items() if not key[0].startswith(apart)}

    before = await scrape(first)
    assert before["vaefarm_jobs", ("queued", "demo")] == 3
    assert before["vaefarm_queue_jobs", ("high", "s", "demo")] == 2
    assert before["vaefarm_queue_jobs", ("low", "m", "demo")] == 1
    assert before["vaefarm_jobs_ended_total", ("canceled", "demo")] == 1
    assert before["vaefarm_budget_jobs", ()] == 3
    assert before["vaefarm_budget_bytes", ()] > 0

    assert ("vaefarm_backlog_seconds", ("demo",)) not in before, "no job of it was ever decoded"

    await asyncio.to_thread(serve)

    after = await scrape(second)
    assert after["vaefarm_jobs", ("queued", "demo")] == 0
    assert after["vaefarm_backlog_seconds", ("demo",)] == 0
    assert after["vaefarm_jobs_ended_total", ("finished", "demo")] == 3
    assert farm_wide(after) == farm_wide(await scrape(first))


async def test_jobs_in_a_workers_hands_are_queued_until_their_decode_begins(
    gateway: Gateway, farm: Farm, connection: redis.Redis
) -> None:
    farm.submit(LATENTS, vae="demo")
    farm.submit(LATENTS + 1, vae="demo")
    leases.claim(connection, "w", Wanted([Source("demo", "normal", 0.0, "sml")], 1, 1 << 20, 60.0))

    figures = await scrape(gateway)

    assert figures["vaefarm_jobs", ("queued", "demo")] == 2
    assert figures["vaefarm_queue_jobs", ("normal", "s", "demo")] == 1


async def test_a_workers_batches_and_stages_are_shown_under_its_name(gateway: Gateway, connection: redis.Redis) -> None:
    figures = Figures()
    figures.note_batch("demo", 3)
    figures.note_batch("demo", 4)
    figures.note_job("demo", {"queued": 0.5, "store": 1000.0})
    live(connection, "demo", counted=figures.read(), finished=7, busy_seconds=1.5)

    shown = await scrape(gateway)

    assert shown["vaefarm_workers", ("demo",)] == 1
    assert shown["vaefarm_batch_jobs_sum", ("demo", "listed")] == 7
    assert shown["vaefarm_batch_jobs_bucket", ("2.0", "demo", "listed")] == 0
    assert shown["vaefarm_batch_jobs_bucket", ("4.0", "demo", "listed")] == 2, "a bound belongs to its class"
    assert shown["vaefarm_job_stage_seconds_bucket", ("0.5", "queued", "demo", "listed")] == 1
    assert shown["vaefarm_job_stage_seconds_bucket", ("300.0", "store", "demo", "listed")] == 0
    assert shown["vaefarm_job_stage_seconds_bucket", ("+Inf", "store", "demo", "listed")] == 1
    assert shown["vaefarm_worker_jobs_total", ("finished", "listed")] == 7
    assert shown["vaefarm_worker_busy_seconds_total", ("listed",)] == 1.5


async def test_a_real_worker_publishes_what_it_did(
    gateway: Gateway, farm: Farm, start_worker: StartWorker, connection: redis.Redis
) -> None:
    start_worker("--decoder", "fake")
    for n in range(3):
        farm.submit(LATENTS * n, vae="demo").wait(30)

    def published() -> bool:
        told = workers.read_workers(connection)[0]
        return bool(told["finished"] == 3)

    await asyncio.to_thread(eventually, "the worker says so", published)
    shown = await scrape(gateway)

    assert shown["vaefarm_batch_jobs_sum", ("demo", "worker-0")] == 3
    for stage in ("queued", "decode", "encode", "store"):
        assert shown["vaefarm_job_stage_seconds_count", (stage, "demo", "worker-0")] == 3


async def test_the_figures_of_another_release_hide_none_of_the_others(
    gateway: Gateway, connection: redis.Redis
) -> None:
    live(connection, "demo", counted={"batches": {"demo": {"counts": [1]}}, "seconds": "none"})
    assert (await scrape(gateway))["vaefarm_workers", ("demo",)] == 1


async def test_http_figures_have_the_routes_template_never_a_callers_path(gateway: Gateway) -> None:
    await ask(gateway, "/v1/jobs/one")
    await ask(gateway, "/v1/jobs/two")
    await ask(gateway, "/etc/passwd")
    async with gateway.client.request("PROPFIND", "/coffee"):
        pass

    figures = await scrape(gateway)

    requests = {labels: value for (name, labels), value in figures.items() if name == "vaefarm_http_requests_total"}
    assert requests == {
        ("GET", "/v1/jobs/{job_id}", "404"): 2,
        ("GET", "unmatched", "404"): 1,
        ("OTHER", "unmatched", "404"): 1,
    }
    assert figures["vaefarm_http_request_seconds_count", ("GET", "/v1/jobs/{job_id}")] == 2


async def test_prometheus_gets_the_format_that_it_asks_for(gateway: Gateway) -> None:
    async with gateway.client.get("/metrics", headers={"Accept": "application/openmetrics-text"}) as answer:
        assert answer.content_type == "application/openmetrics-text"
        assert (await answer.text()).endswith("# EOF\n")


async def test_a_request_is_one_line_of_json_with_its_job_and_key_and_without_its_query(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with gateway.client.put("/v1/jobs/mine", params=RAW | {"token": "secret"}, data=LATENTS.tobytes()) as answer:
        assert answer.status == 422
    async with gateway.client.put("/v1/jobs/mine", params=RAW, data=LATENTS.tobytes()) as answer:
        assert answer.status == 202
    async with gateway.client.post("/v1/jobs", params=RAW, data=LATENTS.tobytes()) as answer:
        made = (await answer.json())["id"]
    await ask(gateway, "/v1/jobs/%0AERROR%20forged")

    written = [one for one in caplog.records if one.name.endswith("gateway.observing")]
    lines = [json.loads(formatter(LogFormat.JSON).format(one)) for one in written]
    assert [(one["method"], one["route"], one["status"], one.get("job_id")) for one in lines] == [
        ("PUT", "/v1/jobs/{job_id}", 422, "mine"),
        ("PUT", "/v1/jobs/{job_id}", 202, "mine"),
        ("POST", "/v1/jobs", 202, made),
        ("GET", "/v1/jobs/{job_id}", 422, None),
    ]
    assert all(one["seconds"] >= 0 and one["key"] == "admin" and one["level"] == "INFO" for one in lines)
    assert not any("secret" in json.dumps(one) or "forged" in json.dumps(one) for one in lines)


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> TracerProvider:
    """OpenTelemetry takes one provider in a process' life, and would trace every test that follows."""
    made = TracerProvider()
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", made)
    return made


@pytest.fixture
def spans(provider: TracerProvider) -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    processor = SimpleSpanProcessor(exporter)
    provider.add_span_processor(processor)
    yield exporter
    exporter.shutdown()


def named(spans: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [one for one in spans.get_finished_spans() if one.name == name]


async def test_one_trace_goes_from_http_to_store_and_the_batch_links_its_jobs(
    gateway: Gateway, serve: Serve, spans: InMemorySpanExporter, farm: Farm
) -> None:
    for name in ("one", "two"):
        async with gateway.client.put(
            f"/v1/jobs/{name}", params=RAW, data=LATENTS.tobytes(), headers={"traceparent": PARENT}
        ) as answer:
            assert answer.status == 202
    await asyncio.to_thread(serve)

    servers = named(spans, "PUT /v1/jobs/{job_id}")
    assert len(servers) == 2
    loads, stores, batches = named(spans, "vaefarm load"), named(spans, "vaefarm store"), named(spans, "vaefarm decode")
    for server in servers:
        assert server.parent is not None
        assert f"{server.parent.span_id:016x}" == PARENT.split("-")[2]
        assert server.attributes is not None
        assert server.attributes["http.response.status_code"] == 202
        children = [one for one in (*loads, *stores) if one.parent and one.parent.span_id == server.context.span_id]
        assert [one.name for one in children] == ["vaefarm load", "vaefarm store"]
        assert {one.context.trace_id for one in children} == {int(PARENT.split("-")[1], 16)}
        assert {one.attributes["vaefarm.job_id"] for one in children if one.attributes} == {
            server.attributes["vaefarm.job_id"]
        }
    linked = {link.context.span_id for batch in batches for link in batch.links}
    assert linked == {server.context.span_id for server in servers}
    ids = {batch.context.span_id for batch in batches}
    assert all({link.context.span_id for link in store.links} <= ids and store.links for store in stores)


async def test_a_header_that_is_no_traceparent_costs_nobody_their_job(gateway: Gateway, farm: Farm) -> None:
    for header in ("garbage", "00-" + "0" * 32 + "-b7ad6b7169203331-01", "ff" + PARENT[2:]):
        async with gateway.client.post(
            "/v1/jobs", params=RAW, data=LATENTS.tobytes(), headers={"traceparent": header}
        ) as answer:
            assert answer.status == 202


def test_a_submit_takes_the_current_span_unless_it_is_given_one(
    farm: Farm, connection: redis.Redis, provider: TracerProvider, spans: InMemorySpanExporter
) -> None:
    with provider.get_tracer("app").start_as_current_span("request") as request:
        inherited = farm.submit(LATENTS, vae="demo")
    given = farm.submit(LATENTS, vae="demo", traceparent=PARENT)

    def traceparent(job_id: str) -> str:
        return str(json.loads(connection.hget(f"vaefarm:job:{job_id}", "spec") or b"")["traceparent"])

    submit = named(spans, "vaefarm submit")[0]
    assert submit.parent is not None
    assert submit.parent.span_id == request.get_span_context().span_id
    assert traceparent(inherited.id).split("-")[1:3] == [
        f"{submit.context.trace_id:032x}",
        f"{submit.context.span_id:016x}",
    ]
    assert traceparent(given.id) == PARENT
    with pytest.raises(InvalidOption, match="traceparent='nonsense' is none"):
        farm.submit(LATENTS, vae="demo", traceparent="nonsense")


async def test_figures_are_for_admins(start_gateway: object, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway: Gateway = await start_gateway()  # type: ignore[operator]
    request = web.Request.__getitem__
    monkeypatch.setattr(
        web.BaseRequest,
        "__getitem__",
        lambda self, key: Principal("web") if key is PRINCIPAL else request(self, key),
    )
    assert (await ask(gateway, "/metrics"))[0] == 403
