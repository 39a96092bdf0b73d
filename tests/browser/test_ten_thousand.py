"""A page of a farm that has finished ten thousand jobs is no larger, and costs Redis no more, than after twenty."""

import urllib.request
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
import redis
from playwright.sync_api import expect
from tests.browser.conftest import StartGateway
from tests.browser.visitor import Visitor, is_as_opened
from tests.conftest import Serve

from vaefarm_producer import Farm
from vaefarm_shared.catalogue import Catalogue
from vaefarm_worker.fake_decoder import FakeDecoder

if TYPE_CHECKING:
    from playwright.sync_api import Page

MANY = 10_000
PAGE = {"Accept": "text/html"}


@dataclass(frozen=True)
class Weight:
    """How much a page is."""

    elements: int
    html_bytes: int
    #: That Redis runs for one drawing, those of scripts too.
    commands: int


def commands_run(connection: redis.Redis) -> int:
    """Commands of clients and scripts since Redis' start, without those that ask for their number."""
    stats = connection.info("commandstats")
    return sum(int(one["calls"]) for name, one in stats.items() if name != "cmdstat_info")


def weigh(page: "Page", url: str, connection: redis.Redis) -> Weight:
    """Weigh an open page, and the same drawn anew by a gateway that has none open; of several drawings the one beside
    which Redis had least to do."""
    costs, drawn = [], b""
    for _ in range(10):
        before = commands_run(connection)
        with urllib.request.urlopen(urllib.request.Request(url, headers=PAGE), timeout=30) as answer:
            drawn = answer.read()
        costs.append(commands_run(connection) - before)
    assert drawn.count(b"<li data-key") == 12, "each with as many pictures"
    # Lines of charts go by the time that passed.
    elements = page.evaluate("() => document.querySelectorAll('*:not(.line, .area)').length")
    return Weight(int(elements), len(drawn), min(costs))


def finish(farm: Farm, serve: Serve, jobs: int) -> None:
    """Have jobs that are decoded."""
    farm.submit_many((np.full((1, 4, 8, 8), one, np.float32) for one in range(jobs)), vae="demo")
    serve(FakeDecoder([Catalogue.load()["demo"]], image_bytes=1000))


@pytest.mark.slow
def test_a_page_is_as_light_after_10_000_finished_jobs_as_after_20(
    visitor: Visitor, start_gateway: StartGateway, farm: Farm, serve: Serve, connection: redis.Redis
) -> None:
    gateway, another = start_gateway(), start_gateway()
    finish(farm, serve, 20)
    page = visitor.open(gateway.url)
    finished = page.locator("#section-vaes tr[data-key=demo] td").nth(7)
    expect(finished).to_have_text("20")
    expect(page.locator(".pictures li")).to_have_count(12)
    # Those who decoded have gone.
    expect(page.locator("#section-workers")).to_contain_text("No worker")
    light = weigh(page, another.url, connection)
    newest = page.locator(".pictures li").first.get_attribute("data-key")

    finish(farm, serve, MANY)
    expect(finished).to_have_text("10,020")
    expect(page.locator(f".pictures li[data-key='{newest}']")).to_have_count(0)
    expect(page.locator(".pictures li")).to_have_count(12)
    expect(page.locator("#section-workers")).to_contain_text("No worker")
    assert is_as_opened(page)
    heavy = weigh(page, another.url, connection)
    assert heavy.elements <= light.elements
    assert heavy.html_bytes <= light.html_bytes * 1.2
    assert 0 < heavy.commands <= light.commands
