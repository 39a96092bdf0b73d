"""Which jobs are decoded by a fast decoder: all that need not be reproducible; a record says by which switches."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from diffusers.image_processor import VaeImageProcessor
from tests.conftest import Serve
from tests.worker.items import decode, randn

from vaefarm_producer import Farm
from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.settings import Settings
from vaefarm_worker.fast import CHANNELS_LAST, FOLDED_ATTENTION, FOLDED_UPSAMPLE
from vaefarm_worker.local_decoder import LocalDecoder
from vaefarm_worker.self_test import TOLERANCES, pixels_of

SHAPES = {"sd-v1": (2, 4, 10, 7), "flux": (1, 16, 8, 12), "taesd": (1, 4, 8, 9)}
KL_SWITCHES = (FOLDED_UPSAMPLE, FOLDED_ATTENTION, CHANNELS_LAST)
SWITCHES = {"sd-v1": KL_SWITCHES, "flux": KL_SWITCHES, "taesd": (FOLDED_UPSAMPLE, CHANNELS_LAST)}


def pipelines_picture(path: Path, vae: str, latents: torch.Tensor) -> np.ndarray:
    """What a diffusers pipeline makes of unpacked latents."""
    loader: Any = AutoencoderTiny if vae == "taesd" else AutoencoderKL
    module = loader.from_pretrained(path / vae, torch_dtype=latents.dtype)
    with torch.no_grad():
        scaled = latents / module.config.scaling_factor
        if module.config.get("shift_factor") is not None:
            scaled = scaled + module.config.shift_factor
        images = module.decode(scaled, return_dict=False)[0]
    return np.stack([np.asarray(one) for one in VaeImageProcessor().postprocess(images, output_type="pil")])


def decoder_of(catalogue: Path, vae: str, dtype: str, **options: Any) -> LocalDecoder:
    entry = Catalogue.load(catalogue)[vae].model_copy(update={"cpu_dtype": dtype})
    return LocalDecoder([entry], "cpu", **options)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("vae", SHAPES)
def test_a_reproducible_job_between_fast_ones_is_the_pipelines_picture_bit_for_bit(
    catalogue: Path, tiny_vaes: Path, vae: str, dtype: str
) -> None:
    decoder = decoder_of(catalogue, vae, dtype)
    latents = (2 * randn(*SHAPES[vae])).to(getattr(torch, dtype))

    before, exact, after = (decode(decoder, vae, latents, reproducible=one) for one in (False, True, False))

    assert np.array_equal(pixels_of(exact), pipelines_picture(tiny_vaes, vae, latents))
    assert (before.switches, exact.switches, after.switches) == (SWITCHES[vae], (), SWITCHES[vae])
    assert np.array_equal(pixels_of(before), pixels_of(after))
    assert np.abs(pixels_of(before).astype(int) - pixels_of(exact)).max() <= TOLERANCES[dtype]


def test_a_fast_decode_that_overflows_is_done_once_more_by_the_plain_decoder(tmp_path: Path, tiny_vaes: Path) -> None:
    vae = AutoencoderKL.from_pretrained(tiny_vaes / "sd-v1")
    with torch.no_grad():
        vae.decoder.conv_in.weight.mul_(1e4)
        vae.decoder.conv_in.bias.fill_(6e4)
    vae.save_pretrained(tmp_path / "sd-v1")
    catalogue = tmp_path / "catalogue.toml"
    catalogue.write_text(f'[vaes.sd-v1]\npath = "{tmp_path / "sd-v1"}"\n')
    decoder = decoder_of(catalogue, "sd-v1", "float16")
    latents = randn(1, 4, 8, 8).half()

    first, second = decode(decoder, "sd-v1", latents), decode(decoder, "sd-v1", latents)

    assert (first.dtype, first.widened_from, first.switches) == ("float32", "float16", ())
    expected = pipelines_picture(tmp_path, "sd-v1", latents.float())
    assert np.abs(pixels_of(first).astype(int) - expected).max() <= TOLERANCES["float16"]
    assert np.array_equal(pixels_of(first), pixels_of(second))


def test_the_record_names_each_switch(farm: Farm, settings: Settings, serve: Serve) -> None:
    exact = farm.submit(randn(1, 4, 8, 8), vae="sd-v1", reproducible=True)
    fast = farm.submit(randn(1, 4, 8, 8), vae="sd-v1")
    serve(LocalDecoder([Catalogue.load(settings.catalogue)["sd-v1"]], "cpu"))

    assert fast.result(timeout=30).report.switches == KL_SWITCHES
    report = exact.result(timeout=30).report
    assert (report.reproducible, report.switches) == (True, ())


def test_a_worker_that_is_exact_makes_every_job_a_reproducible_one(
    farm: Farm, settings: Settings, serve: Serve, tiny_vaes: Path
) -> None:
    latents = [randn(1, 4, 8, 8, seed=seed) for seed in range(3)]
    jobs = farm.submit_many(latents, vae="sd-v1")
    image = farm.encode(torch.rand(1, 3, 64, 64), vae="sd-v1")
    decoder = LocalDecoder([Catalogue.load(settings.catalogue)["sd-v1"]], "cpu", exact=True)
    serve(decoder, settings=settings.model_copy(update={"exact": True}))

    for job, one in zip(jobs, latents, strict=True):
        result = job.result(timeout=30)
        assert np.array_equal(np.asarray(result.images), pipelines_picture(tiny_vaes, "sd-v1", one))
        assert (result.report.reproducible, result.report.batch_size, result.report.switches) == (True, 1, ())
    report = image.result(timeout=30).report
    assert report.reproducible


def test_a_decoder_that_is_exact_keeps_no_second_weights(catalogue: Path) -> None:
    fast, exact = decoder_of(catalogue, "sd-v1", "float32"), decoder_of(catalogue, "sd-v1", "float32", exact=True)

    assert 1.0 < fast._shelf.weight_bytes / exact._shelf.weight_bytes < 1.3
