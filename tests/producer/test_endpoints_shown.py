"""What the farm shows of remote endpoints: to programs, at the prompt, to Prometheus, and to whom not."""

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
import redis
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families
from tests.producer.conftest import Call
from tests.served_gateway import ServedGateway

from vaefarm_producer import AsyncFarm, Farm, Forbidden
from vaefarm_producer.gateway.key_file import add_key, new_entry, new_key
from vaefarm_producer.gateway.settings import GatewaySettings
from vaefarm_shared.endpoints import EndpointState
from vaefarm_shared.settings import Settings
from vaefarm_shared.workers import publish_worker

WIDE = {"COLUMNS": "240"}
FORGED = "[red]no[/red] [/] \x1b[2J\x9b2J\r\nvaefarm: ok \u202e"

Families = Callable[[str], Any]


def told(name: str, vae: str = "sdxl", circuit: str = "closed", **more: object) -> dict[str, object]:
    """An endpoint as a worker publishes it."""
    fields = {"vae": vae, "name": name, "url": f"https://{name}.example/", "state": circuit, **more}
    return EndpointState.model_validate(fields).model_dump()


def live(connection: redis.Redis, name: str, endpoints: object, **more: object) -> None:
    """Have a worker listed that asks those."""
    connection.sadd("rq:workers", f"rq:worker:{name}")
    publish_worker(connection, name, {"vaes": {"sdxl": "r"}, "sizes": {}, "endpoints": endpoints, **more})


@pytest.fixture
def gateway(settings: Settings, running_gateways: Callable[[Settings], ServedGateway]) -> str:
    """The address of a gateway that lets everyone of this machine in as an admin."""
    return running_gateways(settings).url


@pytest.fixture
def guarded(settings: Settings, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """A gateway's address, and a key that is no admin's."""
    key, file = new_key(), tmp_path / "keys.toml"
    add_key(file, new_entry("web", key, admin=False, rate=None, max_in_flight=None), replace=False)
    served = ServedGateway(settings, GatewaySettings.from_env(keys=file))
    served.start()
    yield served.url, key
    served.stop()


async def test_endpoints_are_listed_once_for_each_worker_that_asks_them(
    farm_settings: Settings, connection: redis.Redis
) -> None:
    live(connection, "w2", [told("b", latency_p95_seconds=1.5, last_error="503"), told("a"), told("c", vae="flux")])
    live(connection, "w1", [told("b")])
    connection.sadd("rq:workers", "rq:worker:plain")
    publish_worker(connection, "plain", {"vaes": {"sdxl": "r"}})

    with Farm(settings=farm_settings) as farm:
        found = farm.endpoints()
    async with AsyncFarm(settings=farm_settings) as asked:
        assert await asked.endpoints() == found

    assert [(one.vae, one.name, one.worker) for one in found] == [
        ("flux", "c", "w2"),
        ("sdxl", "a", "w2"),
        ("sdxl", "b", "w1"),
        ("sdxl", "b", "w2"),
    ]
    assert (found[3].latency_p95_seconds, found[3].last_error) == (1.5, "503")
    assert (found[2].latency_p95_seconds, found[2].last_error) == (None, "")


@pytest.mark.parametrize("rubbish", ["none", {"a": 1}, None, 7])
def test_what_is_no_list_of_endpoints_is_left_out(
    farm_settings: Settings, connection: redis.Redis, rubbish: object
) -> None:
    live(connection, "w", rubbish)
    with Farm(settings=farm_settings) as farm:
        assert farm.endpoints() == []


def test_endpoints_of_another_release_are_left_out_and_the_others_are_shown_everywhere(
    vaefarm: Call, farm_settings: Settings, farm_url: str, gateway: str, connection: redis.Redis
) -> None:
    another = [told("x") | changed for changed in ({"state": "asleep"}, {"in_flight": "many"}, {"url": 3})]
    endless = [told("x") | {"resting_until": math.inf}, told("x") | {"error_rate": math.nan}]
    newer = told("newer", circuit="open") | {"also": [1]}
    live(connection, "w", [*another, told("known"), *endless, {"vae": "sdxl"}, "text", None, newer])

    with Farm(settings=farm_settings) as farm:
        assert [one.name for one in farm.endpoints()] == ["known", "newer"]
    lines = vaefarm("endpoints", "--json", url=farm_url).stdout.splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["known", "newer"]
    assert "endpoint newer of sdxl, asked by w: open" in vaefarm("status", url=farm_url, env=WIDE).stdout
    assert {labels["endpoint"] for _, labels, _ in scrape(gateway)} == {"known", "newer"}


def test_the_command_shows_state_load_latency_and_errors_of_each_endpoint(
    vaefarm: Call, farm_url: str, connection: redis.Redis
) -> None:
    busy = told("b", in_flight=3, concurrency=8, succeeded=90, failed=10, error_rate=0.1, last_error="HTTP 500")
    rests = told("a", circuit="half-open", resting_until=time.time() + 3600)
    late = told("c", circuit="open", resting_until=time.time() - 60)
    live(connection, "w", [busy | {"latency_p50_seconds": 0.5, "latency_p95_seconds": 12.345}, rests, late])

    shown = vaefarm("endpoints", url=farm_url, env=WIDE).stdout
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if "│sdxl" in line]
    lines = [json.loads(line) for line in vaefarm("endpoints", "--json", url=farm_url).stdout.splitlines()]

    assert [row[:3] for row in cells] == [["sdxl", name, "w"] for name in "abc"]
    assert cells[1][3:] == ["closed", "3/8", "0.5 s, 12.3 s", "10%", "90/10"]
    assert cells[0][3].startswith("half-open, rests 3")
    assert (cells[2][3], cells[2][5]) == ("open", "")
    assert "b of sdxl, last error at w: HTTP 500" in shown.splitlines()
    assert [(line["name"], line["worker"], line["state"]) for line in lines] == [
        ("a", "w", "half-open"),
        ("b", "w", "closed"),
        ("c", "w", "open"),
    ]


def test_without_endpoints_the_command_says_how_to_add_one(vaefarm: Call, farm_url: str) -> None:
    assert vaefarm("endpoints", url=farm_url).stdout.splitlines() == [
        "no worker asks an endpoint; vaefarm worker --remote VAE=URL adds one"
    ]
    assert vaefarm("endpoints", "--json", url=farm_url).stdout == ""


@pytest.mark.parametrize("command", [["endpoints"], ["endpoints", "--json"], ["status"]])
def test_markup_and_control_characters_of_an_error_stay_text(
    vaefarm: Call, farm_url: str, connection: redis.Redis, command: list[str]
) -> None:
    live(connection, "w", [told("a", circuit="open", last_error=FORGED)], device_fault=FORGED)

    done = vaefarm(*command, url=farm_url, env=WIDE)

    assert (done.returncode, done.stderr) == (0, "")
    for text in ("[red]no[/red] [/] ", "[2J", "vaefarm: ok"):
        assert text in done.stdout
    assert not {"\x1b", "\x9b", "\r", "\u202e"} & set(done.stdout)
    assert not any(line.startswith("vaefarm: ok") for line in done.stdout.splitlines())


def test_status_says_which_endpoints_are_not_asked_and_whose_device_failed(
    vaefarm: Call, farm_url: str, connection: redis.Redis
) -> None:
    gone = told("gone", circuit="open", resting_until=time.time() + 3600, last_error="HTTP 404")
    live(connection, "w1", [told("well"), gone, told("back", circuit="half-open")])
    live(connection, "w2", [told("well")], device_fault="CUDA error: an illegal memory access")

    lines = vaefarm("status", url=farm_url, env=WIDE).stdout.splitlines()

    (fault,) = [line for line in lines if "illegal memory access" in line]
    assert fault.startswith("worker w2: its device failed")
    assert "restart the worker once the device is well" in fault
    troubles = [line for line in lines if line.startswith("endpoint ")]
    assert [line.split(" (")[0].partition("rests")[0] for line in troubles] == [
        "endpoint back of sdxl, asked by w1: half-open",
        "endpoint gone of sdxl, asked by w1: open, ",
    ]
    assert troubles[1].endswith(" s: HTTP 404 (vaefarm endpoints)")


def test_a_key_that_is_no_admins_learns_nothing_of_endpoints(
    vaefarm: Call, guarded: tuple[str, str], connection: redis.Redis
) -> None:
    url, key = guarded
    live(connection, "w", [told("hidden", circuit="open", last_error="hidden")], device_fault="hidden")

    with Farm(url, key=key) as farm, pytest.raises(Forbidden):
        farm.endpoints()
    asked = vaefarm("endpoints", url=url, env={"VAEFARM_KEY": key})
    assert (asked.returncode, asked.stdout, asked.stderr.count("\n")) == (1, "", 1)
    for command in (["status"], ["status", "--json"]):
        status = vaefarm(*command, url=url, env={"VAEFARM_KEY": key, **WIDE})
        assert status.returncode == 0
        assert "sdxl" in status.stdout
        assert "hidden" not in status.stdout


@pytest.mark.parametrize("openmetrics", [False, True])
def test_the_figures_of_endpoints_are_as_the_workers_published_them(
    gateway: str, connection: redis.Redis, openmetrics: bool
) -> None:
    seen = told("a", in_flight=2, concurrency=4, succeeded=9, failed=1, error_rate=0.1, circuit="half-open")
    live(connection, "w1", [seen | {"latency_p50_seconds": 0.25, "latency_p95_seconds": 2.0}])
    live(connection, "w2", [told("a", last_error='"\\\n'), told("a", in_flight=7), told('"\\\n')])

    found = scrape(gateway, openmetrics)

    def of_w1(figure: str, *labels: str) -> dict[tuple[str, ...], float]:
        return {
            tuple(told_by[label] for label in labels): value
            for name, told_by, value in found
            if name == f"vaefarm_endpoint_{figure}" and told_by["worker"] == "w1"
        }

    assert of_w1("state", "vae", "endpoint", "state") == {
        ("sdxl", "a", "closed"): 0,
        ("sdxl", "a", "open"): 0,
        ("sdxl", "a", "half-open"): 1,
    }
    assert of_w1("in_flight", "vae", "endpoint") == {("sdxl", "a"): 2}
    assert of_w1("concurrency", "endpoint") == {("a",): 4}
    assert of_w1("requests_total", "endpoint", "outcome") == {("a", "succeeded"): 9, ("a", "failed"): 1}
    assert of_w1("latency_seconds", "endpoint", "quantile") == {("a", "0.5"): 0.25, ("a", "0.95"): 2}
    assert of_w1("error_ratio", "endpoint") == {("a",): 0.1}
    series = Counter((name, *sorted(labels.items())) for name, labels, _ in found)
    assert set(series.values()) == {1}, "a series that is there twice spoils the scrape"
    assert {labels["endpoint"] for _, labels, _ in found if labels["worker"] == "w2"} == {"a", '"\\\n'}


def scrape(url: str, openmetrics: bool = False) -> list[tuple[str, dict[str, str], float]]:
    """Name, labels and value of each sample about endpoints."""
    headers = {"Accept": "application/openmetrics-text; version=1.0.0"} if openmetrics else {}
    with urlopen(Request(f"{url}/metrics", headers=headers), timeout=30) as answer:
        text, kind = answer.read().decode(), answer.headers["Content-Type"]
    assert ("openmetrics" in kind) == openmetrics
    families: Families = openmetrics_families if openmetrics else text_string_to_metric_families
    return [
        (sample.name, dict(sample.labels), sample.value)
        for family in families(text)
        for sample in family.samples
        if sample.name.startswith("vaefarm_endpoint")
    ]
