"""Measure the farm on this machine: `python benchmarks/run.py --help`."""

import argparse
import json
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Final

# Run as a script, the folder of this file is on the path, not the one that holds the package.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from benchmarks import (
    attach,
    bulk,
    decode_speed,
    depth,
    encoding,
    gateway,
    host_copy,
    lanes,
    latency,
    low_memory,
    machine,
    overhead,
    overlap,
    pages,
    real_sizes,
    redis_capacity,
    remote_chain,
    remote_failover,
    remote_queue,
    start,
    submit,
    throughput,
    tolerance,
    video_memory,
)
from benchmarks.farm_under_test import Options
from benchmarks.peers.sides import SIDES
from benchmarks.report import Figure
from vaefarm_shared.errors import FarmError

#: Every figure, in the order in which they run.
FIGURES: Final[dict[str, Callable[[Options], Figure]]] = {
    "submit": submit.submit,
    "overhead": overhead.overhead,
    "alone": latency.overhead,
    "latency": latency.latency,
    "throughput": throughput.throughput,
    "real-sizes": real_sizes.real_sizes,
    "overlap": overlap.overlap,
    "encoding": encoding.encoding,
    "video-memory": video_memory.video_memory,
    "depth": depth.depth,
    "bulk": bulk.bulk,
    "lanes": lanes.lanes,
    "attach": attach.attach,
    "redis-capacity": redis_capacity.redis_capacity,
    "gateway-rate": gateway.gateway_rate,
    "gateway-waits": gateway.gateway_waits,
    "pages": pages.pages,
    "remote-queue": remote_queue.remote_queue,
    "remote-chain": remote_chain.remote_chain,
    "remote-failover": remote_failover.remote_failover,
    "start": start.start,
    "tolerance": tolerance.tolerance,
    "low-memory": low_memory.low_memory,
    "decode-speed": decode_speed.decode_speed,
    "host-copy": host_copy.host_copy,
}


def main() -> None:
    """Print the machine and each figure as it is measured."""
    arguments = parse()
    # Ended from outside, it ends what it started all the same.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    options = Options(
        jobs=arguments.jobs,
        burst=arguments.burst,
        depth=arguments.depth,
        rounds=arguments.rounds,
        durable=not arguments.not_durable,
        threads=arguments.threads or torch.get_num_threads(),
        device=arguments.device,
        folder=arguments.folder,
        sides=tuple(arguments.side or ()),
        pixels=tuple(arguments.pixels or ()),
    )
    described = machine.describe(options.folder)
    print(", ".join(f"{name}: {value}" for name, value in described.items()), flush=True)
    figures = {}
    for name in arguments.only or FIGURES:
        try:
            figures[name] = FIGURES[name](options)
        except FarmError as error:
            sys.exit(f"{name}: {error}")
        print(f"\n{figures[name].markdown()}", flush=True)
    if arguments.json is not None:
        raw = {
            "machine": described,
            "options": asdict(options),
            "figures": {name: one.raw for name, one in figures.items()},
        }
        arguments.json.write_text(json.dumps(raw, indent=1, default=str))


def parse() -> argparse.Namespace:
    """The command line."""
    names = [side.name for side in SIDES]
    parser = argparse.ArgumentParser(
        description="What the farm costs, against the same work without it. Starts its own Redis and worker.",
        epilog="Figures: submit; overhead (peers); alone (fake decoder), latency, throughput (demo VAE).",
    )
    parser.add_argument("--jobs", type=positive, default=200, help="jobs of each round (200)")
    parser.add_argument("--burst", type=positive, default=2000, help="jobs of each burst of `overhead` (2000)")
    parser.add_argument("--depth", type=positive, default=200_000, help="jobs of the deep queue of `depth` (200000)")
    parser.add_argument("--side", action="append", choices=names, help="this side of `overhead`; several times (all)")
    parser.add_argument(
        "--pixels",
        action="append",
        type=positive,
        help="side of the pictures of `low-memory`, `decode-speed` and `host-copy`; several times",
    )
    parser.add_argument("--rounds", type=positive, default=3, help="rounds; what is shown is their median (3)")
    parser.add_argument("--only", action="append", choices=FIGURES, help="this figure; may be given several times")
    parser.add_argument("--threads", type=positive, help="torch threads of worker and bare loop (torch's default)")
    parser.add_argument("--device", default="cpu", help="device of the VAE, as `vaefarm worker` takes it (cpu)")
    parser.add_argument("--not-durable", action="store_true", help="Redis acknowledges before the write is on disk")
    folder = Path(tempfile.gettempdir())
    parser.add_argument("--folder", type=Path, default=folder, help="where Redis writes (the system's temporary one)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every raw number here")
    return parser.parse_args()


def positive(text: str) -> int:
    """A whole number above 0, for argparse."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


if __name__ == "__main__":
    main()
