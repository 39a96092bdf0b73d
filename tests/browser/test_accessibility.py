"""Pages as axe-core finds them, in light and dark, and on a phone."""

from typing import TYPE_CHECKING, Any

import pytest
import redis
from axe_playwright_python.sync_playwright import Axe
from tests.browser.conftest import StartGateway
from tests.browser.farm_at_work import fill
from tests.browser.visitor import Visitor
from tests.conftest import Serve
from tests.gateway.conftest import Keys
from tests.served_gateway import ServedGateway

from vaefarm_producer import Farm

if TYPE_CHECKING:
    from playwright.sync_api import Page

#: CSS pixels of a phone, upright.
WIDTH, HEIGHT = 390, 844


def findings(page: "Page", where: str) -> list[str]:
    """What axe-core finds, each with its impact first; colours were among what it looked at."""
    results: dict[str, Any] = Axe().run(page, options={"resultTypes": ["violations", "passes"]}).response
    assert "color-contrast" in {rule["id"] for kind in ("violations", "passes") for rule in results[kind]}, where
    return [
        f"{rule['impact']}: {rule['id']}: {rule['help']}: {where}: {node['html']} {node['failureSummary']}"
        for rule in results["violations"]
        for node in rule["nodes"]
    ]


def serious(found: list[str]) -> list[str]:
    print(*found, sep="\n")
    return [one for one in found if one.startswith(("serious", "critical"))]


@pytest.fixture
def paths(farm: Farm, serve: Serve, connection: redis.Redis, visitor: Visitor) -> list[str]:
    """Those of a farm with something in each section."""
    # One of them is not known.
    visitor.forgives_failed_requests = True
    return fill(farm, serve, connection)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_the_pages_of_a_farm(
    visitor: Visitor, gateway: ServedGateway, paths: list[str], scheme: str
) -> None:
    visitor.come(color_scheme=scheme)
    found = []
    for path in paths:
        page = visitor.open(gateway.url + path)
        found += findings(page, path)
        page.close()
    assert not serious(found)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_the_form_for_a_key(
    visitor: Visitor, start_gateway: StartGateway, keys: Keys, scheme: str
) -> None:
    visitor.forgives_failed_requests = True
    keys.make("someone")
    visitor.come(color_scheme=scheme)
    page = visitor.open(start_gateway(keys=keys.path).url)
    found = findings(page, "the form")
    page.locator("#key").fill("vf_wrong")
    page.keyboard.press("Enter")
    page.locator("#wrong").wait_for()
    assert not serious(found + findings(page, "the form after a wrong key"))


def test_dark_and_light_are_the_systems(visitor: Visitor, gateway: ServedGateway) -> None:
    page = visitor.open(gateway.url)
    grounds = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        colour = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        grounds.append(sum(int(one) for one in colour.removeprefix("rgb(").removesuffix(")").split(",")))
    assert grounds[0] > 3 * 200
    assert grounds[1] < 3 * 60


@pytest.mark.slow
def test_on_a_phone_no_page_scrolls_sideways(visitor: Visitor, gateway: ServedGateway, paths: list[str]) -> None:
    visitor.come(viewport={"width": WIDTH, "height": HEIGHT}, is_mobile=True, has_touch=True, device_scale_factor=2)
    for path in paths:
        page = visitor.open(gateway.url + path)
        assert sideways(page) == [], path
        page.close()


def test_on_a_phone_the_form_for_a_key_does_not_scroll_sideways(
    visitor: Visitor, start_gateway: StartGateway, keys: Keys
) -> None:
    visitor.forgives_failed_requests = True
    keys.make("someone")
    visitor.come(viewport={"width": WIDTH, "height": HEIGHT}, is_mobile=True, has_touch=True, device_scale_factor=2)
    assert sideways(visitor.open(start_gateway(keys=keys.path).url)) == []


def sideways(page: "Page") -> list[str]:
    """What makes a page wider than its screen."""
    if page.evaluate("() => document.documentElement.scrollWidth") <= WIDTH:
        return []
    wide: list[str] = page.evaluate(
        """(width) => [...document.querySelectorAll("body *")]
            .filter((one) => !one.closest(".wide") && one.getBoundingClientRect().right > width)
            .map((one) => one.outerHTML.slice(0, 200))""",
        WIDTH,
    )
    return wide or ["it is"]
