"""Previews of a real pipeline's steps: they come while it generates, and nothing that happens to them disturbs it."""

import io
import json
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import redis
import torch
from diffusers import AutoencoderTiny
from diffusers.callbacks import SDCFGCutoffCallback
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from tests.conftest import eventually
from tests.parity.case import Case
from tests.parity.pipelines import case
from tests.pipelines.conftest import PATIENCE, at_work

from vaefarm_producer import Farm, InvalidJobId, InvalidOption, JobStatus, UnknownVae
from vaefarm_producer.local.redis_server import free_port
from vaefarm_shared import keys, leases
from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.leases import Source, Wanted
from vaefarm_shared.settings import Settings
from vaefarm_worker.lifeline import Lifeline
from vaefarm_worker.local_decoder import LocalDecoder
from vaefarm_worker.worker import Worker

#: The tiny VAEs of the cases' families.
TINY = {"stable-diffusion": ("taesd", 4), "flux": ("taef1", 16)}


class Previewing:
    """A farm on whose worker nothing but previews is decoded, until told otherwise."""

    def __init__(self, farm: Farm, one: Case, preview: str, vae: AutoencoderTiny, start: Callable[[str], None]) -> None:
        self.farm, self.case, self.preview, self.vae, self.start = farm, one, preview, vae, start

    def generate(self, **options: Any) -> torch.Tensor:
        """The latents of the case's pipeline."""
        return latents_of(self.case, **options)

    def expected(self, latents: torch.Tensor) -> np.ndarray:
        """The preview of the first picture, as the tiny VAE itself makes it, saved as previews are."""
        if latents.ndim == 3:
            sizes = self.case.arguments["height"], self.case.arguments["width"]
            latents = self.case.pipeline._unpack_latents(latents, *sizes, self.case.pipeline.vae_scale_factor)
        with torch.no_grad():
            decoded = self.vae.decode(latents[:1]).sample
        file = io.BytesIO()
        VaeImageProcessor().postprocess(decoded)[0].save(file, "JPEG", quality=90)
        return np.asarray(Image.open(file)).astype(int)


def said(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What a generation's previews warned of."""
    ours = [record for record in caplog.records if record.name == "vaefarm_producer.step_previews"]
    return [record for record in ours if record.levelno >= logging.WARNING]


def latents_of(one: Case, **options: Any) -> torch.Tensor:
    one.pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(7)
    found: torch.Tensor = one.pipeline(**one.arguments, generator=generator, output_type="latent", **options).images
    return found


@pytest.fixture
def previewing(
    farm_settings: Settings, settings: Settings, shared_lifelines: Callable[[Settings], Lifeline], tmp_path: Path
) -> Iterator[Callable[[str], Previewing]]:
    with ExitStack() as stack:

        def of(name: str) -> Previewing:
            one, (preview, channels) = case(name), TINY[name]
            torch.manual_seed(1)
            tiny = AutoencoderTiny(
                latent_channels=channels,
                encoder_block_out_channels=(16,) * 4,
                decoder_block_out_channels=(16,) * 4,
            ).eval()
            tiny.save_pretrained(tmp_path / preview)
            one.vae.save_pretrained(tmp_path / one.vae_id)
            catalogue = tmp_path / "catalogue.toml"
            catalogue.write_text(
                "".join(f"[vaes.{vae}]\npath = {json.dumps(str(tmp_path / vae))}\n" for vae in (preview, one.vae_id))
            )

            def start(vae: str) -> None:
                decoder = LocalDecoder([Catalogue.load(catalogue)[vae]], "cpu")
                stack.enter_context(at_work(Worker(settings, decoder, f"of-{vae}", shared_lifelines(settings))))

            farm = stack.enter_context(Farm(settings=farm_settings))
            return Previewing(farm, one, preview, tiny, start)

        yield of


@pytest.mark.parametrize("farm_settings", ["redis", "http"], indirect=True)
@pytest.mark.parametrize("name", list(TINY))
def test_an_attached_pipeline_shows_its_steps_and_then_what_it_submitted(
    name: str, previewing: Callable[[str], Previewing]
) -> None:
    made = previewing(name)
    made.start(made.preview)
    farm, handle, seen = made.farm, made.farm.job("order-17"), []

    def look(_pipeline: Any, step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == 1:
            # The first step's is there before the generation ends.
            seen.append(handle.preview(timeout=PATIENCE))
        return tensors

    generate = farm.attach(made.case.pipeline, vae=made.case.vae_id, preview=made.preview, job_id="order-17")
    job = generate(**made.case.arguments, generator=torch.Generator().manual_seed(7), callback_on_step_end=look)

    assert seen[0] is not None
    assert seen[0].size == (64, 96)
    assert (job, job.status()) == (handle, JobStatus.QUEUED)
    expected = made.expected(made.generate())

    def is_the_last() -> bool:
        image = handle.preview()
        return image is not None and np.abs(np.asarray(image).astype(int) - expected).mean() < 1

    eventually("the preview is of what was submitted", is_the_last)
    # A picture that is just replaced by a newer one is there a moment later.
    assert handle.preview(timeout=PATIENCE, index=1) is not None
    assert handle.preview(index=2) is None
    made.start(made.case.vae_id)
    assert len(job.images(PATIENCE)) == 2
    assert job.preview(timeout=PATIENCE) is None


def waiting_latents(connection: redis.Redis) -> list[bytes]:
    """The latents that lie in Redis; one may be replaced between the look for its key and the look at it."""
    found = [cast("bytes | None", connection.get(key)) for key in connection.scan_iter(match="vaefarm:latent:*")]
    return [latent for latent in found if latent is not None]


def test_of_the_steps_of_a_generation_one_waits_and_it_is_the_newest(
    previewing: Callable[[str], Previewing], connection: redis.Redis
) -> None:
    made = previewing("stable-diffusion")
    steps: list[torch.Tensor] = []

    with made.farm.previews(vae=made.preview) as previews:

        def both(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
            steps.append(tensors["latents"].clone())
            return previews(pipeline, step, timestep, tensors)

        made.case.arguments["num_inference_steps"] = 10  # type: ignore[index]
        made.generate(callback_on_step_end=both)
        newest = steps[-1].numpy().tobytes()
        eventually("the newest waits", lambda: any(newest in blob for blob in waiting_latents(connection)))
    assert len(steps) == 10
    assert len(waiting_latents(connection)) == 1
    assert connection.llen("rq:queue:vaefarm.taesd.normal.s.default") == 1


def test_the_newest_is_sent_once_the_worker_has_done_with_an_earlier_one(
    previewing: Callable[[str], Previewing], connection: redis.Redis
) -> None:
    made = previewing("stable-diffusion")
    latents = np.zeros((1, 4, 8, 8), np.float32)
    with made.farm.previews("a", vae="taesd") as previews:
        previews.send(latents)
        eventually("it waits", lambda: connection.exists(keys.job("a--preview")))
        wanted = Wanted([Source("taesd", "normal", 0.0, ("s",))], 1, 10**9, 600.0)
        (held,) = leases.claim(connection, "somebody", wanted)
        before = connection.hget(keys.job("a--preview"), "request_hash")
        previews.send(latents + 1)
        previews.send(latents + 2)
        assert connection.hget(keys.job("a--preview"), "request_hash") == before
        leases.give_back(connection, [(held.claim, "free")], "somebody")
        newest = (latents + 2).tobytes()
        eventually("the newest waits", lambda: any(newest in blob for blob in waiting_latents(connection)))
    assert len(waiting_latents(connection)) == 1


def test_each_so_many_steps_there_is_one_and_of_the_last(previewing: Callable[[str], Previewing]) -> None:
    made = previewing("stable-diffusion")
    sent: list[int] = []
    with made.farm.previews(vae=made.preview, every=4) as previews:
        previews.send = sent.append  # type: ignore[method-assign, assignment]
        for step in range(10):
            pipeline = type("Pipeline", (), {"num_timesteps": 10})()
            assert previews(pipeline, step, None, {"latents": step}) == {"latents": step}
    assert sent == [0, 4, 8, 9]


@pytest.mark.parametrize("farm_settings", ["redis", "http"], indirect=True)
def test_a_farm_that_is_away_does_not_disturb_the_generation(
    previewing: Callable[[str], Previewing], caplog: pytest.LogCaptureFixture, farm_settings: Settings
) -> None:
    made = previewing("stable-diffusion")
    plain = made.generate()
    away = f"http://127.0.0.1:{free_port()}" if farm_settings.url else f"redis://127.0.0.1:{free_port()}/0"

    settings = Settings.from_env(submit_timeout=0.1).at(away)
    with Farm(settings=settings) as farm, farm.previews(vae=made.preview) as previews:
        assert torch.equal(made.generate(callback_on_step_end=previews), plain)
        eventually("it is said", lambda: said(caplog))
        assert torch.equal(made.generate(callback_on_step_end=previews), plain)
    (warning,) = said(caplog)
    assert "has no preview" in warning.getMessage()
    assert warning.exc_info is None


def test_what_is_no_latents_is_said_once_and_no_more(
    previewing: Callable[[str], Previewing], caplog: pytest.LogCaptureFixture
) -> None:
    made = previewing("stable-diffusion")
    with made.farm.previews(vae="taef1") as previews:
        made.generate(callback_on_step_end=previews)
        eventually("it is said", lambda: said(caplog))
        assert previews(None, 0, None, {}) == {}
    (warning,) = said(caplog)
    assert "4 channels" in warning.getMessage()


def test_a_generation_that_fails_leaves_no_preview(
    previewing: Callable[[str], Previewing], connection: redis.Redis
) -> None:
    made = previewing("stable-diffusion")

    def fail(_pipeline: Any, step: int, _timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        if step == 1:
            eventually("one waits", lambda: connection.exists(keys.job("a--preview")))
            raise RuntimeError("the prompt was bad")
        return tensors

    generate = made.farm.attach(made.case.pipeline, vae=made.case.vae_id, preview=made.preview, job_id="a")
    with pytest.raises(RuntimeError, match="the prompt was bad"):
        generate(**made.case.arguments, callback_on_step_end=fail)

    assert not list(connection.scan_iter(match="*--preview*"))
    assert connection.hgetall(keys.BUDGET) == {b"bytes": b"0", b"jobs": b"0"}


def test_its_thread_ends_with_it(previewing: Callable[[str], Previewing]) -> None:
    made = previewing("stable-diffusion")
    with made.farm.previews("a", vae=made.preview) as previews:
        made.generate(callback_on_step_end=previews)
        assert any("vaefarm-previews" in thread.name for thread in threading.enumerate())
    eventually("it ends", lambda: not any("vaefarm-previews" in thread.name for thread in threading.enumerate()))
    previews.send(np.zeros((1, 4, 8, 8), np.float32))
    assert not any("vaefarm-previews" in thread.name for thread in threading.enumerate())


def test_a_callback_of_diffusers_own_does_what_it_did(previewing: Callable[[str], Previewing]) -> None:
    made = previewing("stable-diffusion")
    cutoff = SDCFGCutoffCallback(cutoff_step_ratio=0.5)
    guided = {**made.case.arguments, "guidance_scale": 5.0, "num_images_per_prompt": 1}
    if "negative_prompt_embeds" not in guided:
        guided["negative_prompt_embeds"] = torch.zeros_like(guided["prompt_embeds"])

    def call(generate: Callable[..., Any], **options: Any) -> Any:
        return generate(**guided, generator=torch.Generator().manual_seed(7), callback_on_step_end=cutoff, **options)

    plain = call(made.case.pipeline, output_type="latent").images
    named: dict[str, Any] = {"vae": made.case.vae_id, "job_id": "a", "record_call": False}
    generate = made.farm.attach(made.case.pipeline, preview=made.preview, **named)
    job = call(generate)

    again = made.farm.submit(plain, vae=made.case.vae_id, job_id="a")
    assert again == job


@pytest.mark.parametrize(
    ("name", "preview", "error", "said"),
    [
        ("flux", "taesd", InvalidOption, "takes latents of 4 channels"),
        ("stable-diffusion", "none", UnknownVae, "is not known"),
    ],
)
def test_a_preview_that_cannot_be_is_refused_before_anything_is_generated(
    name: str, preview: str, error: type[Exception], said: str, farm: Farm
) -> None:
    one = case(name)
    with pytest.raises(error, match=said):
        farm.attach(one.pipeline, vae=one.vae_id, preview=preview)


def test_pipelines_that_have_none_are_refused(farm: Farm) -> None:
    with pytest.raises(InvalidOption, match="knows none of its kind"):
        farm.attach(case("flux2-klein").pipeline, vae="flux2", latents="denormalised", preview="flux2")
    with pytest.raises(InvalidOption, match="tells nobody of its steps"):
        farm.attach(
            type("Silent", (), {"__call__": lambda self: None})(), vae="sd-v1", latents="spatial", preview="taesd"
        )
    for every in (0, True, 1.5):
        with pytest.raises(InvalidOption, match="every"):
            farm.previews(vae="taesd", every=every)  # type: ignore[arg-type]
    with pytest.raises(InvalidJobId):
        farm.previews("a--preview", vae="taesd")
