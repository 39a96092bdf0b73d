"""The local decoder's picture is the pipeline's own, bit for bit; what cannot be decoded is named."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, FluxPipeline
from diffusers.image_processor import VaeImageProcessor
from tests.worker.items import decode, randn

from vaefarm_shared.catalogue import Catalogue, VaeEntry
from vaefarm_shared.errors import ConfigurationError, NonFiniteImage
from vaefarm_worker.device_names import choose_device
from vaefarm_worker.families.packing import to_spatial
from vaefarm_worker.local_decoder import LocalDecoder
from vaefarm_worker.self_test import pixels_of

SHAPES = {"sd-v1": (2, 4, 10, 6), "sdxl": (1, 4, 16, 8), "taesd": (1, 4, 8, 8), "flux": (1, 16, 8, 12)}


def pipelines_picture(vae: Any, latents: torch.Tensor) -> np.ndarray:
    """What a diffusers pipeline makes of unpacked latents: its own lines, and its own image processor."""
    with torch.no_grad():
        scaled = latents / vae.config.scaling_factor
        if vae.config.get("shift_factor") is not None:
            scaled = scaled + vae.config.shift_factor
        images = vae.decode(scaled, return_dict=False)[0]
    pictures = VaeImageProcessor().postprocess(images, output_type="pil")
    return np.stack([np.asarray(picture) for picture in pictures])


@pytest.fixture(scope="module")
def decoder(catalogue: Path) -> LocalDecoder:
    return LocalDecoder([Catalogue.load(catalogue)[vae] for vae in SHAPES], "cpu")


@pytest.mark.parametrize("vae", SHAPES)
def test_spatial_latents_decode_to_the_pipelines_picture_bit_for_bit(
    decoder: LocalDecoder, tiny_vaes: Path, vae: str
) -> None:
    latents = 3 * randn(*SHAPES[vae])
    loader = AutoencoderTiny if vae == "taesd" else AutoencoderKL

    decoded = decode(decoder, vae, latents, reproducible=True)

    assert (decoded.dtype, decoded.switches) == ("float32", ())
    assert np.array_equal(pixels_of(decoded), pipelines_picture(loader.from_pretrained(tiny_vaes / vae), latents))


def test_packed_latents_decode_to_the_pipelines_picture_bit_for_bit(decoder: LocalDecoder, tiny_vaes: Path) -> None:
    tokens = randn(2, 6 * 4, 64)
    unpacked = FluxPipeline._unpack_latents(tokens, 96, 64, 8)

    decoded = decode(decoder, "flux", tokens, height=96, width=64, reproducible=True)

    assert pixels_of(decoded).shape == (2, 96, 64, 3)
    assert np.array_equal(
        pixels_of(decoded), pipelines_picture(AutoencoderKL.from_pretrained(tiny_vaes / "flux"), unpacked)
    )


@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 32), (32, 160)])
def test_unpacking_is_diffusers_own(height: int, width: int) -> None:
    tokens = randn(2, (height // 16) * (width // 16), 64)

    unpacked = to_spatial(tokens, "packed", height, width, 8)

    assert torch.equal(unpacked, FluxPipeline._unpack_latents(tokens, height, width, 8))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_in_a_narrow_dtype_too_the_picture_is_the_pipelines(catalogue: Path, tiny_vaes: Path, dtype: str) -> None:
    entry = Catalogue.load(catalogue)["flux"].model_copy(update={"cpu_dtype": dtype})
    latents = randn(1, 16, 8, 8).to(getattr(torch, dtype))
    vae = AutoencoderKL.from_pretrained(tiny_vaes / "flux", torch_dtype=getattr(torch, dtype))

    decoded = decode(LocalDecoder([entry], "cpu"), "flux", latents, reproducible=True)

    assert decoded.dtype == dtype
    assert np.array_equal(pixels_of(decoded), pipelines_picture(vae, latents))


def test_half_latents_on_a_float32_vae_are_cast_before_they_are_scaled(decoder: LocalDecoder, tiny_vaes: Path) -> None:
    latents = randn(1, 4, 8, 8).half()

    decoded = decode(decoder, "sdxl", latents, reproducible=True)

    assert np.array_equal(
        pixels_of(decoded), pipelines_picture(AutoencoderKL.from_pretrained(tiny_vaes / "sdxl"), latents.float())
    )


@pytest.fixture
def overflowing(tmp_path: Path, tiny_vaes: Path) -> VaeEntry:
    """A VAE whose last activations are beyond float16 and well within float32."""
    vae = AutoencoderKL.from_pretrained(tiny_vaes / "sd-v1")
    with torch.no_grad():
        vae.decoder.conv_in.weight.mul_(1e4)
        vae.decoder.conv_in.bias.fill_(6e4)
    vae.save_pretrained(tmp_path / "vae")
    return VaeEntry(id="hot", path=str(tmp_path / "vae"), cpu_dtype="float16")


def test_a_decode_that_overflows_is_done_once_more_in_float32_and_says_so(overflowing: VaeEntry) -> None:
    decoder = LocalDecoder([overflowing], "cpu")
    latents = randn(1, 4, 8, 8).half()
    assert overflowing.path is not None
    half = AutoencoderKL.from_pretrained(overflowing.path, torch_dtype=torch.float16)
    assert not torch.isfinite(half.decode(latents / half.config.scaling_factor).sample).all(), "it does overflow"

    decoded = decode(decoder, "hot", latents)

    assert (decoded.dtype, decoded.widened_from) == ("float32", "float16")
    # The weights are those of the float16 file, computed with in float32, as pipelines that upcast do it.
    assert np.array_equal(pixels_of(decoded), pipelines_picture(half.float(), latents.float()))


def test_after_a_wider_decode_the_next_one_is_narrow_again(overflowing: VaeEntry) -> None:
    decoder = LocalDecoder([overflowing], "cpu")
    latents = randn(1, 4, 8, 8).half()

    first, second = decode(decoder, "hot", latents), decode(decoder, "hot", latents)

    assert first.widened_from == second.widened_from == "float16"
    assert np.array_equal(pixels_of(first), pixels_of(second))


def test_latents_that_no_dtype_decodes_fail_by_name_and_give_no_picture(decoder: LocalDecoder) -> None:
    latents = torch.full((1, 4, 8, 8), 3e38)

    with pytest.raises(NonFiniteImage, match="NaN or Inf"):
        decode(decoder, "sd-v1", latents)


def test_force_upcast_widens_float16_for_those_whose_pipelines_do(tmp_path: Path, tiny_vaes: Path) -> None:
    folder = shutil.copytree(tiny_vaes / "sdxl", tmp_path / "vae")
    config = json.loads((folder / "config.json").read_text()) | {"force_upcast": True}
    (folder / "config.json").write_text(json.dumps(config))

    for respects, dtype in ((True, "float32"), (False, "float16")):
        entry = VaeEntry(id="x", path=str(folder), cpu_dtype="float16", respects_force_upcast=respects)
        assert decode(LocalDecoder([entry], "cpu"), "x", randn(1, 4, 8, 8).half()).dtype == dtype


def changed(folder: Path, tmp_path: Path, **changes: object) -> VaeEntry:
    copy = shutil.copytree(folder, tmp_path / "vae")
    config = json.loads((copy / "config.json").read_text()) | changes
    (copy / "config.json").write_text(json.dumps(config))
    return VaeEntry(id="x", path=str(copy), latent_channels=4, spatial_scale=8)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"_class_name": "AutoencoderKLAllegro"}, "'x'.*is a AutoencoderKLAllegro; this release decodes AutoencoderKL"),
        ({"latent_channels": 16}, "'x'.*latent_channels 16; the catalogue says 4"),
        ({"block_out_channels": [16, 16, 32]}, "'x'.*spatial_scale 4; the catalogue says 8"),
        ({"latents_mean": [0.0]}, "'x'.*latents_mean"),
    ],
)
def test_a_vae_that_is_not_what_the_catalogue_says_is_not_served(
    tmp_path: Path, tiny_vaes: Path, changes: dict[str, object], named: str
) -> None:
    with pytest.raises(ConfigurationError, match=named):
        LocalDecoder([changed(tiny_vaes / "sd-v1", tmp_path, **changes)], "cpu")


@pytest.mark.parametrize(
    ("vae", "factors", "changes", "named"),
    [
        ("sd-v1", {"scaling_factor": 0.13025}, {}, "'x'.*scaling_factor 0.18215 and.*the catalogue says 0.13025"),
        ("flux", {"scaling_factor": 0.3611}, {}, "shift_factor 0.1159; the catalogue says 0.3611 and 0.0"),
        ("sd-v1", {"scaling_factor": 0.18215, "shift_factor": 0.1}, {}, "says 0.18215 and 0.1: it is not served"),
        (
            "sd-v1",
            {"scaling_factor": 0.18215},
            {"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4},
            "and latents_mean",
        ),
    ],
)
def test_a_vae_that_endpoints_would_be_told_to_scale_otherwise_is_not_served(
    tmp_path: Path, tiny_vaes: Path, vae: str, factors: dict[str, float], changes: dict[str, object], named: str
) -> None:
    entry = VaeEntry(id="x", path=changed(tiny_vaes / vae, tmp_path, **changes).path, **factors)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=named):
        LocalDecoder([entry], "cpu")


def test_a_vae_with_the_factors_that_the_catalogue_says_is_served(tiny_vaes: Path) -> None:
    for vae, factors in (
        ("sd-v1", {"scaling_factor": 0.18215}),
        ("flux", {"scaling_factor": 0.3611, "shift_factor": 0.1159}),
    ):
        entry = VaeEntry(id="x", path=str(tiny_vaes / vae), **factors)  # type: ignore[arg-type]
        assert list(LocalDecoder([entry], "cpu").vaes) == ["x"]


def test_pickled_weights_are_not_loaded(tmp_path: Path, tiny_vaes: Path) -> None:
    folder = shutil.copytree(tiny_vaes / "sd-v1", tmp_path / "vae")
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    torch.save(AutoencoderKL.from_pretrained(tiny_vaes / "sd-v1").state_dict(), folder / "diffusion_pytorch_model.bin")

    with pytest.raises(ConfigurationError, match="'x'.*cannot be loaded"):
        LocalDecoder([VaeEntry(id="x", path=str(folder))], "cpu")


def test_a_folder_without_a_vae_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="holds no config.json"):
        LocalDecoder([VaeEntry(id="x", path=str(tmp_path))], "cpu")


@pytest.mark.parametrize("name", ["gpu", "", "cuda:", "cuda:x", "cpu:1", "mps:0", "CUDA"])
def test_a_name_that_no_device_has_is_named(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"--device {name!r} is not known; expected auto, cpu, cuda, cuda:N"):
        choose_device(name)


@pytest.mark.parametrize("name", ["cuda:77", "xpu:77"])
def test_a_device_that_is_not_there_is_named_with_this_torch_and_what_to_do(name: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        choose_device(name)

    assert str(refused.value).startswith(f"--device {name}: torch {torch.__version__} ")
    assert str(refused.value).endswith("or set --device cpu (VAEFARM_DEVICE=cpu)")
