"""Jobs come, go and are called upon, on pages that are never loaded again."""

import pytest
import redis
from playwright.sync_api import expect
from tests.browser.farm_at_work import LATENTS, fail
from tests.browser.visitor import Visitor, is_as_opened, until
from tests.conftest import Serve, StartWorker, eventually
from tests.served_gateway import ServedGateway

from vaefarm_producer import Farm
from vaefarm_shared.catalogue import Catalogue
from vaefarm_worker.fake_decoder import FakeDecoder


def test_a_job_that_is_submitted_appears_without_a_reload(visitor: Visitor, gateway: ServedGateway, farm: Farm) -> None:
    page = visitor.open(gateway.url)
    expect(page.locator("#section-vaes")).to_contain_text("No queue yet")
    farm.submit(LATENTS, vae="demo", job_id="some")
    expect(page.locator("#section-vaes tr[data-key=demo] td").first).to_have_text("1")
    expect(page.locator("#section-totals")).to_contain_text("waiting 1", use_inner_text=True)
    assert is_as_opened(page)


def test_the_page_of_a_job_that_waits_says_at_which_place_and_goes_on_with_it(
    visitor: Visitor, gateway: ServedGateway, farm: Farm
) -> None:
    before, job = farm.submit(LATENTS, vae="demo"), farm.submit(LATENTS, vae="demo")
    page = visitor.open(f"{gateway.url}/jobs/{job.id}")
    expect(page.locator(".status")).to_have_text("queued")
    expect(page.locator(".state")).to_contain_text("at place 2 of 2")
    before.cancel()
    expect(page.locator(".state")).to_contain_text("at place 1 of 1")
    assert is_as_opened(page)


@pytest.mark.slow
def test_a_workers_pictures_arrive_without_a_reload(
    visitor: Visitor, gateway: ServedGateway, farm: Farm, start_worker: StartWorker
) -> None:
    page = visitor.open(gateway.url)
    job = farm.submit(LATENTS, vae="demo", metadata={"prompt": "a boat at sea"})
    own = visitor.open(f"{gateway.url}/jobs/{job.id}")
    worker = start_worker()
    expect(page.locator(f"#section-workers tr[data-key='{worker.name}']")).to_contain_text("demo")

    shown = page.locator(f".pictures li[data-key='{job.id}']")
    expect(shown).to_contain_text("a boat at sea")
    until(page, "its picture is drawn", lambda: shown.locator("img").evaluate("(one) => one.naturalWidth") > 0)
    expect(own.locator(".status")).to_have_text("finished")
    picture = own.locator(".results img")
    until(own, "its picture is drawn", lambda: picture.evaluate("(one) => one.naturalWidth") == 64)
    assert picture.get_attribute("alt") == "a boat at sea"
    assert is_as_opened(page)
    assert is_as_opened(own)


def test_a_jobs_preview_arrives_and_gives_way_to_its_picture(
    visitor: Visitor, gateway: ServedGateway, farm: Farm, serve: Serve
) -> None:
    job = farm.submit(LATENTS, vae="demo", preview="taesd")
    page = visitor.open(f"{gateway.url}/jobs/{job.id}")
    serve(FakeDecoder([Catalogue.load()["taesd"]]))
    picture = page.locator(".results img")
    expect(picture).to_have_attribute("alt", "preview 0")
    until(page, "it is drawn", lambda: picture.evaluate("(one) => one.naturalWidth") == 64)
    serve()
    expect(picture).to_have_attribute("alt", "picture 0")
    expect(page.get_by_role("heading", name="Its newest preview")).to_have_count(0)
    until(page, "it is drawn", lambda: picture.evaluate("(one) => one.naturalWidth") == 64)
    assert is_as_opened(page)


def test_a_failure_shows_its_reason_and_goes_when_it_is_retried(
    visitor: Visitor, gateway: ServedGateway, farm: Farm, serve: Serve
) -> None:
    page = visitor.open(gateway.url)
    fail(farm, serve, "some", "the kernel did not like it")
    row = page.locator("#section-failures tr[data-key=some]")
    expect(row).to_contain_text("the kernel did not like it")
    row.get_by_role("button", name="Retry job some").click()
    expect(row).to_have_count(0)
    assert farm.job("some").status() == "queued"
    serve()
    expect(page.locator(".pictures li[data-key=some]")).to_be_visible()
    assert is_as_opened(page)


def test_a_failed_job_is_retried_from_its_own_page(
    visitor: Visitor, gateway: ServedGateway, farm: Farm, serve: Serve
) -> None:
    fail(farm, serve, "some", "the kernel did not like it")
    page = visitor.open(f"{gateway.url}/jobs/some")
    expect(page.locator(".status")).to_have_text("failed")
    expect(page.locator("#section-state .reason")).to_contain_text("the kernel did not like it")
    page.get_by_role("button", name="Retry").click()
    expect(page.locator(".status")).to_have_text("queued")
    expect(page.get_by_role("button", name="Retry")).to_have_count(0)
    serve()
    expect(page.locator(".results img")).to_be_visible()
    assert is_as_opened(page)


def test_a_job_is_canceled_once_that_is_confirmed(visitor: Visitor, gateway: ServedGateway, farm: Farm) -> None:
    job = farm.submit(LATENTS, vae="demo")
    page = visitor.open(f"{gateway.url}/jobs/{job.id}")
    page.get_by_role("button", name="Cancel").click()
    assert visitor.dialogs == ["Cancel this job?"]
    # Had the button called, it would be disabled until the answer.
    expect(page.get_by_role("button", name="Cancel")).to_be_enabled()
    assert job.status() == "queued"

    visitor.agrees = True
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator(".status")).to_have_text("canceled")
    expect(page.get_by_role("button", name="Cancel")).to_have_count(0)
    assert job.status() == "canceled"
    assert is_as_opened(page)


def test_what_the_gateway_refuses_is_told(
    visitor: Visitor, gateway: ServedGateway, farm: Farm, serve: Serve, connection: redis.Redis
) -> None:
    visitor.forgives_failed_requests = True
    fail(farm, serve, "some")
    page = visitor.open(f"{gateway.url}/jobs/some")
    connection.delete(*connection.keys("vaefarm:latent:*"))
    page.get_by_role("button", name="Retry").click()
    expect(page.locator("#told")).to_have_text("job 'some' cannot be retried: its latent is gone; submit it again")
    assert page.locator("#told").get_attribute("role") == "alert"


def test_an_id_that_is_typed_leads_to_its_job(visitor: Visitor, gateway: ServedGateway, farm: Farm) -> None:
    farm.submit(LATENTS, vae="demo", job_id="some")
    page = visitor.open(gateway.url)
    page.get_by_role("searchbox", name="Job").fill("some")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Job some")


def test_a_vae_is_paused_once_that_is_confirmed_and_resumed(
    visitor: Visitor, gateway: ServedGateway, farm: Farm, serve: Serve, connection: redis.Redis
) -> None:
    job = farm.submit(LATENTS, vae="demo")
    page = visitor.open(f"{gateway.url}/vaes/demo")
    page.get_by_role("button", name="Pause").click()
    assert visitor.dialogs == ["Pause demo? Jobs are still taken in, and wait."]
    expect(page.get_by_role("button", name="Pause")).to_be_enabled()
    assert not connection.smembers("vaefarm:paused")

    visitor.agrees = True
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#section-vae")).to_contain_text("Paused: no worker takes its jobs.")
    serve()
    assert job.status() == "queued"
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    serve()
    assert job.status() == "finished"
    assert is_as_opened(page)


def test_a_quarantined_device_is_released_once_that_is_confirmed(
    visitor: Visitor, gateway: ServedGateway, farm: Farm, connection: redis.Redis
) -> None:
    connection.hset("vaefarm:quarantine", "GPU-0d/1", '{"reason": "it fell off the bus", "since": 1.0}')
    page = visitor.open(gateway.url)
    row = page.locator("#section-devices tbody tr")
    expect(row).to_contain_text("it fell off the bus")
    row.get_by_role("button", name="Release").click()
    assert visitor.dialogs == ["Release GPU-0d/1? Workers will use it again."]
    expect(row.get_by_role("button", name="Release")).to_be_enabled()
    assert connection.hlen("vaefarm:quarantine") == 1

    visitor.agrees = True
    row.get_by_role("button", name="Release").click()
    expect(row).to_have_count(0)
    eventually("it is released", lambda: not connection.hlen("vaefarm:quarantine"))
    assert is_as_opened(page)
