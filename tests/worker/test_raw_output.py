"""A raw tensor is the decoder's own output, bit for bit; explicit factors do what the VAE's own would."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from tests.worker.items import decode, item, randn

from vaefarm_producer.encoding import prepare_encode
from vaefarm_shared.catalogue import Catalogue, VaeEntry
from vaefarm_shared.errors import NonFiniteImage
from vaefarm_shared.images import unpack
from vaefarm_shared.latents import HostTensor
from vaefarm_shared.unit import to_pixels
from vaefarm_worker.decoder import Batch, BatchItem, Decoded
from vaefarm_worker.fake_decoder import FakeDecoder, stripes
from vaefarm_worker.local_decoder import LocalDecoder
from vaefarm_worker.pixels import fit
from vaefarm_worker.self_test import pixels_of

SHAPES = {"sd-v1": (2, 4, 10, 6), "sdxl": (1, 4, 16, 8), "taesd": (1, 4, 8, 8), "flux": (1, 16, 8, 12)}


@pytest.fixture(scope="module", params=["float32", "float16", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def decoder(catalogue: Path, dtype: str) -> LocalDecoder:
    entries = [Catalogue.load(catalogue)[vae].model_copy(update={"cpu_dtype": dtype}) for vae in SHAPES]
    return LocalDecoder(entries, "cpu")


@pytest.fixture
def load(tiny_vaes: Path, dtype: str) -> Callable[[str], Any]:
    """Diffusers' own VAE, in the decoder's dtype."""

    def loaded(vae: str) -> Any:
        kind = AutoencoderTiny if vae == "taesd" else AutoencoderKL
        return kind.from_pretrained(tiny_vaes / vae, torch_dtype=getattr(torch, dtype))

    return loaded


def raw(decoded: Decoded) -> torch.Tensor:
    assert decoded.pixels is None
    assert decoded.tensor is not None
    assert decoded.tensor.dtype == "float16"
    return decoded.tensor.torch()  # type: ignore[no-any-return]


def output(vae: Any, latents: torch.Tensor, scale: float, shift: float | None = None) -> torch.Tensor:
    """What `vae.decode` gives for latents in its dtype, cast to float16."""
    with torch.no_grad():
        scaled = latents.to(vae.dtype) / scale
        decoded: torch.Tensor = vae.decode(scaled if shift is None else scaled + shift, return_dict=False)[0]
        return decoded.half()


@pytest.mark.parametrize("vae", SHAPES)
def test_a_raw_tensor_is_the_decoders_output_bit_for_bit(
    decoder: LocalDecoder, load: Callable[[str], Any], vae: str, dtype: str
) -> None:
    latents, own = 3 * randn(*SHAPES[vae]), load(vae)

    decoded = decode(decoder, vae, latents, output_type="pt", reproducible=True)

    expected = output(own, latents, own.config.scaling_factor, own.config.get("shift_factor"))
    assert torch.equal(raw(decoded), expected)
    assert decoded.dtype == dtype
    assert expected.abs().max() > 1 or vae == "taesd", "something would be clamped"


def test_packed_latents_give_a_raw_tensor_too(decoder: LocalDecoder) -> None:
    decoded = decode(decoder, "flux", randn(2, 6 * 4, 64), height=96, width=64, output_type="pt")

    assert raw(decoded).shape == (2, 3, 96, 64)


def test_in_float16_its_pixels_are_the_pictures(decoder: LocalDecoder, dtype: str) -> None:
    latents = 3 * randn(2, 4, 8, 8)
    tensor = raw(decode(decoder, "sdxl", latents, output_type="pt")).numpy()

    off = np.abs(to_pixels(tensor).astype(int) - pixels_of(decode(decoder, "sdxl", latents)))

    assert off.max() <= {"float32": 1, "float16": 0, "bfloat16": 2}[dtype]


@pytest.mark.parametrize("vae", SHAPES)
def test_the_configs_own_factors_said_explicitly_change_no_bit(
    decoder: LocalDecoder, load: Callable[[str], Any], vae: str
) -> None:
    latents, config = 3 * randn(*SHAPES[vae]), load(vae).config
    factors = {"scaling_factor": config.scaling_factor, "shift_factor": config.get("shift_factor")}

    said, unsaid = decode(decoder, vae, latents, **factors), decode(decoder, vae, latents)

    assert np.array_equal(pixels_of(said), pixels_of(unsaid))


@pytest.mark.parametrize("factors", [(0.7,), (-2, 0.25)])
def test_other_factors_take_the_place_of_the_configs(
    decoder: LocalDecoder, load: Callable[[str], Any], factors: tuple[float, ...]
) -> None:
    latents = randn(1, 16, 8, 8)
    options = dict(zip(("scaling_factor", "shift_factor"), factors, strict=False))

    decoded = decode(decoder, "flux", latents, output_type="pt", reproducible=True, **options)

    assert torch.equal(raw(decoded), output(load("flux"), latents, *factors))


def test_explicit_factors_take_the_place_of_statistics_too(tmp_path: Path, tiny_vaes: Path) -> None:
    vae = AutoencoderKL.from_pretrained(tiny_vaes / "sdxl")
    vae.register_to_config(latents_mean=[1.0, 2.0, 3.0, 4.0], latents_std=[2.0] * 4)
    vae.save_pretrained(tmp_path / "vae")
    decoder, latents = LocalDecoder([VaeEntry(id="x", path=str(tmp_path / "vae"))], "cpu"), randn(1, 4, 8, 8)

    decoded = decode(decoder, "x", latents, output_type="pt", scaling_factor=0.13025, reproducible=True)

    assert torch.equal(raw(decoded), output(vae, latents, 0.13025))


def encode(decoder: LocalDecoder, vae: str, images: torch.Tensor, **options: Any) -> torch.Tensor:
    job = prepare_encode(images, vae, decoder.vaes[vae].contract, None, options)  # type: ignore[arg-type]
    latents: torch.Tensor = decoder.encode(Batch((BatchItem(job.spec, unpack(job.packed, job.spec)),)))[
        0
    ].latents.torch()
    return latents


def encoders(vae: Any, images: torch.Tensor) -> torch.Tensor:
    """What diffusers' encoder gives, unscaled."""
    with torch.no_grad():
        made = vae.encode(images.to(vae.dtype))
        latents: torch.Tensor = made.latents if hasattr(made, "latents") else made.latent_dist.mode()
        return latents


@pytest.mark.parametrize("vae", SHAPES)
def test_an_encode_gives_what_the_encoder_gives_or_scales_as_it_is_told(
    decoder: LocalDecoder, load: Callable[[str], Any], vae: str
) -> None:
    images, own = randn(2, 3, 32, 48).clamp(-1, 1), load(vae)
    latents, config = encoders(own, images), own.config
    factors = {"scaling_factor": config.scaling_factor, "shift_factor": config.get("shift_factor")}

    assert torch.equal(encode(decoder, vae, images, normalised=False), latents)
    assert torch.equal(encode(decoder, vae, images, scaling_factor=0.7), latents * 0.7)
    assert torch.equal(encode(decoder, vae, images, scaling_factor=2, shift_factor=-0.25), (latents + 0.25) * 2)
    assert torch.equal(encode(decoder, vae, images, **factors), encode(decoder, vae, images))


@pytest.fixture
def overflowing(tmp_path: Path, tiny_vaes: Path) -> VaeEntry:
    """A VAE whose last activations are beyond float16 and well within float32."""
    vae = AutoencoderKL.from_pretrained(tiny_vaes / "sd-v1")
    with torch.no_grad():
        vae.decoder.conv_in.weight.mul_(1e4)
        vae.decoder.conv_in.bias.fill_(6e4)
    vae.save_pretrained(tmp_path / "vae")
    return VaeEntry(id="hot", path=str(tmp_path / "vae"), cpu_dtype="float16")


def test_a_raw_tensor_that_is_not_finite_is_decoded_once_more_in_float32(overflowing: VaeEntry) -> None:
    assert overflowing.path is not None
    half = AutoencoderKL.from_pretrained(overflowing.path, torch_dtype=torch.float16)
    latents = randn(1, 4, 8, 8).half()

    decoded = decode(LocalDecoder([overflowing], "cpu"), "hot", latents, output_type="pt")

    assert (decoded.dtype, decoded.widened_from) == ("float32", "float16")
    assert torch.equal(raw(decoded), output(half.float(), latents, half.config.scaling_factor))
    with pytest.raises(NonFiniteImage):
        decode(LocalDecoder([overflowing], "cpu"), "hot", latents, output_type="pt", scaling_factor=1e-300)


def test_what_is_asked_in_another_size_is_resized_and_cropped_and_not_clamped(catalogue: Path) -> None:
    entry = VaeEntry(id="x", path=Catalogue.load(catalogue)["sd-v1"].path, binned=True)
    decoder, latents = LocalDecoder([entry], "cpu"), 3 * randn(2, 4, 8, 8)

    cropped = raw(decode(decoder, "x", latents, output_type="pt", height=48, width=60, reproducible=True))

    images = torch.cat([fit(one, 48, 60) for one in decoded_in_float32(entry, latents).split(1)])
    assert torch.equal(cropped, images.half())


def decoded_in_float32(entry: VaeEntry, latents: torch.Tensor) -> torch.Tensor:
    assert entry.path is not None
    vae = AutoencoderKL.from_pretrained(entry.path)
    with torch.no_grad():
        images: torch.Tensor = vae.decode(latents / vae.config.scaling_factor).sample
        return images


def test_each_job_of_a_batch_gets_its_own_part(catalogue: Path) -> None:
    decoder = LocalDecoder([Catalogue.load(catalogue)["sd-v1"]], "cpu")
    items = [item(decoder, "sd-v1", randn(n, 4, 8, 8, seed=n), output_type="pt") for n in (1, 2)]

    made = decoder.decode(Batch(tuple(items)))

    for one, n in zip(made, (1, 2), strict=True):
        alone = raw(decode(decoder, "sd-v1", randn(n, 4, 8, 8, seed=n), output_type="pt"))
        assert torch.allclose(raw(one), alone, atol=2e-3)


def test_the_fake_decoders_raw_tensor_has_its_stripes() -> None:
    decoder = FakeDecoder([Catalogue.load()["demo"]], image_bytes=4000)
    job = item(decoder, "demo", randn(2, 4, 8, 4), output_type="pt")

    (decoded,) = decoder.decode(Batch((job,)))

    assert isinstance(decoded.tensor, HostTensor)
    assert decoded.tensor.shape == job.spec.tensor_shape == (2, 3, 64, 32)
    assert np.array_equal(to_pixels(decoded.tensor.array), stripes(job))
