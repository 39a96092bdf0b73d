"""Pages by keyboard, and buttons that are used while a page changes under them."""

from typing import TYPE_CHECKING

import redis
from playwright.sync_api import expect
from tests.browser.farm_at_work import LATENTS, fail
from tests.browser.visitor import Visitor, until
from tests.conftest import Serve
from tests.served_gateway import ServedGateway

from vaefarm_producer import Farm

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

#: The element with the focus, kept by the page itself.
KEEP = "() => { window.kept = document.activeElement; }"
IS_KEPT = "() => window.kept.isConnected && window.kept === document.activeElement"


def focused(page: "Page") -> str:
    """The text of what has the focus."""
    return str(page.evaluate("() => document.activeElement.textContent")).strip()


def tab_to(page: "Page", text: str) -> None:
    """Press Tab until what has the focus says so."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if focused(page) == text:
            return
    raise AssertionError(f"Tab does not lead to {text!r}")


def test_tab_leads_first_past_the_head_of_the_page(visitor: Visitor, gateway: ServedGateway, farm: Farm) -> None:
    page = visitor.open(gateway.url)
    page.keyboard.press("Tab")
    assert focused(page) == "Skip to the content"
    expect(page.get_by_role("link", name="Skip to the content")).to_be_in_viewport()
    page.keyboard.press("Enter")
    assert page.evaluate("() => document.activeElement.id") == "main"


def test_tab_leads_to_a_retry_that_enter_presses_and_on_from_where_it_was(
    visitor: Visitor, gateway: ServedGateway, farm: Farm, serve: Serve
) -> None:
    fail(farm, serve, "first")
    fail(farm, serve, "second")
    page = visitor.open(gateway.url)
    tab_to(page, "Retry job second")
    page.keyboard.press("Enter")
    expect(page.locator("#section-failures tr[data-key=second]")).to_have_count(0)
    assert farm.job("second").status() == "queued"
    page.keyboard.press("Tab")
    assert focused(page) == "first"


def test_the_focus_stays_on_a_button_when_its_section_changes(
    visitor: Visitor, gateway: ServedGateway, farm: Farm, serve: Serve
) -> None:
    fail(farm, serve, "first")
    page = visitor.open(gateway.url)
    tab_to(page, "Retry job first")
    page.evaluate(KEEP)
    fail(farm, serve, "second")
    expect(page.locator("#section-failures tr[data-key=second]")).to_be_visible()
    assert page.evaluate(IS_KEPT)
    farm.job("second").retry()
    expect(page.locator("#section-failures tr[data-key=second]")).to_have_count(0)
    assert page.evaluate(IS_KEPT)


def test_the_focus_stays_on_a_row_that_is_moved(
    visitor: Visitor, gateway: ServedGateway, farm: Farm, serve: Serve, connection: redis.Redis
) -> None:
    fail(farm, serve, "first")
    fail(farm, serve, "second")
    page = visitor.open(gateway.url)
    rows = page.locator("#section-failures tbody tr")
    expect(rows.first).to_contain_text("second")
    tab_to(page, "Retry job first")
    page.evaluate(KEEP)
    connection.zadd("vaefarm:failures", {"first": 1e12})
    expect(rows.first).to_contain_text("first")
    assert page.evaluate(IS_KEPT)


def test_a_button_keeps_the_focus_when_it_was_of_no_avail(
    visitor: Visitor, gateway: ServedGateway, farm: Farm, serve: Serve, connection: redis.Redis
) -> None:
    visitor.forgives_failed_requests = True
    fail(farm, serve, "some")
    page = visitor.open(gateway.url)
    connection.delete(*connection.keys("vaefarm:latent:*"))
    tab_to(page, "Retry job some")
    page.evaluate(KEEP)
    page.keyboard.press("Enter")
    expect(page.locator("#told")).to_contain_text("its latent is gone")
    assert page.evaluate(IS_KEPT)


def test_a_button_that_is_held_down_while_its_section_changes_is_pressed_when_let_go(
    visitor: Visitor, gateway: ServedGateway, farm: Farm
) -> None:
    before, job = farm.submit(LATENTS, vae="demo"), farm.submit(LATENTS, vae="demo")
    page = visitor.open(f"{gateway.url}/jobs/{job.id}")
    expect(page.locator(".state")).to_contain_text("at place 2 of 2")
    visitor.agrees = True
    page.get_by_role("button", name="Cancel").hover()
    page.mouse.down()
    before.cancel()
    expect(page.locator(".state")).to_contain_text("at place 1 of 1")
    page.mouse.up()
    expect(page.locator(".status")).to_have_text("canceled")
    assert visitor.dialogs == ["Cancel this job?"]


def test_a_button_calls_once_and_waits_for_its_answer_whatever_changes_meanwhile(
    visitor: Visitor, gateway: ServedGateway, farm: Farm, serve: Serve
) -> None:
    fail(farm, serve, "first")
    page = visitor.open(gateway.url)
    calls: list[Route] = []
    page.route("**/retry", lambda call: calls.append(call))
    button = page.get_by_role("button", name="Retry job first")
    button.click()
    until(page, "it calls", lambda: calls)
    fail(farm, serve, "second")
    expect(page.get_by_role("button", name="Retry job second")).to_be_visible()
    expect(button).to_be_disabled()
    button.click(force=True)
    (call,) = calls
    call.continue_()
    expect(button).to_have_count(0)
    assert len(calls) == 1
    assert farm.job("first").status() == "queued"
