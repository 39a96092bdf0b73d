"""`vaefarm bench` that is ended from outside tells what it has measured, and by what it was ended."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.conftest import DEADLINE_SECONDS

from vaefarm_worker.bench.interruption import Interruption

BENCH = ("-m", "vaefarm_producer", "bench", "--device", "cpu", "--modes", "plain", "--sizes", "64,128,256")

#: Becomes the command, with the signals as a shell gives them to it, whatever the tests' own process does with them.
STARTER = """
import os, signal, sys
for signum in (signal.SIGINT, signal.SIGTERM):
    signal.signal(signum, signal.SIG_IGN if sys.argv[1] == str(signum) else signal.SIG_DFL)
os.execv(sys.argv[2], sys.argv[2:])
"""


class Terminal:
    """A command whose standard error is a terminal, so that it shows what it is at."""

    def __init__(self, *arguments: str, ignored: signal.Signals | None = None) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", STARTER, str(ignored), sys.executable, *arguments],
            stdout=subprocess.PIPE,
            stderr=theirs,
            env=os.environ | {"TERM": "xterm", "COLUMNS": "200", "OMP_NUM_THREADS": "1"},
            text=True,
        )
        os.close(theirs)
        self.shown = ""

    def wait_for(self, pattern: str) -> None:
        """Until it shows what matches: ten times a second it shows what it is at."""
        self._read_until(lambda: re.search(pattern, self.shown) is not None)
        assert re.search(pattern, self.shown), f"no {pattern!r} in {self.shown!r}"

    def end(self) -> tuple[int, str]:
        """Exit code and standard output, once it has ended."""
        # A terminal that nobody reads holds up who writes to it.
        self._read_until(lambda: False)
        out, _ = self.process.communicate(timeout=DEADLINE_SECONDS)
        return self.process.returncode, out

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        os.close(self._ours)

    def _read_until(self, happened: Callable[[], bool]) -> None:
        """Read what it shows until something has happened, or it shows no more."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not happened():
            ready, _, _ = select.select([self._ours], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, self.shown
            try:
                self.shown += os.read(self._ours, 1 << 16).decode(errors="replace")
            except OSError:
                # Linux' word for a terminal that nobody writes to any more.
                return


@pytest.fixture
def start() -> Iterator[Callable[..., Terminal]]:
    started: list[Terminal] = []

    def begin(*arguments: str, ignored: signal.Signals | None = None) -> Terminal:
        started.append(Terminal(*arguments, ignored=ignored))
        return started[-1]

    yield begin
    for one in started:
        one.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("signum", "code", "how"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
def test_a_signal_gives_what_was_measured_until_then(
    signum: signal.Signals, code: int, how: str, start: Callable[..., Terminal], tmp_path: Path
) -> None:
    bench = start(*BENCH, "--runs", "100", "--json", "--out", str(tmp_path))
    # Any call after the second, with which it has a figure.
    bench.wait_for(r"128 px, batch 1, plain, call (?!2\b)\d")

    bench.process.send_signal(signum)
    found, out = bench.end()

    assert found == code, bench.shown
    written = json.loads((tmp_path / "bench.json").read_text())
    sizes = [row["size"] for row in written["rows"] if row["outcome"] == "measured" and row["seconds"] > 0]
    # A machine that stands still for a while may come to the last one.
    assert sizes in ([64, 128], [64, 128, 256])
    assert f"vaefarm: {how}; {len(sizes)} of 3 cases were measured" in bench.shown
    assert "Traceback" not in bench.shown
    assert json.loads(out) == written
    assert written["complete"] is False
    assert (tmp_path / "bench.png").is_file()


@pytest.mark.slow
def test_what_a_shell_put_behind_itself_hears_no_ctrl_c(start: Callable[..., Terminal], tmp_path: Path) -> None:
    bench = start(*BENCH, "--runs", "5", "--out", str(tmp_path), ignored=signal.SIGINT)
    bench.wait_for("matrix products")

    bench.process.send_signal(signal.SIGINT)

    assert bench.end()[0] == 0, bench.shown
    assert json.loads((tmp_path / "bench.json").read_text())["complete"] is True


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_python_drops_ends_the_measuring_all_the_same() -> None:
    class Tensor:
        pass

    held = Tensor()
    finaliser = weakref.ref(held, lambda _: signal.raise_signal(signal.SIGTERM))
    with Interruption() as interruption:
        interruption.check()
        del held
        assert finaliser() is None, "and what the handler raised was dropped"
        with pytest.raises(KeyboardInterrupt):
            interruption.check()
    assert (interruption.how, interruption.exit_code) == ("terminated", 143)


def test_afterwards_signals_do_what_they_did_before() -> None:
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]

    with Interruption():
        assert signal.getsignal(signal.SIGTERM) is not before[1]

    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before
