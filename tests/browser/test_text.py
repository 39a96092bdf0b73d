"""What others wrote is text to a browser, and nothing that a page does is against its own policy."""

import json
from typing import TYPE_CHECKING

import redis
from playwright.sync_api import expect
from tests.browser.farm_at_work import LATENTS, Failing, fill
from tests.browser.visitor import Visitor, is_as_opened, until
from tests.conftest import Serve
from tests.served_gateway import ServedGateway

from vaefarm_producer import Farm
from vaefarm_shared import workers

if TYPE_CHECKING:
    from playwright.sync_api import Page

ATTACK = "<script>alert(1)</script><img src=x onerror=alert(2)></bdi></table>\"'&{{7*7}}<svg onload=alert(3)><title>t"


def work(farm: Farm, serve: Serve, connection: redis.Redis) -> None:
    """Have a farm that writes markup wherever others write."""
    farm.submit(LATENTS, vae="demo", job_id="fine", metadata={"prompt": ATTACK, ATTACK: ATTACK})
    serve()
    farm.submit(LATENTS, vae="demo", job_id="failed", metadata={"prompt": ATTACK})
    serve(Failing(ATTACK))
    connection.sadd("rq:workers", "rq:worker:listed")
    state = {"vae": "demo", "name": ATTACK, "url": ATTACK, "state": "open", "last_error": ATTACK}
    described = {"vaes": {"demo": "r", ATTACK: "r"}, "sizes": {}, "device": ATTACK, "host": ATTACK, "hot": [ATTACK]}
    workers.publish_worker(connection, "listed", {**described, "name": ATTACK, "gpu": ATTACK, "endpoints": [state]})
    connection.hset("vaefarm:quarantine", ATTACK, json.dumps({"reason": ATTACK, "since": 1.0}))


def is_unhurt(page: "Page") -> bool:
    """Whether there is no element in a page that a template did not put there."""
    strange = "script:not([src='/page/page.js']), img[src=x], svg[onload], title ~ title, [onerror]"
    return not page.locator(strange).count() and bool(page.title().startswith("vaefarm: "))


def test_markup_that_arrives_on_open_pages_stays_text(
    visitor: Visitor, gateway: ServedGateway, farm: Farm, serve: Serve, connection: redis.Redis
) -> None:
    farm_page, vae_page = visitor.open(gateway.url), visitor.open(f"{gateway.url}/vaes/demo")
    job_page = visitor.open(f"{gateway.url}/jobs/{farm.submit(LATENTS, vae='demo').id}")
    work(farm, serve, connection)
    for page in (farm_page, vae_page):
        expect(page.locator(".prompt").first).to_contain_text("<script>alert(1)</script>")
        expect(page.locator("#section-failures .reason").first).to_contain_text(ATTACK)
        expect(page.locator("#section-endpoints")).to_contain_text(ATTACK)
        expect(page.locator("#section-workers")).to_contain_text(ATTACK)
    expect(farm_page.locator("#section-devices")).to_contain_text(ATTACK)
    expect(farm_page.locator("#section-warnings")).to_contain_text(ATTACK)
    for page in (farm_page, vae_page, job_page):
        assert is_unhurt(page), page.url
        assert is_as_opened(page)
    assert visitor.dialogs == []


def test_markup_on_a_page_as_it_is_loaded_stays_text(
    visitor: Visitor, gateway: ServedGateway, farm: Farm, serve: Serve, connection: redis.Redis
) -> None:
    work(farm, serve, connection)
    for path in ("/", "/jobs/fine", "/jobs/failed", "/vaes/demo"):
        page = visitor.open(gateway.url + path)
        assert "<script>alert(1)</script>" in page.inner_text("main"), path
        assert is_unhurt(page), path
    assert visitor.dialogs == []


def test_no_page_errs_or_does_what_its_policy_forbids(
    visitor: Visitor, gateway: ServedGateway, farm: Farm, serve: Serve, connection: redis.Redis
) -> None:
    for path in fill(farm, serve, connection):
        # Of a job that nobody knows the page is answered with 404, which browsers complain of.
        visitor.forgives_failed_requests = path == "/jobs/unknown"
        page = visitor.open(gateway.url + path)
        page.wait_for_load_state()
        for picture in page.locator("img").all():
            assert picture.evaluate("(one) => one.complete && one.naturalWidth > 0"), path
        assert visitor.complaints == [], path
        page.close()


def test_a_script_that_got_into_a_page_would_not_run(visitor: Visitor, gateway: ServedGateway) -> None:
    page = visitor.open(gateway.url)
    page.evaluate("""() => {
        const script = document.createElement("script");
        script.textContent = "alert('it ran')";
        document.body.append(script);
    }""")
    until(page, "it is told", lambda: any("forbidden: script-src-elem" in one for one in visitor.complaints))
    assert visitor.dialogs == []
    visitor.complaints.clear()
