"""A web service: it answers at once with an id, generates in the background, and leaves the decode to the farm.

vaefarm up --vaes sd-v1
export VAEFARM_REDIS_URL=...           # as `vaefarm up` printed it
python examples/web_service.py
curl -X POST 'localhost:8080/pictures?prompt=a+cat'      # {"id": "...", "url": "/pictures/..."}
curl -o cat.png 'localhost:8080/pictures/ID?wait=60'     # 202 until it is there
"""

import argparse
import asyncio
import io
import secrets
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from aiohttp import web
from diffusers import StableDiffusionPipeline

from vaefarm_producer import AsyncFarm, FarmError, FarmUnavailable, InvalidJobId, JobExpired, JobNotFound, WaitTimeout

#: What a farm's errors are to a browser; any other is 500.
STATUSES: dict[type[FarmError], int] = {InvalidJobId: 404, JobNotFound: 404, JobExpired: 410, FarmUnavailable: 503}


class Service:
    """Generates on one thread, which never waits for a decode."""

    def __init__(self, pipe: Any, options: argparse.Namespace) -> None:
        self._pipe, self._options = pipe, options
        self._generator = ThreadPoolExecutor(1)
        #: Those whose latents are not submitted yet. They end with this process; what was submitted does not.
        self._generating: dict[str, asyncio.Task[None]] = {}

    def app(self) -> web.Application:
        """The service, on the farm that the environment names."""
        app = web.Application()
        app.cleanup_ctx.append(self._with_farm)
        app.add_routes([web.post("/pictures", self.create), web.get("/pictures/{id}", self.show)])
        return app

    async def create(self, request: web.Request) -> web.Response:
        """Answer with the id of the picture to come."""
        prompt = request.query.get("prompt")
        if not prompt:
            return web.json_response({"error": "expected ?prompt=..."}, status=400)
        if len(self._generating) >= self._options.most:
            return web.json_response({"error": "busy: come back"}, status=503, headers={"Retry-After": "10"})
        job_id = secrets.token_hex(16)
        self._generating[job_id] = asyncio.create_task(self._generate(job_id, prompt))
        return web.json_response({"id": job_id, "url": f"/pictures/{job_id}"}, status=202)

    async def show(self, request: web.Request) -> web.Response:
        """The picture, or how far it is; with ?wait=SECONDS once it is there, if that is soon."""
        job_id, wait = request.match_info["id"], request.query.get("wait", "0")
        if job_id in self._generating:
            return web.json_response({"status": "generating"}, status=202)
        job = self._farm.job(job_id)
        try:
            image = await job.image(timeout=min(int(wait), 60) if wait.isdecimal() else 0)
        except WaitTimeout:
            return web.json_response({"status": await job.status()}, status=202)
        except FarmError as error:
            return web.json_response({"error": str(error)}, status=STATUSES.get(type(error), 500))
        data = io.BytesIO()
        image.save(data, "PNG")
        return web.Response(body=data.getvalue(), content_type="image/png")

    async def _generate(self, job_id: str, prompt: str) -> None:
        """Generate latents, and submit them under that id."""
        try:
            latents = await asyncio.get_running_loop().run_in_executor(self._generator, self._latents, prompt)
            # A full farm is waited for, while the next is generated already.
            await self._farm.submit(
                latents, vae=self._options.vae, job_id=job_id, block=True, producer="web", metadata={"prompt": prompt}
            )
        except FarmError as error:
            print(f"{job_id} was not submitted: {error}")
        finally:
            del self._generating[job_id]

    def _latents(self, prompt: str) -> torch.Tensor:
        """Of one picture; blocks."""
        size = self._options.size
        latents: torch.Tensor = self._pipe(
            prompt, num_inference_steps=self._options.steps, height=size, width=size, output_type="latent"
        ).images
        return latents

    async def _with_farm(self, _: web.Application) -> AsyncIterator[None]:
        async with AsyncFarm.from_env() as self._farm:
            yield
            await asyncio.gather(*self._generating.values())


def main(argv: list[str] | None = None) -> None:
    """Serve until Ctrl-C; what is being generated then is submitted still."""
    options = parse(argv)
    dtype = "float16" if options.device.startswith("cuda") else "float32"
    pipe = StableDiffusionPipeline.from_pretrained(options.model, torch_dtype=getattr(torch, dtype), vae=None)
    web.run_app(Service(pipe.to(options.device), options).app(), host=options.host, port=options.port)


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="Lykon/dreamshaper-8", help="repository or folder")
    parser.add_argument("--vae", default="sd-v1", help="VAE id of the farm")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--size", type=int, help="pixels a side; the model's own otherwise")
    parser.add_argument("--most", type=int, default=100, help="pictures that may wait for the generator")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
