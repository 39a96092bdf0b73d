"""A worker whose simulated device says in each job's record when it decoded it.

A worker like that of `vaefarm worker --decoder fake --fake-seconds S`, which this runs otherwise.
"""

import sys
import time
from typing import Final

from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.records import DecodeReport
from vaefarm_shared.settings import Settings
from vaefarm_worker.commands import default_name, stop_on_signals
from vaefarm_worker.decoder import Batch, Decoded
from vaefarm_worker.fake_decoder import FakeDecoder
from vaefarm_worker.memory_mode import MemoryMode
from vaefarm_worker.worker import Worker

#: What stands before the two readings of the clock, among a report's switches.
STAMP: Final = "decoded:"


class StampingDecoder(FakeDecoder):
    """Writes CLOCK_MONOTONIC, which all processes of a machine share, at a decode's begin and end."""

    def decode(self, batch: Batch, *, mode: MemoryMode = MemoryMode.WHOLE) -> list[Decoded]:
        """As the fake decoder, with both readings in nanoseconds as a switch."""
        began = time.monotonic_ns()
        decoded = super().decode(batch, mode=mode)
        stamp = f"{STAMP}{began}:{time.monotonic_ns()}"
        return [Decoded(one.pixels, one.dtype, switches=(stamp,), files=one.files) for one in decoded]


def stamps(report: DecodeReport) -> tuple[float, float]:
    """Seconds of the clock at which the decode that made a job's picture began and ended."""
    (stamp,) = (one for one in report.switches if one.startswith(STAMP))
    began, _, ended = stamp.removeprefix(STAMP).partition(":")
    return int(began) / 1e9, int(ended) / 1e9


def main(vae: str, seconds_per_batch: str) -> None:
    """Serve a VAE until told to stop."""
    decoder = StampingDecoder([Catalogue.load()[vae]], float(seconds_per_batch))
    worker = Worker(Settings.from_env(), decoder, default_name())
    stop_on_signals(worker)
    worker.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
