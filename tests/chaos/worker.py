"""A worker process for tests of failure: `python -m tests.chaos.worker`, the worker's own command with a decoder and
faults of the tests'. Settings are read from `VAEFARM_*`; options that are not listed here are the command's.
"""

import argparse
import datetime
import json
import sys
import time

import typer

from vaefarm_shared.cli_errors import run
from vaefarm_shared.job import JOB_VERSION, JobSpec
from vaefarm_worker import commands
from vaefarm_worker.decoder import Decoder

from .decoder import VAE, ChaosDecoder
from .faults import Fault, FaultyConnections


def main() -> int:
    """Serve until told to stop, or until the fault."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--fault", type=Fault.from_json, help="a Fault as JSON")
    parser.add_argument("--cut-rate", type=float, default=0.0, help="share of round trips whose reply is lost")
    parser.add_argument("--seed", type=int, default=0, help="of the replies lost")
    parser.add_argument("--clock-ahead", type=float, default=0.0, help="seconds by which its clock is wrong")
    parser.add_argument("--job-version", type=int, help="the only version of jobs that it reads")
    parser.add_argument("--seconds", type=float, default=0.0, help="what a batch takes")
    parser.add_argument("--faulty-after", type=int, help="decodes until the device is at fault")
    parser.add_argument("--memory-pixels", type=int, help="pixels that the device holds")
    options, rest = parser.parse_known_args()
    if options.clock_ahead:
        set_clock(options.clock_ahead)
    if options.job_version is not None:
        set_job_version(options.job_version)
    FaultyConnections(options.fault, options.cut_rate, options.seed).install()
    decoder: Decoder = ChaosDecoder(options.seconds, options.faulty_after, options.memory_pixels)
    vars(commands)["make_decoder"] = lambda *_, **__: decoder
    sys.argv[1:] = ["--vaes", VAE, *rest]
    app = typer.Typer(add_completion=False)
    app.command()(commands.worker)
    return run(app)


def set_clock(ahead_seconds: float) -> None:
    """Make this process' wall clock wrong, for our code and for RQ's."""
    right = time.time

    def wrong_time() -> float:
        return right() + ahead_seconds

    def wrong_now() -> datetime.datetime:
        return datetime.datetime.fromtimestamp(wrong_time(), datetime.UTC)

    time.time = wrong_time
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "rq" and hasattr(module, "now"):
            vars(module).update(now=wrong_now, current_timestamp=lambda: int(wrong_time()))


def set_job_version(version: int) -> None:
    """Make this process one of another release, which reads jobs of that version alone."""
    read = JobSpec.from_json

    def from_json(text: str | bytes) -> JobSpec:
        fields = json.loads(text)
        return read(json.dumps(fields | {"version": fields["version"] - version + JOB_VERSION}))

    JobSpec.from_json = from_json  # type: ignore[method-assign]


if __name__ == "__main__":
    sys.exit(main())
