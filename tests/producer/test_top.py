"""`vaefarm top` in a real terminal, a pseudo one, which pyte reads as a terminal does."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyte
import pytest
import redis
from tests.conftest import RedisServer, StartWorker, eventually, redis_servers
from tests.producer.conftest import Call
from tests.producer.test_overview import fail, live
from tests.served_gateway import ServedGateway

from vaefarm_producer import Farm
from vaefarm_producer.readable import duration, sparkline
from vaefarm_producer.top.picture import share_lines
from vaefarm_shared.settings import Settings

LATENTS = np.zeros((1, 4, 8, 8), np.float32)

#: What a forged name or error would have a terminal do.
FORGED = "[red]no[/red] \x1b]0;owned\x07\x1b[2J\x9b31m\r\nforged \u202e"


class Terminal:
    """A command in a terminal of so many columns and lines."""

    def __init__(self, *command: str, columns: int, lines: int, env: dict[str, str]) -> None:
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self._here, there = pty.openpty()
        self.resize(columns, lines)
        self.modes = termios.tcgetattr(there)
        self._there = there
        # These would hold against the terminal's own size.
        inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        environment = inherited | {"TERM": "xterm-256color"} | env
        environment.pop("NO_COLOR", None) if "NO_COLOR" not in env else None
        self.process = subprocess.Popen(
            command, stdin=there, stdout=there, stderr=there, env=environment, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while not self._over.is_set():
            if select.select([self._here], [], [], 0.05)[0]:
                data = os.read(self._here, 65536)
                with self._lock:
                    self.raw += data
                    self._stream.feed(data)

    @property
    def shown(self) -> str:
        with self._lock:
            return "\n".join(line.rstrip() for line in self.screen.display)

    def shows(self, text: str) -> None:
        """Return once that stands on the screen."""
        try:
            eventually(f"the terminal shows {text!r}", lambda: text in self.shown, 30)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.shown}") from None

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self._here, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self._here, keys)

    def ends(self) -> int:
        """The exit code, once it has ended and the last of its output is read."""
        code = self.process.wait(30)
        eventually("its output is read", lambda: not select.select([self._here], [], [], 0.1)[0], 10)
        return code

    @property
    def is_clean(self) -> bool:
        """Whether the terminal is as it was: modes, alternate screen, cursor."""
        with self._lock:
            left = self.raw.count(b"\x1b[?1049h") == self.raw.count(b"\x1b[?1049l") == 1
            shown = self.raw.rfind(b"\x1b[?25h") > self.raw.rfind(b"\x1b[?25l")
        return left and shown and termios.tcgetattr(self._there) == self.modes

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._over.set()
        self._reader.join()
        os.close(self._here)
        os.close(self._there)


OpenTop = Callable[..., Terminal]


@pytest.fixture
def open_top() -> Iterator[OpenTop]:
    """`vaefarm top` in a terminal of its own."""
    opened: list[Terminal] = []

    def open_at(url: str, columns: int = 80, lines: int = 24, *more: str, **env: str) -> Terminal:
        command = (sys.executable, "-m", "vaefarm_producer", "top", "--url", url, "--interval", "0.2", *more)
        opened.append(Terminal(*command, columns=columns, lines=lines, env=env))
        return opened[-1]

    yield open_at
    for one in opened:
        one.close()


@pytest.mark.slow
@pytest.mark.parametrize(("columns", "lines"), [(80, 24), (120, 40)])
def test_the_farm_stands_on_the_screen_whatever_its_size(
    farm_url: str,
    farm: Farm,
    connection: redis.Redis,
    start_worker: StartWorker,
    open_top: OpenTop,
    columns: int,
    lines: int,
) -> None:
    fail(farm, connection, "poster-7", "its latent holds NaN", vae="sdxl")
    farm.submit_many([LATENTS] * 400, vae="demo", reproducible=True)
    farm.submit_many([LATENTS] * 3, vae="sdxl", priority="high")
    farm.pause("sdxl")
    start_worker("--decoder", "fake", "--fake-seconds", "0.3", vaes="demo")
    for n in range(40):
        live(connection, f"z-{n:02}", vaes={"demo": "r"})

    terminal = open_top(farm_url, columns, lines)

    terminal.shows("worker-0")
    terminal.shows("1 x demo")
    # The last line of the first picture, which comes in several pieces.
    terminal.shows("q ends")
    shown = terminal.shown.splitlines()
    assert all(len(line) <= columns for line in shown)
    (demo,), (sdxl,) = ([line for line in shown if line.startswith(f"{vae} ")] for vae in ("demo", "sdxl"))
    assert demo.split()[2:3] == ["0"]
    assert sdxl.split()[1:5] == ["3", "3", "0", "0"]
    assert "paused" in sdxl
    (worker,) = [line for line in shown if line.startswith("worker-0")]
    assert "demo*" in worker
    assert "%" in worker
    assert any("poster-7" in line and "its latent" in line for line in shown)
    assert any(line.startswith("paused: sdxl") for line in shown)
    assert any(line.startswith("... and ") and line.endswith(" more") for line in shown)
    assert ("finished" in terminal.shown, "host" in terminal.shown) == ((columns == 120,) * 2)
    assert shown[-1] == "q ends"
    assert "images/s, " in terminal.shown

    terminal.resize(100, 30)
    terminal.screen.resize(30, 100)
    eventually("it is drawn anew", lambda: terminal.shown.splitlines()[-1] == "q ends", 10)
    terminal.type(b"q")
    assert (terminal.ends(), terminal.is_clean) == (0, True)


@pytest.mark.slow
def test_ctrl_c_ends_it_with_exit_0_and_gives_the_terminal_back(farm_url: str, open_top: OpenTop, farm: Farm) -> None:
    farm.submit(LATENTS, vae="demo")
    terminal = open_top(farm_url)
    terminal.shows("demo")
    assert not terminal.is_clean

    terminal.type(b"x")
    terminal.type(b"\x03")

    assert (terminal.ends(), terminal.is_clean) == (0, True)
    assert b"Traceback" not in terminal.raw


@pytest.mark.slow
def test_sigterm_gives_the_terminal_back_too(farm: Farm, server: RedisServer, open_top: OpenTop) -> None:
    terminal = open_top(server.url)
    terminal.shows("no queue yet")

    terminal.process.send_signal(signal.SIGTERM)

    assert (terminal.ends(), terminal.is_clean) == (128 + signal.SIGTERM, True)


@pytest.mark.slow
def test_what_others_wrote_commands_no_terminal(
    farm_url: str, farm: Farm, connection: redis.Redis, open_top: OpenTop
) -> None:
    fail(farm, connection, "forged", FORGED)
    farm.submit(LATENTS, vae="demo", producer="crew")
    endpoint = {"vae": "demo", "name": "e", "url": "https://e/", "state": "open", "last_error": FORGED}
    batch = {"vae": FORGED, "jobs": 1, "pictures": 1, "seconds": 1.0}
    told = {"vaes": {FORGED: "r"}, "hot": [FORGED], "host": FORGED, "device": FORGED, "device_fault": FORGED}
    live(connection, f"w{FORGED}", endpoints=[endpoint], batch=batch, sizes={}, **told)
    connection.sadd("rq:queues", f"rq:queue:vaefarm.{FORGED}.normal.s.x")
    connection.sadd("vaefarm:paused", FORGED)

    terminal = open_top(farm_url, 120, 40)

    terminal.shows("forged  ")
    terminal.shows("[red]no[/red] \\x1b]0;owned\\x07\\x1b[2J")
    assert terminal.screen.title == ""
    for bad in (b"\x1b]0;", b"\x07", b"\x1b[2J\\x9b", b"\xc2\x9b", "\u202e".encode()):
        assert bad not in terminal.raw
    assert not any(line.startswith("forged \\u") for line in terminal.shown.splitlines())


@pytest.mark.slow
def test_without_colours_there_are_none(
    farm: Farm, connection: redis.Redis, server: RedisServer, open_top: OpenTop
) -> None:
    fail(farm, connection, "a")
    coloured, plain = open_top(server.url), open_top(server.url, NO_COLOR="1")
    for terminal in (coloured, plain):
        terminal.shows("it went wrong")

    assert b"\x1b[31m" in coloured.raw
    assert b"\x1b[3" not in plain.raw


@pytest.mark.slow
@pytest.mark.parametrize("way", ["redis", "http"])
def test_while_redis_or_the_gateway_is_away_the_last_picture_stays_and_it_goes_on_after(
    way: str, tmp_path: Path, settings: Settings, open_top: OpenTop
) -> None:
    own = RedisServer(next(iter(redis_servers().values())), tmp_path, ("--appendonly", "yes"))
    own.start()
    gateway = ServedGateway(settings.at(own.url), delivers=False)
    away: RedisServer | ServedGateway = own
    try:
        with Farm(own.url) as farm:
            farm.submit(LATENTS, vae="demo", job_id="before")
            if way == "http":
                gateway.start()
                away = gateway
            terminal = open_top(gateway.url if way == "http" else own.url)
            terminal.shows("waiting 1 ")

            away.stop()
            terminal.shows("away since ")
            assert "waiting 1 " in terminal.shown
            assert terminal.process.poll() is None

            away.start()
            farm.submit(LATENTS, vae="demo", job_id="after")
            terminal.shows("waiting 2 ")
            eventually("it says no more that it is away", lambda: "away since" not in terminal.shown, 10)
            terminal.type(b"q")
            assert terminal.ends() == 0
    finally:
        gateway.stop()
        own.stop()


def test_a_farm_that_cannot_be_read_any_more_ends_it_with_one_line(
    server: RedisServer, connection: redis.Redis, open_top: OpenTop
) -> None:
    terminal = open_top(server.url)
    terminal.shows("no worker")

    connection.set("vaefarm:paused", "not the set that it should be")

    assert terminal.ends() == 1
    assert "cannot be read" in terminal.shown
    assert "Traceback" not in terminal.shown


def test_into_a_pipe_one_picture_is_printed_as_plain_text(
    vaefarm: Call, farm_url: str, farm: Farm, connection: redis.Redis
) -> None:
    fail(farm, connection, "poster-7", FORGED)
    live(connection, "w")

    printed = vaefarm("top", url=farm_url)

    assert (printed.returncode, printed.stderr) == (0, "")
    assert "\x1b" not in printed.stdout
    assert "poster-7" in printed.stdout
    assert any(line.startswith("w ") for line in printed.stdout.splitlines())
    assert vaefarm("top", "--once", url=farm_url).stdout.splitlines()[3:] == printed.stdout.splitlines()[3:]


def test_a_farm_that_cannot_be_reached_at_the_start_is_one_line_and_exit_1(vaefarm: Call) -> None:
    done = vaefarm("top", url="redis://:secret@127.0.0.1:1/0")

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "secret" not in done.stderr


def test_no_secret_of_the_farms_address_is_shown(vaefarm: Call, server: RedisServer, connection: redis.Redis) -> None:
    connection.acl_setuser("sam", enabled=True, passwords=["+se@cret"], commands=["+@all"], keys=["*"])
    try:
        shown = vaefarm("top", url=server.url.replace("//", "//sam:se%40cret@")).stdout
    finally:
        connection.acl_deluser("sam")

    assert f"redis://127.0.0.1:{server.port}/0" in shown
    assert "cret" not in shown


def test_lines_are_shared_by_need() -> None:
    assert share_lines(10, [2, 3, 1]) == [2, 3, 1]
    assert share_lines(10, [2, 50, 50]) == [2, 4, 4]
    assert share_lines(0, [2, 3]) == share_lines(-4, [2, 3]) == [0, 0]


@pytest.mark.parametrize(
    ("seconds", "says"),
    [(0, "0 s"), (0.44, "0.4 s"), (59.6, "60 s"), (61, "1 min 1 s"), (7200, "2 h"), (90000, "1 d 1 h"), (None, "")],
)
def test_seconds_are_said_in_the_units_that_fit(seconds: float | None, says: str) -> None:
    assert duration(seconds) == says


def test_a_sparkline_is_never_longer_than_its_room_and_keeps_the_newest_at_its_end() -> None:
    assert sparkline([0.0, 1.0, 2.0], 10) == "▁▄█"
    assert sparkline([0.0] * 5, 10) == "▁" * 5
    long = sparkline([1.0] * 99 + [100.0], 10)
    assert len(long) <= 10
    assert long[-1] == "█"
    assert sparkline([], 10) == ""
