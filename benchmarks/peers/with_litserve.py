"""LitServe: dynamic batches behind HTTP, bytes as they are in body and reply. It keeps nothing: clients wait."""

# mypy: disable-error-code="import-not-found, import-untyped, misc, no-untyped-call"

import asyncio
import os
import time
from collections.abc import Sequence
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import aiohttp
import litserve
from fastapi import Body, Response

from . import workload

#: Requests in flight, each on a connection that stays open.
CONNECTIONS: Final = 64

#: Seconds that the server may take to start.
START_SECONDS: Final = 60.0

#: Found by trying, as https://lightning.ai/docs/litserve/features/batching says. With a timeout of 0 the worker would
#: ask its queue without a pause.
MAX_BATCH_SIZE: Final = 32
BATCH_TIMEOUT: Final = 0.001


class Decode(litserve.LitAPI):
    """The decoder that does nothing."""

    def setup(self, device: str) -> None:
        """Nothing to load."""

    def decode_request(self, request: Annotated[bytes, Body(media_type="application/octet-stream")]) -> bytes:
        """The latent as it came."""
        return bytes(request)

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        """Latents stay a list."""
        return inputs

    def predict(self, x: list[bytes]) -> list[bytes]:
        """An image for each."""
        return [workload.decode(latent) for latent in x]

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        """Images stay a list."""
        return output

    def encode_response(self, output: bytes) -> Response:
        """The image as it is."""
        return Response(output, media_type="image/png")


class Side:
    """One client with connections that stay open."""

    def __init__(self, url: str) -> None:
        self._url = f"{url}/predict"
        self._loop = asyncio.new_event_loop()
        self._session = self._loop.run_until_complete(self._open(url))

    def burst(self, latents: Sequence[bytes]) -> list[bytes]:
        """A request for each, `CONNECTIONS` at a time."""
        return self._loop.run_until_complete(self._all(latents))

    async def _open(self, url: str) -> aiohttp.ClientSession:
        session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONNECTIONS))
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                async with session.get(f"{url}/health") as reply:
                    if reply.status == 200:
                        return session
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.1)
        raise TimeoutError(f"LitServe did not start within {START_SECONDS:.0f} seconds")

    async def _all(self, latents: Sequence[bytes]) -> list[bytes]:
        return list(await asyncio.gather(*(self._one(latent) for latent in latents)))

    async def _one(self, latent: bytes) -> bytes:
        async with self._session.post(
            self._url, data=latent, headers={"Content-Type": "application/octet-stream"}
        ) as reply:
            reply.raise_for_status()
            return await reply.read()


def work() -> None:
    """The server: one worker; `fast_queue` is for more than 100 requests a second, says LitServer's documentation."""
    address: Any = urlsplit(os.environ["PEER_URL"])
    api = Decode(max_batch_size=MAX_BATCH_SIZE, batch_timeout=BATCH_TIMEOUT)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1, fast_queue=True, timeout=False)
    server.run(
        host=address.hostname, port=address.port, num_api_servers=1, log_level="warning", generate_client_file=False
    )


if __name__ == "__main__":
    work()
