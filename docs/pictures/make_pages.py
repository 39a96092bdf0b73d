"""`python docs/pictures/make_pages.py`: a farm with two workers under a load that comes and goes, and its pages under
load, at rest and with a dead worker, as docs/pictures/page-*.jpg. Eleven minutes: the charts are of what it did.

Needs `pip install 'vaefarm[browser]'` and Chromium (CHROMIUM=its path).
"""

import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import numpy as np
from playwright.sync_api import Browser, sync_playwright
from safetensors import safe_open

from vaefarm_producer import Farm
from vaefarm_producer.local.processes import end, spawn
from vaefarm_producer.local.redis_server import LocalRedis, free_port

OUT: Final[Path] = Path(__file__).parent
EXAMPLES: Final[Path] = OUT.parents[1] / "examples"

#: Seconds of load, and of rest after it.
LOAD_SECONDS, REST_SECONDS = 420.0, 150.0

#: Pixels of a desk's window and of a phone's.
DESK, PHONE = (1280, 900), (390, 844)

COMMAND: Final = [sys.executable, "-m", "vaefarm_producer"]


def main() -> None:
    """Make the pictures."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        redis = stack.enter_context(LocalRedis(folder / "redis", durable=False))
        environment = os.environ | {"VAEFARM_REDIS_URL": redis.url, "OMP_NUM_THREADS": "1"}
        log = stack.enter_context((folder / "processes.log").open("wb"))
        workers = [
            spawn([*COMMAND, "worker", "--vaes", "demo", "--name", name, "--device", "cpu"], environment, log)
            for name in ("gpu-host-1", "gpu-host-2")
        ]
        port = free_port()
        gateway = spawn([*COMMAND, "gateway", "--port", str(port)], environment, log)
        for child in (*workers, gateway):
            stack.callback(end, child, 20.0)
        farm = stack.enter_context(Farm(redis.url))
        latents = make_latents(folder / "latents")
        browser = stack.enter_context(sync_playwright()).chromium.launch(
            executable_path=chromium(), args=["--no-sandbox"]
        )
        url = f"http://127.0.0.1:{port}"
        wait("both workers serve", lambda: len(farm.workers()) == 2)
        load(farm, latents)
        newest = farm.submit(latents[0][0], vae="demo", metadata=latents[0][1], priority="high", job_id="order-17")
        newest.wait(timeout=60)
        shoot(browser, url, "load", DESK)
        shoot(browser, url, "load-phone", PHONE, dark=True)
        shoot(browser, f"{url}/jobs/order-17", "job", DESK)
        shoot(browser, f"{url}/vaes/demo", "vae", PHONE)
        wait("nothing waits", lambda: not farm.overview().totals.queued, 120.0)
        time.sleep(REST_SECONDS)
        shoot(browser, url, "rest", DESK, dark=True)
        workers[0].kill()
        wait("it is missed", lambda: any(one.code == "died" for one in farm.overview().warnings))
        shoot(browser, url, "dead-worker", DESK)


def make_latents(folder: Path) -> list[tuple[np.ndarray, dict[str, str]]]:
    """Blends of the demo's latents, with what each should be known by."""
    subprocess.run([sys.executable, EXAMPLES / "make_latents.py", folder, "--count", "120"], check=True)
    found = []
    for path in sorted(folder.iterdir()):
        with safe_open(path, "np") as file:
            found.append((file.get_tensor("latents"), dict(file.metadata())))
    return found


def load(farm: Farm, latents: list[tuple[np.ndarray, dict[str, str]]]) -> None:
    """Jobs at a pace that comes and goes, the last of them more than the workers can take; a job that fails."""
    began, number = time.monotonic(), 0
    farm.submit(np.full((1, 4, 24, 24), 3e38, np.float32), vae="demo", job_id="order-13")
    while (passed := time.monotonic() - began) < LOAD_SECONDS:
        pace = 6 + 6 * math.sin(passed / 40) + (40 if passed > LOAD_SECONDS - 40 else 0)
        latent, metadata = latents[number % len(latents)]
        farm.submit(latent, vae="demo", metadata=metadata, priority=("high", "normal", "low")[number % 3])
        number += 1
        time.sleep(1 / max(pace, 1.0))


def shoot(browser: Browser, url: str, name: str, size: tuple[int, int], *, dark: bool = False) -> None:
    """One page, once it is live and its pictures are there."""
    width, height = size
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light", locale="en-GB"
    )
    page = context.new_page()
    page.goto(url)
    page.wait_for_selector("#connection.live")
    page.wait_for_function("[...document.images].every((one) => one.complete && one.naturalWidth > 0)")
    path = OUT / f"page-{name}.jpg"
    page.screenshot(path=path, full_page=True, type="jpeg", quality=82)
    context.close()
    print(f"{path}: {path.stat().st_size} bytes")


def chromium() -> str:
    """Where Chromium is."""
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if found is None:
        sys.exit("no Chromium: install it, or say CHROMIUM=its path")
    return found


def wait(what: str, happened: Callable[[], bool], seconds: float = 60.0) -> None:
    """Return once it has happened."""
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            sys.exit(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.2)


if __name__ == "__main__":
    main()
