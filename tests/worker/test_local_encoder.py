"""The local decoder encodes to what an img2img pipeline holds, bit for bit; what cannot be encoded is named."""

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    AutoencoderTiny,
    Flux2Pipeline,
    FluxImg2ImgPipeline,
    QwenImageImg2ImgPipeline,
)
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img import retrieve_latents
from PIL import Image
from tests.worker.items import randn

from vaefarm_producer.encoding import prepare_encode
from vaefarm_shared.catalogue import Catalogue, VaeEntry
from vaefarm_shared.errors import InvalidPicture, NonFiniteImage, OutOfMemory
from vaefarm_shared.images import from_image, unpack
from vaefarm_worker.decoder import Batch, BatchItem, Encoded
from vaefarm_worker.local_decoder import LocalDecoder
from vaefarm_worker.local_encoder import to_input
from vaefarm_worker.vaes import LoadedVae

VAES = ("sd-v1", "sdxl", "flux", "taesd")


@pytest.fixture(scope="module")
def decoder(catalogue: Path) -> LocalDecoder:
    return LocalDecoder([Catalogue.load(catalogue)[vae] for vae in VAES], "cpu")


def load(folder: Path, vae: str) -> Any:
    return (AutoencoderTiny if vae == "taesd" else AutoencoderKL).from_pretrained(folder / vae)


def loaded(decoder: LocalDecoder, vae: str) -> LoadedVae:
    found = decoder._shelf._places[vae].loaded
    assert found is not None
    return found


def item(decoder: LocalDecoder, vae: str, image: object, **options: Any) -> BatchItem:
    job = prepare_encode(image, vae, decoder.vaes[vae].contract, None, options)  # type: ignore[arg-type]
    return BatchItem(job.spec, unpack(job.packed, job.spec))


def encode(decoder: LocalDecoder, vae: str, image: object, **options: Any) -> Encoded:
    return decoder.encode(Batch((item(decoder, vae, image, **options),)))[0]


def photograph(height: int = 64, width: int = 96, seed: int = 0) -> Image.Image:
    """Something with edges, slopes and noise."""
    rows, columns = np.mgrid[:height, :width]
    noise = np.random.default_rng(seed).integers(0, 40, (height, width, 3))
    base = np.stack([rows * 3, columns * 2, (rows // 8 + columns // 8) % 2 * 180], -1)
    return Image.fromarray((base + noise).clip(0, 255).astype(np.uint8))


def pipelines_latents(vae: Any, image: torch.Tensor, generator: torch.Generator | None = None) -> Any:
    """What an img2img pipeline makes of a preprocessed image: its own lines."""
    mode = "argmax" if generator is None else "sample"
    with torch.no_grad():
        latents = retrieve_latents(vae.encode(image), generator=generator, sample_mode=mode)
        if vae.config.get("shift_factor") is not None:
            return (latents - vae.config.shift_factor) * vae.config.scaling_factor
        return vae.config.scaling_factor * latents


@pytest.mark.parametrize("vae", VAES)
def test_a_picture_encodes_to_the_pipelines_latents_bit_for_bit(
    decoder: LocalDecoder, tiny_vaes: Path, vae: str
) -> None:
    picture = photograph()
    file = io.BytesIO()
    picture.save(file, "PNG")

    encoded = encode(decoder, vae, file.getvalue())

    wanted = pipelines_latents(load(tiny_vaes, vae), VaeImageProcessor().preprocess(picture))
    assert (encoded.dtype, encoded.latents.dtype) == ("float32", "float32")
    assert torch.equal(encoded.latents.torch(), wanted)
    assert encoded.latents.shape == (1, 16 if vae == "flux" else 4, 8, 12)


@pytest.mark.parametrize("vae", VAES)
def test_a_tensor_encodes_to_the_pipelines_latents_bit_for_bit(
    decoder: LocalDecoder, tiny_vaes: Path, vae: str
) -> None:
    images = randn(2, 3, 48, 32).clamp(-1, 1)

    encoded = encode(decoder, vae, images)

    assert torch.equal(encoded.latents.torch(), pipelines_latents(load(tiny_vaes, vae), images))


@pytest.mark.parametrize("vae", VAES)
def test_with_a_seed_the_posterior_is_sampled_as_a_pipeline_with_that_generator_does(
    decoder: LocalDecoder, tiny_vaes: Path, vae: str
) -> None:
    images = randn(2, 3, 32, 32).clamp(-1, 1)

    sampled = encode(decoder, vae, images, seed=7).latents.torch()

    generator = torch.Generator("cpu").manual_seed(7)
    assert torch.equal(sampled, pipelines_latents(load(tiny_vaes, vae), images, generator))
    if vae != "taesd":
        assert not torch.equal(sampled, encode(decoder, vae, images, seed=8).latents.torch())
        assert not torch.equal(sampled, encode(decoder, vae, images).latents.torch())


def save_flux(folder: Path) -> None:
    AutoencoderKL.from_pretrained(folder.parent / "flux").save_pretrained(folder)


def save_flux2(folder: Path) -> None:
    torch.manual_seed(5)
    vae = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 16, 32, 32),
        layers_per_block=1,
        latent_channels=8,
        norm_num_groups=8,
    )
    vae.bn.running_mean.uniform_(-1, 1)
    vae.bn.running_var.uniform_(0.5, 2)
    vae.save_pretrained(folder)


def save_qwen(folder: Path) -> None:
    torch.manual_seed(6)
    AutoencoderKLQwenImage(
        base_dim=16,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.3, 0.7, 2.1, 1.0],
    ).save_pretrained(folder)


def qwens(vae: Any, image: torch.Tensor) -> Any:
    pipeline = SimpleNamespace(vae=vae)
    return QwenImageImg2ImgPipeline._encode_vae_image(pipeline, image.unsqueeze(2), torch.Generator().manual_seed(3))[
        :, :, 0
    ]


def flux2s(vae: Any, image: torch.Tensor) -> Any:
    pipeline = SimpleNamespace(vae=vae, _patchify_latents=Flux2Pipeline._patchify_latents)
    return Flux2Pipeline._unpatchify_latents(Flux2Pipeline._encode_vae_image(pipeline, image, None))


def fluxes(vae: Any, image: torch.Tensor) -> Any:
    pipeline = SimpleNamespace(vae=vae)
    return FluxImg2ImgPipeline._encode_vae_image(pipeline, image, torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    ("save", "kind", "pipelines", "seed"),
    [
        (save_flux, AutoencoderKL, fluxes, 3),
        (save_flux2, AutoencoderKLFlux2, flux2s, None),
        (save_qwen, AutoencoderKLQwenImage, qwens, 3),
    ],
    ids=["flux", "flux2", "qwen-image"],
)
def test_each_family_normalises_as_its_pipelines_own_method(
    tiny_vaes: Path,
    save: Callable[[Path], None],
    kind: Any,
    pipelines: Callable[[Any, torch.Tensor], Any],
    seed: int | None,
) -> None:
    folder = tiny_vaes / f"encoding-{kind.__name__}"
    save(folder)
    decoder = LocalDecoder([VaeEntry(id="x", path=str(folder))], "cpu")
    images = randn(1, 3, 64, 32).clamp(-1, 1)

    encoded = encode(decoder, "x", images, seed=seed)

    with torch.no_grad():
        assert torch.equal(encoded.latents.torch(), pipelines(kind.from_pretrained(folder).eval(), images))


def test_normalising_is_the_reverse_of_denormalising(tiny_vaes: Path) -> None:
    for name, save, kind in (
        ("flux2", save_flux2, AutoencoderKLFlux2),
        ("qwen", save_qwen, AutoencoderKLQwenImage),
        ("flux", save_flux, AutoencoderKL),
    ):
        save(tiny_vaes / f"reverse-{name}")
        decoder = LocalDecoder([VaeEntry(id="x", path=str(tiny_vaes / f"reverse-{name}"))], "cpu")
        vae = loaded(decoder, "x")
        assert isinstance(vae.module, kind)
        raw = randn(1, decoder.vaes["x"].contract.latent_channels, 4, 6)

        there_and_back = vae.family.denormalise(vae.family.normalise(raw, vae.module), vae.module)

        assert torch.allclose(there_and_back, raw, atol=1e-5)


def test_a_vae_without_a_posterior_gives_its_one_latent(tmp_path: Path) -> None:
    torch.manual_seed(7)
    blocks = {"block_out_channels": (16, 32), "layers_per_block": (1, 1), "qkv_multiscales": ((), ())}
    vae = AutoencoderDC(
        latent_channels=4,
        attention_head_dim=8,
        scaling_factor=0.41407,
        encoder_block_types="ResBlock",
        decoder_block_types="ResBlock",
        **{f"{half}_{name}": value for half in ("encoder", "decoder") for name, value in blocks.items()},
    )
    vae.save_pretrained(tmp_path / "dc")
    decoder = LocalDecoder([VaeEntry(id="dc", path=str(tmp_path / "dc"))], "cpu")
    images = randn(1, 3, 16, 16).clamp(-1, 1)

    encoded = encode(decoder, "dc", images, seed=1)

    with torch.no_grad():
        assert torch.equal(encoded.latents.torch(), vae.eval().encode(images).latent * 0.41407)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_in_a_narrow_dtype_too_the_latents_are_the_pipelines(catalogue: Path, tiny_vaes: Path, dtype: str) -> None:
    entry = Catalogue.load(catalogue)["flux"].model_copy(update={"cpu_dtype": dtype})
    vae = AutoencoderKL.from_pretrained(tiny_vaes / "flux", torch_dtype=getattr(torch, dtype))
    image = VaeImageProcessor().preprocess(photograph()).to(getattr(torch, dtype))

    encoded = encode(LocalDecoder([entry], "cpu"), "flux", photograph())

    assert (encoded.dtype, encoded.latents.dtype) == (dtype, dtype)
    assert torch.equal(encoded.latents.torch(), pipelines_latents(vae, image))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_pixels_become_what_the_image_processor_makes_of_them(dtype: torch.dtype) -> None:
    every = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)

    made = to_input(from_image(every, 1 << 20), torch.device("cpu"), dtype)

    wanted = VaeImageProcessor().preprocess(Image.fromarray(every)).to(dtype)
    assert torch.equal(made, wanted)
    assert made.stride() == wanted.stride(), "and lie in memory in the same order"


def test_a_batch_gives_each_job_its_own_latents(decoder: LocalDecoder) -> None:
    items = [
        item(decoder, "sdxl", photograph(seed=1), seed=5),
        item(decoder, "sdxl", np.stack([np.asarray(photograph(seed=2)), np.asarray(photograph(seed=3))])),
        item(decoder, "sdxl", photograph(seed=4), seed=6),
    ]

    together = decoder.encode(Batch(tuple(items)))

    for one, encoded in zip(items, together, strict=True):
        alone = decoder.encode(Batch((one,)))[0]
        assert encoded.latents.shape == one.spec.shape
        assert np.allclose(encoded.latents.numpy(), alone.latents.numpy(), atol=1e-5)


def test_a_job_of_many_images_is_encoded_one_by_one_where_all_at_once_find_no_room(
    decoder: LocalDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = loaded(decoder, "sdxl").module.encoder
    whole = encoder.forward
    counts: list[int] = []

    def narrow(images: torch.Tensor) -> Any:
        counts.append(len(images))
        if len(images) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory (made up)")
        return whole(images)

    monkeypatch.setattr(encoder, "forward", narrow)
    images = randn(3, 3, 32, 32).clamp(-1, 1)

    encoded = encode(decoder, "sdxl", images)

    assert (counts, encoded.switches, encoded.latents.shape) == ([3, 1, 1, 1], ("slicing",), (3, 4, 4, 4))
    with pytest.raises(OutOfMemory, match="has no room to encode 3 x sdxl 32x32"):
        encode(decoder, "sdxl", images, reproducible=True)


def test_an_encode_that_overflows_is_done_once_more_in_float32_and_says_so(tmp_path: Path, tiny_vaes: Path) -> None:
    vae = AutoencoderKL.from_pretrained(tiny_vaes / "sd-v1")
    with torch.no_grad():
        vae.encoder.conv_in.weight.mul_(1e4)
        vae.encoder.conv_in.bias.fill_(6e4)
    vae.save_pretrained(tmp_path / "vae")
    entry = VaeEntry(id="hot", path=str(tmp_path / "vae"), cpu_dtype="float16")
    decoder = LocalDecoder([entry], "cpu")

    first, second = encode(decoder, "hot", photograph()), encode(decoder, "hot", photograph())

    assert (first.dtype, first.widened_from, first.latents.dtype) == ("float32", "float16", "float32")
    assert np.array_equal(first.latents.array, second.latents.array)
    assert loaded(decoder, "hot").module.dtype == torch.float16


def test_images_that_no_dtype_encodes_fail_by_name(decoder: LocalDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = loaded(decoder, "sdxl").module.encoder
    monkeypatch.setattr(encoder, "forward", lambda images: torch.full((len(images), 8, 4, 4), float("nan")))

    with pytest.raises(NonFiniteImage, match="'sdxl' encodes job .* to NaN or Inf"):
        encode(decoder, "sdxl", randn(1, 3, 32, 32).clamp(-1, 1))


def test_a_decode_only_decoder_holds_no_encoder_and_decodes_the_same(catalogue: Path) -> None:
    entry = Catalogue.load(catalogue)["sd-v1"]
    whole, halved = LocalDecoder([entry], "cpu"), LocalDecoder([entry], "cpu", decode_only=True)

    names = {name.partition(".")[0] for name, _ in loaded(halved, "sd-v1").module.named_parameters()}
    assert names == {"decoder", "post_quant_conv"}
    assert (whole.vaes["sd-v1"].encodes, halved.vaes["sd-v1"].encodes) == (True, False)
    whole.self_test()
    halved.self_test()


BAD_IMAGES = [
    (np.zeros((60, 64, 3), np.uint8), "64 x 60 pixels; .* multiples of 8: .* nearest heights 56 and 64"),
    (np.zeros((64, 4, 3), np.uint8), "nearest widths are 8, the nearest heights 64"),
    (np.zeros((64, 64, 4), np.uint8), "dtype uint8 and shape .64, 64, 4.; expected the bytes"),
    (np.zeros((0, 64, 64, 3), np.uint8), "expected the bytes"),
    (np.zeros((64, 64), np.uint8), "expected the bytes"),
    (np.zeros((1, 3, 64, 64), np.float64), "dtype float64"),
    (torch.zeros(1, 64, 64, 3), "shape .1, 64, 64, 3.; expected the bytes"),
    (torch.full((1, 3, 64, 64), 255.0), "values from 255 to 255; expected them in"),
    (torch.full((1, 3, 64, 64), -1.01), "expected them in"),
    (torch.full((1, 3, 64, 64), float("nan")).bfloat16(), "expected them in"),
    (torch.zeros(1, 1, 1, 1).expand(1, 3, 8192, 8192), "at most 16777216 are taken"),
    (np.zeros((65, 8, 8, 3), np.uint8), "65 images were given; .* at most 64"),
    (torch.zeros(1, 1, 1, 1).expand(64, 3, 1024, 1024), "has 805306368 bytes; at most"),
    ("photo.png", "the image is a str; expected the bytes of a PNG"),
    (Path("photo.png"), "expected the bytes of a PNG"),
    (None, "the image is a NoneType"),
]


@pytest.mark.parametrize(("image", "named"), BAD_IMAGES)
def test_what_no_vae_encodes_is_refused_by_what_was_expected(decoder: LocalDecoder, image: object, named: str) -> None:
    with pytest.raises(InvalidPicture, match=named):
        item(decoder, "sdxl", image)


def test_where_latents_are_packed_sizes_are_of_whole_blocks(decoder: LocalDecoder) -> None:
    with pytest.raises(InvalidPicture, match="'flux' takes multiples of 16: .* nearest widths are 64 and 80"):
        item(decoder, "flux", Image.new("RGB", (72, 64)))
