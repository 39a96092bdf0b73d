"""An endpoint that speaks Hugging Face's remote-VAE protocol, its decodes alone, in a settable time.

python -m benchmarks.endpoint PORT SECONDS AT_A_TIME    0 at a time: as many as ask

One at a time is what Hugging Face's own servers do: who asks meanwhile waits, without a limit. Pictures are black, of
the right size: what decodes cost is the seconds.
"""

import asyncio
import io
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from functools import cache
from typing import Final

import numpy as np
from aiohttp import web
from multidict import MultiMapping
from PIL import Image

#: Pixels of a picture for each value of a latent, each way.
SCALE: Final = 8

#: Bytes of one value of a tensor.
ITEM_BYTES: Final = {"float16": 2, "bfloat16": 2, "float32": 4}

#: Pillow's formats by what a request accepts.
FORMATS: Final = {"image/jpeg": "JPEG", "image/png": "PNG", "image/webp": "WEBP"}

#: Bytes of the largest body that is read.
BODY_BYTES: Final = 64 * 1024**2


@dataclass(slots=True)
class Counts:
    """What was asked so far."""

    asked: int = 0
    answered: int = 0
    in_flight: int = 0
    most_in_flight: int = 0

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """One request, from when it is read to when it is answered."""
        self.asked += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            yield
            self.answered += 1
        finally:
            self.in_flight -= 1


def make_app(seconds: float, at_a_time: int) -> web.Application:
    """The endpoint as an application."""
    counts = Counts()
    slots = asyncio.Semaphore(at_a_time or sys.maxsize)

    async def decode(request: web.Request) -> web.Response:
        try:
            shape = picture_shape(request.query, len(await request.read()))
        except ValueError as error:
            return web.json_response({"error": str(error)}, status=400)
        async with counts.one():
            async with slots:
                await asyncio.sleep(seconds)
            return reply(shape, request)

    async def tell(_: web.Request) -> web.Response:
        return web.json_response(asdict(counts))

    async def ok(_: web.Request) -> web.Response:
        return web.Response(text="Ok")

    app = web.Application(client_max_size=BODY_BYTES)
    app.add_routes([web.post("/", decode), web.get("/", ok), web.get("/health", ok), web.get("/counts", tell)])
    return app


def picture_shape(query: MultiMapping[str], body_bytes: int) -> tuple[int, int, int, int]:
    """(count, height, width, 3) of the pictures of a request. Raises ValueError for one that is not understood."""
    shape = tuple(int(side) for side in query.getall("shape", []))
    item_bytes = ITEM_BYTES.get(query.get("dtype", ""), 0)
    if len(shape) != 4 or min(shape) < 1 or int(np.prod(shape)) * item_bytes != body_bytes:
        raise ValueError(f"expected the bytes of 4 sides and a dtype; got {body_bytes} for {shape}")
    count, _, height, width = shape
    return count, height * SCALE, width * SCALE, 3


def reply(shape: tuple[int, int, int, int], request: web.Request) -> web.Response:
    """Pictures as they were asked for: a file, pixels (count, height, width, 3), or a decoder's own tensor."""
    if (accepted := request.headers.get("Accept", "")) in FORMATS:
        return web.Response(body=black_file(shape[1:], FORMATS[accepted]), content_type=accepted)
    count, height, width, channels = shape
    if request.query.get("partial_postprocess", "").lower() == "true":
        return tensor_reply(shape, "uint8", 1)
    return tensor_reply((count, channels, height, width), "float16", 2)


def tensor_reply(shape: tuple[int, ...], dtype: str, item_bytes: int) -> web.Response:
    """Zeros of that shape."""
    headers = {"shape": json.dumps(list(shape)), "dtype": dtype, "Content-Type": "tensor/binary"}
    return web.Response(body=bytes(int(np.prod(shape)) * item_bytes), headers=headers)


@cache
def black_file(shape: tuple[int, int, int], file_format: str) -> bytes:
    """The file of a picture of (height, width, 3)."""
    file = io.BytesIO()
    Image.fromarray(np.zeros(shape, np.uint8)).save(file, file_format)
    return file.getvalue()


async def application() -> web.Application:
    """The application of the command line, made where its loop runs."""
    return make_app(float(sys.argv[2]), int(sys.argv[3]))


if __name__ == "__main__":
    web.run_app(application(), host="127.0.0.1", port=int(sys.argv[1]), access_log=None, print=None)
