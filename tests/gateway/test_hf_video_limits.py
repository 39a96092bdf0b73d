"""Videos that the Hugging Face protocol refuses, before anything is queued, and large replies out of the store."""

import asyncio
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from PIL import Image
from tests.conftest import Serve, eventually
from tests.gateway.conftest import Gateway
from tests.gateway.test_hf_refusals import refused, say_that_one_lives

from vaefarm_producer import Farm
from vaefarm_producer.gateway.pieces import LARGE_BYTES
from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.settings import Settings
from vaefarm_worker.fake_decoder import FakeDecoder

UINT8 = {"partial_postprocess": "True"}

#: What is said of a tensor that is too large.
FILE = "at most 268435456 are given: ask for the file with output_type=mp4"
HALF = ", or for half as many with output_type=pt and partial_postprocess=True"


@pytest.fixture(autouse=True)
def worker(connection: redis.Redis) -> None:
    """A worker that says it lives, and does nothing."""
    say_that_one_lives(connection, "wan", "demo")


def asked(*shape: int, **said: Any) -> dict[str, Any]:
    """A request for zeros of that shape in float16."""
    query = [("shape", str(size)) for size in shape] + [("dtype", "float16"), *said.items()]
    return {"params": query, "data": io.BytesIO(np.zeros(shape, np.float16).tobytes())}


@pytest.mark.parametrize(
    ("shape", "said", "says"),
    [
        ((1, 16, 62, 4, 6), {}, "decode to 245 frames; VAE 'wan' takes at most 241 in one video"),
        ((1, 16, 4, 6), {}, "have rank 4, shape (1, 16, 4, 6); expected video: (n, 16, (frames-1)/4+1, height/8"),
        ((1, 4, 4, 4, 6), {}, "have 4 channels; VAE 'wan' expects 16"),
        ((1, 16, 4, 4, 6), {"num_frames": "16"}, "decode to 13 frames; the job says num_frames 16"),
        ((1, 16, 4, 4, 6), {"fps": "1000"}, "fps"),
        ((2, 16, 4, 4, 6), {}, "hold 2 videos, and one reply holds one; send them one by one, or ask for the raw"),
        ((2, 16, 4, 4, 6), {"output_type": "pil"}, "hold 2 videos, and one reply holds one"),
        # 81 frames of 1280 x 720: as floats more than there may be, as uint8 not.
        ((1, 16, 21, 90, 160), {"output_type": "pt"}, f"447897600 bytes, 81 frames of 1280 x 720; {FILE}{HALF}"),
        ((1, 16, 21, 90, 160), {"output_type": "pil"}, f"447897600 bytes, 81 frames of 1280 x 720; {FILE}{HALF}"),
        ((1, 16, 33, 90, 160), {"output_type": "pt"}, f"713318400 bytes, 129 frames of 1280 x 720; {FILE}."),
        ((1, 16, 33, 90, 160), {"output_type": "pt", **UINT8}, f"356659200 bytes, 129 frames of 1280 x 720; {FILE}."),
    ],
)
async def test_a_video_that_cannot_be_is_400_with_the_reason(start_gateway, farm: Farm, shape, said, says) -> None:
    gateway = await start_gateway(wait_seconds=0.1)
    async with gateway.client.post("/hf/wan", **asked(*shape, **said)) as answer:
        assert says in await refused(answer, 400) + "."
    assert farm.queues() == []


async def test_a_picture_is_not_encoded_by_a_vae_of_videos(gateway: Gateway, farm: Farm) -> None:
    async with gateway.client.post("/hf/wan", **asked(1, 3, 32, 48)) as answer:
        assert "VAE 'wan' makes videos" in await refused(answer, 400)
    assert farm.queues() == []


async def test_no_worker_with_room_for_the_video_is_503_at_once(gateway: Gateway, connection: redis.Redis) -> None:
    say_that_one_lives(connection, "wan", sizes=("s",))
    async with gateway.client.post("/hf/wan", **asked(1, 16, 21, 60, 104)) as answer:
        assert "room for 81 frames of 832 x 480 pixels; start one with more memory, or send fewer" in await refused(
            answer, 503
        )


@pytest.mark.parametrize(
    ("said", "shape", "dtype"),
    [
        ({"output_type": "pt"}, [1, 3, 13, 256, 256], "float16"),
        ({"output_type": "pt", "partial_postprocess": "True"}, [13, 256, 256, 3], "uint8"),
    ],
)
async def test_a_large_reply_comes_out_of_the_store_whole(
    start_gateway, settings: Settings, serve: Serve, tmp_path: Path, said, shape, dtype
) -> None:
    stored = settings.model_copy(update={"store": f"file://{tmp_path / 'store'}", "store_threshold": 1024})
    gateway = await start_gateway(stored)
    with Farm(settings=stored) as farm:
        sent = asyncio.create_task(gateway.client.post("/hf/wan", **asked(1, 16, 4, 32, 32, **said)))
        await asyncio.to_thread(eventually, "a job waits", lambda: list(farm.queued("wan")), 10)
        decoder = FakeDecoder([Catalogue.load(stored.catalogue)["wan"]])
        await asyncio.to_thread(lambda: serve(decoder, settings=stored))
        async with await sent as answer:
            body = await answer.read()
            assert (answer.status, json.loads(answer.headers["shape"]), answer.headers["dtype"]) == (200, shape, dtype)
            assert int(answer.headers["Content-Length"]) == len(body) > LARGE_BYTES
            result = farm.job(answer.headers["x-job-id"]).result(10)
    (one,) = result.report.stored
    assert one.blob.startswith("file:")
    assert body == (result.tensor.array if dtype == "float16" else frames_in(result.data[0])).tobytes()


def frames_in(data: bytes) -> np.ndarray:
    """(frames, height, width, 3) uint8 of a zip of PNG."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return np.stack([np.asarray(Image.open(archive.open(name))) for name in sorted(archive.namelist())])
