"""The storm's short form: a minute of it in place of `make chaos`' quarter of an hour."""

import os
import re
import subprocess
import sys

import pytest
from tests.chaos.crew import REPOSITORY

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_random_kills_under_load_lose_nothing_and_publish_nothing_twice() -> None:
    plan = {"CHAOS_SEED": "3", "CHAOS_KILLS": "40", "CHAOS_WORKERS": "3", "CHAOS_SECONDS": "60"}

    storm = subprocess.run(
        [sys.executable, "-m", "tests.chaos.storm"],
        env=os.environ | plan,
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )

    last = storm.stdout.splitlines()[-1]
    assert re.fullmatch(r"\d{2,} jobs, 0 lost, 0 published twice, worst recovery \d+\.\d s", last), storm.stdout
    assert storm.returncode == 0, storm.stderr
