"""How the farm stood in the last hour: what gateways keep of it, and the charts that are made of that."""

import asyncio

import numpy as np
import pytest
import redis
from tests.conftest import Serve
from tests.gateway.conftest import Gateway

from vaefarm_producer import Farm
from vaefarm_producer.gateway.access import ADMIN
from vaefarm_producer.gateway.farm_overview import LOOKS
from vaefarm_producer.gateway.page.board import BOARD, View
from vaefarm_producer.gateway.page.charts import HEIGHT, WIDTH, Chart, charts_of
from vaefarm_shared.history import KEPT_SECONDS, SAMPLE_SECONDS, Sample, read_history, take_sample, write_sample
from vaefarm_shared.overview import Overview

LATENTS = np.zeros((1, 4, 8, 8), np.float32)
NOW = 1_000_000.0


def sample(ago: float, finished: int = 0, backlog: float = 0.0, busy: float | None = 0.5) -> Sample:
    return Sample(NOW - ago, finished, backlog, busy)


def points_of(line: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (point.split(",") for point in line.split())]


def throughput(*samples: Sample) -> Chart:
    return charts_of(samples, NOW)[0]


def test_of_several_gateways_each_sample_is_one_gateways(connection: redis.Redis) -> None:
    assert [take_sample(connection, None, 10) for _ in range(3)] == [True, False, False]
    assert len(read_history(connection)) == 1
    assert 0 < connection.pttl("vaefarm:sampling") < SAMPLE_SECONDS * 1000
    connection.delete("vaefarm:sampling")
    assert take_sample(connection, None, 10)
    assert len(read_history(connection)) == 2


def test_a_sample_has_the_counters_of_the_farm(farm: Farm, serve: Serve, connection: redis.Redis) -> None:
    farm.submit_many([LATENTS] * 3, vae="demo")
    serve()
    farm.submit_many([LATENTS] * 2, vae="demo")
    connection.hset("vaefarm:pace", "demo:s", 2.5)
    write_sample(connection, farm.overview())
    (found,) = read_history(connection)
    assert (found.finished, found.backlog_seconds) == (3, 5.0)
    assert found.busy_share is None, "no worker lives that could tell"


def test_what_is_kept_is_an_hour(farm: Farm, connection: redis.Redis) -> None:
    overview = farm.overview()
    most = KEPT_SECONDS // SAMPLE_SECONDS
    for _ in range(most + 5):
        write_sample(connection, overview)
    assert len(read_history(connection)) == most
    assert 0 < connection.ttl("vaefarm:history") <= KEPT_SECONDS


def test_throughput_is_what_was_finished_between_two_samples() -> None:
    chart = throughput(sample(45, 100), sample(30, 130), sample(15, 145))
    assert (chart.now, chart.most) == ("1.00", "2.00")
    (line,) = chart.lines
    (_, first), (x, second) = points_of(line)
    assert first == 0.0, "the highest is at the top"
    assert second == HEIGHT / 2
    assert x == pytest.approx(WIDTH * (1 - 15 / 3600), abs=0.1)


def test_counters_that_begin_anew_are_no_negative_throughput() -> None:
    assert throughput(sample(45, 100), sample(30, 0), sample(15, 15)).most == "1.00"


def test_over_a_gap_there_is_no_line() -> None:
    chart = charts_of([sample(600), sample(585), sample(30), sample(15)], NOW)[2]
    assert [len(points_of(line)) for line in chart.lines] == [2, 2]
    assert all(points_of(area)[0][1] == HEIGHT == points_of(area)[-1][1] for area in chart.areas)


def test_what_is_older_than_an_hour_is_not_drawn() -> None:
    chart = charts_of([sample(4000, backlog=99.0), sample(15, backlog=1.0)], NOW)[1]
    assert (chart.now, chart.most) == ("1.0 s", "1.0 s")


@pytest.mark.parametrize("samples", [[], [sample(15, busy=None)]])
def test_without_samples_charts_say_so(samples: list[Sample]) -> None:
    chart = charts_of(samples, NOW)[2]
    assert (chart.now, chart.lines) == ("", ())


async def test_charts_are_sent_anew_with_a_sample_and_not_with_each_second(
    gateway: Gateway, farm: Farm, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By Redis' clock: two samples of just now, and looks within the quarter of a minute that they are in.
    for _ in range(2):
        write_sample(connection, farm.overview())
    overview = await asyncio.to_thread(farm.overview)
    begin = overview.taken_at // SAMPLE_SECONDS * SAMPLE_SECONDS
    drawn = []
    for seconds in (1, 7, 14, SAMPLE_SECONDS + 1):
        looked = overview.model_copy(update={"taken_at": begin + seconds})

        async def ask(_: None, looked: Overview = looked) -> Overview:
            return looked

        monkeypatch.setattr(gateway.app[LOOKS], "ask", ask)
        drawn.append((await gateway.app[BOARD].draw(View(ADMIN)))["charts"])

    assert "<polyline" in drawn[0]
    assert drawn[0] == drawn[1] == drawn[2] != drawn[3]
