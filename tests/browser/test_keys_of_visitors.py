"""Who is shown what, in a browser: a key is entered once, and kept where no script sees it."""

from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect
from tests.browser.conftest import StartGateway
from tests.browser.farm_at_work import LATENTS, Failing
from tests.browser.visitor import Visitor, is_as_opened, until
from tests.conftest import Serve
from tests.gateway.conftest import Keys

from vaefarm_producer import Farm
from vaefarm_producer.gateway.key_file import remove_key
from vaefarm_shared.settings import Settings

if TYPE_CHECKING:
    from playwright.sync_api import Page

FORM = "A key opens this farm"


# Each of these is answered with 401 somewhere, which browsers complain of.
@pytest.fixture(autouse=True)
def refusals(visitor: Visitor) -> None:
    visitor.forgives_failed_requests = True


def made(keys: Keys, name: str, *, admin: bool) -> str:
    """A new key."""
    return keys.make(name, admin=admin)["Authorization"].removeprefix("Bearer ")


def enter(page: "Page", key: str) -> None:
    """Type a key, as the form for it wants."""
    expect(page.get_by_role("heading", level=1)).to_have_text(FORM)
    # One can type at once.
    expect(page.get_by_label("Key")).to_be_focused()
    page.keyboard.type(key)
    page.keyboard.press("Enter")


def sign_in(visitor: Visitor, url: str, key: str) -> "Page":
    """The farm's page, opened with a key that was entered."""
    page = visitor.open(url)
    enter(page, key)
    expect(page.get_by_role("heading", level=1)).to_have_text("The farm")
    return page


@pytest.mark.parametrize("path", ["/", "/jobs/some", "/vaes/demo", "/jobs/unknown"])
def test_without_a_key_nothing_is_shown_but_the_form_for_it(
    visitor: Visitor, start_gateway: StartGateway, keys: Keys, farm: Farm, serve: Serve, path: str
) -> None:
    made(keys, "someone", admin=False)
    gateway = start_gateway(keys=keys.path)
    farm.submit(LATENTS, vae="demo", job_id="some", metadata={"prompt": "a boat at sea"})
    serve()
    page = visitor.open(gateway.url + path)
    assert page.inner_text("main").split("\n")[0] == FORM
    assert [one.get_attribute("type") for one in page.locator("input").all()] == ["hidden", "password"]
    assert page.locator("main img, main table, main dl, #connection").count() == 0
    for secret in ("boat", "waiting", "finished", "latents for it"):
        assert secret not in page.content()


def test_a_wrong_key_is_said_to_be_none_and_the_right_one_leads_to_the_page_that_was_asked_for(
    visitor: Visitor, start_gateway: StartGateway, keys: Keys, farm: Farm
) -> None:
    key = made(keys, "boss", admin=True)
    gateway = start_gateway(keys=keys.path)
    farm.submit(LATENTS, vae="demo", job_id="some")
    page = visitor.open(f"{gateway.url}/jobs/some")
    enter(page, "vf_wrong")
    expect(page.get_by_role("alert").filter(has_text="This key is none of this gateway's.")).to_be_visible()
    assert visitor.come().cookies() == []
    enter(page, key)
    expect(page.get_by_role("heading", level=1)).to_have_text("Job some")
    expect(page.locator("#connection")).to_have_text("live")
    assert page.url == f"{gateway.url}/jobs/some"


def test_a_key_is_kept_where_no_script_sees_it_until_sign_out(
    visitor: Visitor, start_gateway: StartGateway, keys: Keys
) -> None:
    key = made(keys, "boss", admin=True)
    gateway = start_gateway(keys=keys.path)
    page = sign_in(visitor, gateway.url, key)
    (cookie,) = visitor.come().cookies()
    assert (cookie["value"], cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (key, True, "Strict", "/")
    assert page.evaluate("() => document.cookie") == ""
    assert page.evaluate("() => localStorage.length + sessionStorage.length") == 0
    assert key not in page.content()

    page.get_by_role("button", name="Sign out boss").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(FORM)
    assert visitor.come().cookies() == []


def test_another_sites_page_leads_here_without_the_key(
    visitor: Visitor, start_gateway: StartGateway, keys: Keys
) -> None:
    key = made(keys, "boss", admin=True)
    gateway = start_gateway(keys=keys.path)
    sign_in(visitor, gateway.url, key)

    away = visitor.come().new_page()
    away.route("http://elsewhere.test/", lambda route: route.fulfill(
        content_type="text/html", body=f'<a href="{gateway.url}/">the farm</a><iframe src="{gateway.url}/"></iframe>'
    ))  # fmt: skip
    away.goto("http://elsewhere.test/")
    until(away, "it is shown in no frame", lambda: "chrome-error:" in away.frames[-1].url)
    away.get_by_role("link").click()
    expect(away.get_by_role("heading", level=1)).to_have_text(FORM)
    visitor.complaints = [one for one in visitor.complaints if "frame-ancestors" not in one]


def test_a_key_that_is_removed_brings_the_open_page_back_to_the_form(
    visitor: Visitor, start_gateway: StartGateway, keys: Keys
) -> None:
    key = made(keys, "boss", admin=True)
    made(keys, "another", admin=True)
    gateway = start_gateway(keys=keys.path)
    page = visitor.open(gateway.url)
    enter(page, key)
    expect(page.locator("#connection")).to_have_text("live")
    remove_key(keys.path, "boss")
    expect(page.get_by_role("heading", level=1)).to_have_text(FORM)
    expect(page.get_by_role("alert").filter(has_text="This key is none of this gateway's.")).to_be_visible()


def test_who_is_no_admin_sees_its_own_jobs_alone(
    visitor: Visitor, start_gateway: StartGateway, keys: Keys, settings: Settings, serve: Serve
) -> None:
    mine, other = (made(keys, name, admin=False) for name in ("mine", "other"))
    gateway = start_gateway(keys=keys.path)
    with Farm(settings=settings.at(gateway.url, mine)) as own, Farm(settings=settings.at(gateway.url, other)) as others:
        page = visitor.open(gateway.url)
        enter(page, mine)
        expect(page.locator("#connection")).to_have_text("live")
        page.evaluate("() => { window.mark = 'as it was opened'; }")
        for farm, name in ((own, "of-mine"), (others, "of-other")):
            farm.submit(LATENTS, vae="demo", job_id=name)
        serve()
        for farm, name in ((own, "failed-of-mine"), (others, "failed-of-other")):
            farm.submit(LATENTS, vae="demo", job_id=name)
        serve(Failing())
    expect(page.locator(".pictures li[data-key=of-mine]")).to_be_visible()
    expect(page.locator("#section-failures tr[data-key=failed-of-mine]")).to_be_visible()
    assert "of-other" not in page.content()
    assert is_as_opened(page)
    of_other = visitor.open(f"{gateway.url}/jobs/of-other")
    expect(of_other.locator(".bad")).to_contain_text("is not known")
    assert visitor.open(f"{gateway.url}/vaes/demo").get_by_role("button", name="Pause").count() == 0
