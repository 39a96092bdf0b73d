"""The command `top`, and the one picture that `status` prints."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Annotated, Final
from urllib.parse import urlsplit

import typer
from rich.console import Console, ConsoleDimensions
from rich.live import Live

from vaefarm_shared.overview import Overview
from vaefarm_shared.settings import Settings

from ..commands import FarmOption, farm_settings, open_farm
from .keyboard import Keyboard
from .picture import Frame, picture
from .tables import moment
from .watching import Seen, Watcher

#: Columns of what is printed into a pipe or a file, unless COLUMNS says otherwise.
PIPE_WIDTH: Final[int] = 120

#: Seconds between two looks at keys and at the terminal's size.
KEY_SECONDS: Final[float] = 0.1

HINT: Final[str] = "q ends"


def top(
    url: FarmOption = None,
    interval: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.1, max=3600)] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Print one picture and end; so too into a pipe.")] = False,
) -> None:
    """Watch the farm: what waits for each VAE, workers and what they do, newest failures. q or Ctrl-C ends it.

    While Redis or the gateway is away the last picture stays, and says so.
    """
    console = Console()
    with open_farm(url) as farm:
        # What is no URL was said to be none by now.
        place = place_of(farm_settings(url, None))
        if once or not console.is_terminal:
            print_picture(farm.overview(), place)
            return
        watcher = Watcher(farm, interval)
        try:
            with suppress(KeyboardInterrupt):
                show(console, watcher, place, interval)
        finally:
            watcher.stop()


def show(console: Console, watcher: Watcher, place: str, interval: float) -> None:
    """Draw what is seen until `q`, Ctrl-C or the terminal's end. Raises what looking raised."""
    drawn: tuple[Seen, ConsoleDimensions] | None = None
    with ended_by_signals(), Keyboard() as keyboard, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            now = watcher.seen(), console.size
            if drawn is None or now[0] is not drawn[0] or now[1] != drawn[1]:
                seen, (width, height) = now
                frame = Frame(place, width, height, seen.history, interval, notice_of(seen), HINT)
                live.update(picture(seen.overview, frame), refresh=True)
                drawn = now
            keys = keyboard.wait(KEY_SECONDS)
            if keys is None or "q" in keys.lower():
                return


def notice_of(seen: Seen) -> str:
    """Why a picture is not of now; '' where it is."""
    if not seen.away:
        return ""
    return f"as of {moment(seen.overview.taken_at)}; away since {moment(seen.away_since)}: {seen.away}"


def print_picture(overview: Overview, place: str) -> None:
    """Print how the farm stands, all of it."""
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PIPE_WIDTH
    console.print(picture(overview, Frame(place, console.width)))


def place_of(settings: Settings) -> str:
    """Where a farm is, as it may be shown: without user, password and query."""
    secret = settings.redis_url if settings.url is None else settings.url
    parts = urlsplit(secret.get_secret_value())
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Have SIGTERM end the block as an error does, so that the terminal is given back."""

    def end(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
