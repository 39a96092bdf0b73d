"""`python docs/pictures/make_top.py`: a farm with two fake workers and some jobs, and what `vaefarm top` shows of it as
docs/pictures/top.svg. Half a minute.
"""

import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import numpy as np
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console

from vaefarm_producer import Farm
from vaefarm_producer.local.redis_server import LocalRedis
from vaefarm_producer.top.picture import Frame, picture
from vaefarm_producer.top.watching import Watcher
from vaefarm_shared.settings import Settings

OUT: Final[Path] = Path(__file__).with_name("top.svg")
WIDTH, HEIGHT = 110, 21

#: Seconds between two looks, and for which the farm is watched.
INTERVAL, SECONDS = 0.5, 25.0

#: Rich's own, without the fonts that it would have fetched.
TEMPLATE: Final[str] = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL).replace(
    "Fira Code, monospace", "'DejaVu Sans Mono', Menlo, Consolas, monospace"
)


def start_worker(url: str, name: str, vaes: str, seconds: float) -> "subprocess.Popen[bytes]":
    """A worker whose batches take so long, with room for eight pictures of 1024 x 1024."""
    options = ["--name", name, "--vaes", vaes, "--decoder", "fake", "--fake-seconds", str(seconds)]
    memory = ["--fake-memory-bytes", str(32 * 2**30), "--fake-devices", "2"]
    environment = os.environ | {"VAEFARM_REDIS_URL": url}
    return subprocess.Popen([sys.executable, "-m", "vaefarm_worker", *options, *memory], env=environment)


def fill(farm: Farm) -> None:
    """Queue what the picture shows: work for minutes, a VAE that nobody serves, one that is paused, one failure."""
    small, large = np.zeros((1, 4, 128, 128), np.float16), np.zeros((1, 4, 384, 384), np.float16)
    farm.submit(large, vae="sdxl", job_id="poster-7", priority="high")
    for priority, jobs in (("high", 40), ("normal", 900), ("low", 260)):
        farm.submit_many([small] * jobs, vae="sdxl", priority=priority)
    farm.submit_many([np.zeros((1, 16, 128, 128), np.float16)] * 350, vae="flux")
    farm.submit_many([np.zeros((1, 4, 64, 64), np.float16)] * 120, vae="sd-v1")
    farm.submit_many([np.zeros((1, 4, 128, 128), np.float16)] * 3, vae="auraflow")


def main() -> None:
    """Make the picture."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redis = stack.enter_context(LocalRedis(folder / "redis", durable=False))
        farm = stack.enter_context(Farm(redis.url, settings=Settings.model_construct(budget_bytes=8 * 2**30)))
        farm.pause("sd-v1")
        fill(farm)
        for name, vaes, seconds in (("gpu-host-1", "sdxl,flux,sd-v1", 0.6), ("gpu-host-2", "sdxl", 0.4)):
            worker = start_worker(redis.url, name, vaes, seconds)
            stack.callback(worker.wait)
            stack.callback(worker.send_signal, signal.SIGTERM)
        while not any(one.finished for one in farm.overview().workers):
            time.sleep(0.1)
        watcher = Watcher(farm, INTERVAL)
        time.sleep(SECONDS)
        seen = watcher.seen()
        watcher.stop()
        console = Console(record=True, width=WIDTH, height=HEIGHT, file=io.StringIO(), force_terminal=True)
        frame = Frame("redis://queue.example:6379/0", WIDTH, HEIGHT, seen.history, INTERVAL, hint="q ends")
        console.print(picture(seen.overview, frame))
        print(console.export_text(clear=False))
        OUT.write_text(console.export_svg(title="vaefarm top", code_format=TEMPLATE, unique_id="top"))
        print(f"{OUT}: {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
