"""Pages whose gateway goes away and comes back, and pages that nobody sees."""

from typing import TYPE_CHECKING

import redis
from playwright.sync_api import expect
from tests.browser.farm_at_work import LATENTS, fail
from tests.browser.visitor import Visitor, is_as_opened
from tests.conftest import Serve
from tests.served_gateway import ServedGateway

from vaefarm_producer import Farm

if TYPE_CHECKING:
    from playwright.sync_api import Page

#: What a browser does with a tab that another covers; Playwright's tabs are all seen.
COVER = """(state) => {
    Object.defineProperty(document, "visibilityState", { configurable: true, get: () => state });
    Object.defineProperty(document, "hidden", { configurable: true, get: () => state === "hidden" });
    document.dispatchEvent(new Event("visibilitychange"));
}"""


def test_a_page_says_that_its_gateway_is_away_and_goes_on_by_itself(
    visitor: Visitor, gateway: ServedGateway, farm: Farm, serve: Serve
) -> None:
    visitor.forgives_failed_requests = True
    fail(farm, serve, "some")
    farm_page, job_page = visitor.open(gateway.url), visitor.open(f"{gateway.url}/jobs/some")
    gateway.stop()
    for page in (farm_page, job_page):
        expect(page.locator("#connection")).to_have_text("not connected, trying again")
        page.get_by_role("button", name="Retry").click()
        expect(page.locator("#told")).to_have_text("The gateway did not answer; try again.")
        expect(page.get_by_role("button", name="Retry")).to_be_enabled()
    farm.job("some").retry()
    gateway.start()
    expect(farm_page.locator("#connection")).to_have_text("live")
    expect(farm_page.locator("#section-failures")).to_contain_text("No failure of late")
    expect(job_page.locator("#connection")).to_have_text("live")
    expect(job_page.locator(".status")).to_have_text("queued")
    assert is_as_opened(farm_page)
    assert is_as_opened(job_page)


def test_tabs_that_are_covered_leave_connections_to_the_others(
    visitor: Visitor, gateway: ServedGateway, farm: Farm
) -> None:
    tabs: list[Page] = []
    for _ in range(8):
        # Six would be all that a browser has for one host.
        for covered in tabs:
            covered.evaluate(COVER, "hidden")
        tabs.append(visitor.open(gateway.url))
    farm.submit(LATENTS, vae="demo", job_id="some")
    waiting = "#section-vaes tr[data-key=demo] td >> nth=0"
    expect(tabs[-1].locator(waiting)).to_have_text("1")
    expect(tabs[0].locator(waiting)).to_have_count(0)
    tabs[0].evaluate(COVER, "visible")
    expect(tabs[0].locator(waiting)).to_have_text("1")
    assert all(is_as_opened(tab) for tab in tabs)


def test_the_page_of_a_job_that_is_gone_says_so(
    visitor: Visitor, gateway: ServedGateway, farm: Farm, connection: redis.Redis
) -> None:
    job = farm.submit(LATENTS, vae="demo")
    page = visitor.open(f"{gateway.url}/jobs/{job.id}")
    connection.delete(f"vaefarm:job:{job.id}")
    expect(page.get_by_role("alert").filter(has_text="is not known")).to_be_visible()
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
