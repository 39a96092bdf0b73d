"""What pages of a farm show: jobs that fail, and a farm with something in each section."""

import json
from typing import NoReturn

import numpy as np
import redis
from tests.conftest import Serve

from vaefarm_producer import Farm
from vaefarm_shared import workers
from vaefarm_shared.catalogue import Catalogue
from vaefarm_worker.decoder import Batch
from vaefarm_worker.fake_decoder import FakeDecoder
from vaefarm_worker.memory_mode import MemoryMode

LATENTS = np.zeros((1, 4, 8, 8), np.float32)

#: A job id as long as they may be.
LONG_ID = "j" * 100

#: Text that has no place to be broken at.
LONG_WORD = "Donaudampfschifffahrtsgesellschaft" * 6


class Failing(FakeDecoder):
    """Decodes nothing."""

    def __init__(self, reason: str = "no such luck") -> None:
        super().__init__([Catalogue.load()["demo"]])
        self._reason = reason

    def decode(self, batch: Batch, *, mode: MemoryMode = MemoryMode.WHOLE) -> NoReturn:
        raise RuntimeError(self._reason)


def fail(farm: Farm, serve: Serve, job_id: str, reason: str = "no such luck") -> None:
    """Have a job that has failed."""
    farm.submit(LATENTS, vae="demo", job_id=job_id)
    serve(Failing(reason))


def fill(farm: Farm, serve: Serve, connection: redis.Redis) -> list[str]:
    """Have something in each section of the pages. Returns the pages' paths, one that does not exist among them."""
    for name in ("finished", LONG_ID):
        farm.submit(LATENTS, vae="demo", job_id=name, metadata={"prompt": f"a boat, {LONG_WORD}", LONG_WORD: LONG_WORD})
    serve()
    fail(farm, serve, "failed", f"no room: {LONG_WORD}")
    farm.submit(LATENTS, vae="demo", job_id="canceled").cancel()
    farm.submit(LATENTS, vae="demo", job_id="queued", priority="high", preview="taesd")
    serve(FakeDecoder([Catalogue.load()["taesd"]]))
    farm.submit(np.zeros((1, 4, 8, 8), np.float32), vae="sdxl", job_id="waits")
    farm.pause("sdxl")
    endpoint = {"vae": "demo", "name": "far", "url": f"https://far.example/{LONG_WORD}", "state": "open"}
    described = {
        "vaes": {"demo": "r", "sdxl": "r"},
        "sizes": {},
        "device": "cuda:0",
        "host": LONG_WORD,
        "hot": ["demo"],
        "gpu": "NVIDIA H100 80GB HBM3",
        "device_fault": "it fell off the bus",
        "endpoints": [endpoint | {"last_error": LONG_WORD}],
    }
    workers.note_death(connection, "gone")
    connection.sadd("rq:workers", "rq:worker:listed")
    workers.publish_worker(connection, "listed", described)
    device = json.dumps({"reason": f"it fell off the bus {LONG_WORD}", "since": 1.0})
    connection.hset("vaefarm:quarantine", "GPU-0d1", device)
    jobs = ("finished", "failed", "canceled", "queued", LONG_ID)
    return ["/", *(f"/jobs/{name}" for name in jobs), "/vaes/demo", "/vaes/sdxl", "/jobs/unknown"]
