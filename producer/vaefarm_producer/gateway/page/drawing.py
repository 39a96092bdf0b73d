"""Drawing: HTML from templates. Whatever others wrote, a prompt, a name, an error, is text and never markup."""

import logging
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final

from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from vaefarm_shared.overview_warnings import SILENT_SECONDS
from vaefarm_shared.queues import PRIORITIES

from ... import readable
from ...http_client import part
from ..access import principal_of
from ..admission import GATE
from . import charts

logger = logging.getLogger(__name__)

#: What a page may load and run: the gateway's own files alone, and no style or script that stands in it.
PAGE_POLICY: Final[str] = (
    "default-src 'self'; object-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)

#: Seconds after which the page of a farm that is away asks again.
ASK_AGAIN_SECONDS: Final[int] = 5


@cache
def environment() -> Environment:
    """The templates, and how they write figures."""
    made = Environment(
        loader=PackageLoader(__package__, "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # What an upgrade writes over a running gateway is the next one's.
        auto_reload=False,
    )
    made.filters |= {
        "bytes": readable.bytes_of,
        "count": readable.count,
        "duration": readable.duration,
        "rate": readable.rate,
        "share": readable.share,
        "moment": moment,
        "part": part,
        "plainly": plainly,
        "written": written,
    }
    made.globals |= {
        "PRIORITIES": PRIORITIES,
        "SILENT_SECONDS": SILENT_SECONDS,
        "CHART_WIDTH": charts.WIDTH,
        "CHART_HEIGHT": charts.HEIGHT,
    }
    return made


def draw(template: str, **values: Any) -> Markup:
    """A template with its values."""
    return Markup(environment().get_template(template).render(values))


def draw_sections(names: Iterable[str], values: Mapping[str, Any]) -> dict[str, str]:
    """Sections of a page, each with all values; one that cannot be drawn says so, and takes no other along."""
    return {name: _section(name, values) for name in names}


def _section(name: str, values: Mapping[str, Any]) -> str:
    try:
        return str(draw(f"sections/{name}.html", **values))
    except Exception:
        logger.exception("section %s of a page was not drawn", name)
        return notice(f"{name}: this cannot be drawn; the gateway's log says why")


def notice(message: object) -> str:
    """What is said where something cannot be shown."""
    return str(draw("sections/notice.html", message=str(message)))


def changed(shown: Mapping[str, str], drawn: Mapping[str, str]) -> dict[str, str]:
    """Those of the sections that were drawn which are not shown as they are."""
    return {name: text for name, text in drawn.items() if shown.get(name) != text}


def moment(seconds: float | None) -> str:
    """Unix seconds as the element of a time, in UTC; the page's script writes it in the reader's own zone."""
    if seconds is None:
        return ""
    try:
        when = datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError, ValueError):
        # Of no year from 1 to 9999: who wrote it knows no time.
        return ""
    return Markup('<time datetime="{}">{}</time>').format(
        when.isoformat(timespec="milliseconds"), when.strftime("%Y-%m-%d %H:%M:%S UTC")
    )


def written(value: object) -> str:
    """What another process wrote, of whatever kind, with its unprintable characters to be seen."""
    return "".join(one if one.isprintable() or one == "\n" else ascii(one)[1:-1] for one in str(value))


def plainly(value: object) -> str:
    """A value as a person would write it."""
    match value:
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.3g}"
        case list() | tuple():
            return ", ".join(map(plainly, value))
    return str(value)


def page(request: web.Request, template: str, status: int = 200, **values: Any) -> web.Response:
    """A whole page."""
    principal = principal_of(request)
    values |= {"principal": principal, "has_keys": request.app[GATE].ring is not None}
    answer = web.Response(text=draw(template, **values), content_type="text/html", status=status)
    answer.headers["Content-Security-Policy"] = PAGE_POLICY
    answer.headers["Cache-Control"] = "no-store"
    # With `no-referrer` browsers say of a form that no origin sends it, and the gateway would take it for another's.
    answer.headers["Referrer-Policy"] = "same-origin"
    answer.headers["Vary"] = "Accept, Cookie"
    return answer
