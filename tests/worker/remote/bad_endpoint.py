"""A remote-VAE endpoint of the tests' own, that decodes, and misbehaves when it is told to.

    with BadEndpoint() as endpoint:
        endpoint.behave(Says(503), Hangs())     # the next two requests; after them it decodes again
        endpoint.behave(then=Resets())          # every request from now on
        endpoint.behave_on(latents.tobytes(), Says(500))    # whenever those latents are sent

It speaks today's protocol (parameters in the query) and the first (JSON with base64), on a port of its own.
"""

import asyncio
import base64
import io
import json
import socket
import struct
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
from aiohttp import web
from PIL import Image

from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.job import JobSpec
from vaefarm_shared.latents import STORAGE, Latents
from vaefarm_worker.decoder import Batch, BatchItem, Decoded, Decoder
from vaefarm_worker.fake_decoder import FakeDecoder


@dataclass(frozen=True)
class Reply:
    """What a well-behaved endpoint answers."""

    body: bytes
    headers: dict[str, str]


@dataclass(frozen=True)
class Well:
    """It decodes, after a while."""

    seconds: float = 0.0


@dataclass(frozen=True)
class Says:
    """It answers with that status: 503, 404, 400, a redirect with its Location, an HTML page with 200."""

    status: int
    text: str = '{"error": "it was told to"}'
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ColdStart:
    """It answers 503 until so many seconds after its first request, then decodes."""

    seconds: float


@dataclass(frozen=True)
class Hangs:
    """It never answers."""


@dataclass(frozen=True)
class Drips:
    """It sends its answer byte by byte, with a pause behind each."""

    pause_seconds: float


@dataclass(frozen=True)
class Resets:
    """It resets the connection, after the headers and half of the body where that is asked for."""

    half_way: bool = False


@dataclass(frozen=True)
class HalfABody:
    """It announces its whole answer, sends half of it and closes the connection."""


@dataclass(frozen=True)
class Headers:
    """It decodes, with other headers: a wrong type or shape."""

    headers: dict[str, str]


@dataclass(frozen=True)
class TooMuch:
    """It sends its answer and then goes on for ever, in chunks that announce no length."""


Behaviour = Well | Says | ColdStart | Hangs | Drips | Resets | HalfABody | Headers | TooMuch


@dataclass(frozen=True)
class Request:
    """What it was asked."""

    headers: dict[str, str]
    query: list[tuple[str, str]]
    body: bytes
    #: When, by the monotonic clock.
    at: float


class BadEndpoint:
    """An endpoint, from `start` to `stop`; it may be started again, on the same port."""

    def __init__(self, decoder: Decoder | None = None, vae: str = "demo") -> None:
        """Decode by a decoder, that of stripes unless another is given."""
        self._decoder = decoder or FakeDecoder([Catalogue.load()["demo"]])
        self._vae = vae
        self._decoding = threading.Lock()
        self._next: deque[Behaviour] = deque()
        self._then: Behaviour = Well()
        self._on: dict[bytes, Behaviour] = {}
        self._first_at: float | None = None
        self._out = 0
        self.port = 0
        #: Whether it decodes reproducible jobs as such, and says so.
        self.reproduces = True
        self.asked: list[Request] = []
        self.most_in_flight = 0
        self._thread: threading.Thread | None = None
        self.start()

    def __enter__(self) -> "BadEndpoint":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    @property
    def requests(self) -> int:
        """Requests so far, of its whole life."""
        return len(self.asked)

    def behave(self, *behaviours: Behaviour, then: Behaviour | None = None) -> None:
        """Behave so, once each; afterwards as `then` says, or well."""
        self._next, self._then, self._first_at = deque(behaviours), then or Well(), None

    def behave_on(self, body: bytes, behaviour: Behaviour) -> None:
        """Behave so whenever that body comes."""
        self._on[body] = behaviour

    def start(self) -> None:
        started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)), daemon=True)
        self._thread.start()
        assert started.wait(30), "the endpoint did not start"

    def stop(self) -> None:
        if self._thread is not None:
            self._loop.call_soon_threadsafe(self._ending.set)
            self._thread.join(30)
            self._thread = None

    async def _serve(self, started: threading.Event) -> None:
        self._loop, self._ending = asyncio.get_running_loop(), asyncio.Event()
        app = web.Application(client_max_size=2**30)
        app.router.add_post("/{path:.*}", self._answer)
        # Who has hung up is no longer in flight.
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.2, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = runner.addresses[0][1]
        started.set()
        await self._ending.wait()
        await runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self._out += 1
        self.most_in_flight = max(self.most_in_flight, self._out)
        try:
            body = await request.read()
            self.asked.append(Request(dict(request.headers), list(request.query.items()), body, time.monotonic()))
            behaviour = self._on.get(body) or (self._next.popleft() if self._next else self._then)
            return await self._behave(behaviour, request, body)
        finally:
            self._out -= 1

    async def _behave(self, behaviour: Behaviour, request: web.Request, body: bytes) -> web.StreamResponse:
        match behaviour:
            case Says(status, text, headers):
                kind = "text/html" if text.startswith("<") else "application/json"
                return web.Response(status=status, text=text, headers={"Content-Type": kind, **headers})
            case ColdStart(seconds):
                self._first_at = self._first_at or time.monotonic()
                if time.monotonic() < self._first_at + seconds:
                    return web.json_response({"error": "503 Service Unavailable"}, status=503)
            case Hangs():
                await self._ending.wait()
            case Resets(half_way=False):
                _reset(request)
                return web.Response()
            case Well(seconds) if seconds:
                await asyncio.sleep(seconds)
        try:
            reply = await asyncio.to_thread(self._decoded, request, body)
        except Exception as error:
            return web.json_response({"error": str(error)}, status=400)
        match behaviour:
            case Headers(headers):
                return web.Response(body=reply.body, headers=reply.headers | headers)
            case Drips() | Resets() | HalfABody() | TooMuch():
                # Who asked has hung up, as it should.
                with suppress(ConnectionResetError):
                    return await _broken(behaviour, request, reply)
        return web.Response(body=reply.body, headers=reply.headers)

    def _decoded(self, request: web.Request, body: bytes) -> Reply:
        """What the protocol gives for a request."""
        accept = request.headers.get("Accept", "tensor/binary")
        query: dict[str, Any] = dict(request.query)
        shape = tuple(int(size) for size in request.query.getall("shape", []))
        if request.content_type == "application/json":
            said = json.loads(body)
            query, body = said["parameters"], base64.b64decode(said["inputs"])
            shape = tuple(query["shape"])
        array = np.frombuffer(body, STORAGE[query["dtype"]]).reshape(shape)
        is_raw = query.get("output_type") == "pt" and query.get("partial_postprocess") != "True"
        item = BatchItem(self._spec(query, shape, is_raw), Latents(array, query["dtype"]))
        with self._decoding:
            decoded = self._decoder.decode(Batch((item,)))[0]
        extra = {"x-reproducible": "true"} if self.reproduces and query.get("reproducible") == "True" else {}
        return Reply(*_written(decoded, accept, extra))

    def _spec(self, query: dict[str, Any], shape: tuple[int, ...], is_raw: bool) -> JobSpec:
        contract = self._decoder.vaes[self._vae].contract
        height, width = (
            (int(query["height"]), int(query["width"]))
            if len(shape) == 3
            else tuple(size * contract.spatial_scale for size in shape[-2:])
        )
        return JobSpec(
            id="asked",
            vae=self._vae,
            dtype=query["dtype"],
            shape=shape,
            layout="packed" if len(shape) == 3 else "spatial",
            count=shape[0],
            height=height,
            width=width,
            picture_channels=contract.picture_channels,
            output_type="pt" if is_raw else "pil",
            request_hash="",
        )


def _written(decoded: Decoded, accept: str, extra: dict[str, str]) -> tuple[bytes, dict[str, str]]:
    if decoded.tensor is not None:
        array, dtype = decoded.tensor.array, "float16"
    else:
        array, dtype = cast(Any, decoded.pixels), "uint8"
    if accept.startswith("image/"):
        file = io.BytesIO()
        Image.fromarray(array[0]).save(file, accept.removeprefix("image/"))
        return file.getvalue(), {"Content-Type": accept, **extra}
    shape = json.dumps(list(array.shape))
    return array.tobytes(), {"Content-Type": "tensor/binary", "shape": shape, "dtype": dtype, **extra}


async def _broken(behaviour: Behaviour, request: web.Request, reply: Reply) -> web.StreamResponse:
    response = web.StreamResponse(headers=reply.headers)
    if not isinstance(behaviour, TooMuch):
        response.content_length = len(reply.body)
    await response.prepare(request)
    match behaviour:
        case Drips(pause):
            for one in reply.body:
                await response.write(bytes([one]))
                await asyncio.sleep(pause)
        case TooMuch():
            while True:
                await response.write(reply.body)
        case _:
            await response.write(reply.body[: len(reply.body) // 2])
            # Both halves of the pair must not reach the client as one.
            await asyncio.sleep(0.01)
            if isinstance(behaviour, Resets):
                _reset(request)
            elif request.transport is not None:
                request.transport.close()
    return response


def _reset(request: web.Request) -> None:
    assert request.transport is not None
    connection = request.transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    request.transport.abort()
