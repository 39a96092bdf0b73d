"""Someone else's client, as it is installed: `diffusers.utils.remote_utils` against a running gateway.

Whatever it gives equals the same decode through `Farm`.
"""

import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.remote_utils import remote_decode, remote_encode
from PIL import Image
from tests.gateway.hf_farm import HfFarm

from vaefarm_producer import Farm
from vaefarm_shared.unit import to_pixels

#: Factors of each VAE's own config, and what its latents look like.
FACTORS: dict[str, dict[str, Any]] = {
    "demo": {"scaling_factor": 0.25106},
    "flux": {"scaling_factor": 0.3611, "shift_factor": 0.1159},
}
SHAPES = {"demo": (1, 4, 8, 8), "flux": (1, 16, 64)}
SIZES: dict[str, dict[str, Any]] = {"demo": {}, "flux": {"height": 64, "width": 64}}
DTYPES = {"demo": (torch.float16, torch.float32), "flux": (torch.bfloat16, torch.float32)}

#: Seconds that a job may take.
PATIENCE = 30


def latents_of(vae: str, dtype: torch.dtype, count: int = 1) -> torch.Tensor:
    shape = (count, *SHAPES[vae][1:])
    return torch.randn(shape, generator=torch.Generator().manual_seed(13)).to(dtype)


@dataclass
class Expected:
    """What `Farm` makes of latents."""

    farm: Farm
    vae: str
    latents: torch.Tensor
    options: dict[str, Any] = field(default_factory=dict)

    def _job(self, **more: Any) -> Any:
        return self.farm.submit(self.latents, vae=self.vae, **SIZES[self.vae], **self.options, **more)

    @cached_property
    def pixels(self) -> np.ndarray:
        """(n, height, width, 3), as a PNG keeps them."""
        return np.stack([np.asarray(image) for image in self._job().images(PATIENCE)])

    @cached_property
    def raw(self) -> torch.Tensor:
        tensor: torch.Tensor = self._job(output_type="pt").tensor(PATIENCE).torch()
        return tensor

    @property
    def jpeg(self) -> np.ndarray:
        """The pixels of what Pillow makes of the picture, as it does where nothing is said."""
        file = io.BytesIO()
        Image.fromarray(self.pixels[0]).save(file, format="JPEG")
        return np.asarray(Image.open(file))

    @property
    def from_raw(self) -> np.ndarray:
        """The pixels that an image processor of diffusers makes of the raw tensor."""
        return to_pixels(self.raw.numpy())


@pytest.fixture(scope="module")
def expected_of(hf_farm: HfFarm) -> Iterator[Any]:
    kept: dict[Any, Expected] = {}

    def of(vae: str, dtype: torch.dtype) -> Expected:
        if (vae, dtype) not in kept:
            kept[vae, dtype] = Expected(hf_farm.farm, vae, latents_of(vae, dtype), dict(FACTORS[vae]))
        return kept[vae, dtype]

    return of  # type: ignore[return-value]


def supported(output_type: str, return_type: str, partial: bool, processor: bool) -> bool:
    """Whether the client itself goes through with it: else it has no name for its result, or refuses by name."""
    if output_type == "pil":
        return processor or return_type == "pil"
    return partial or return_type == "pt" or processor


COMBINATIONS = [
    one
    for one in product(("pil", "pt"), ("pil", "pt"), ("jpg", "png"), (False, True), (False, True))
    if supported(one[0], one[1], one[3], one[4])
]


@pytest.mark.parametrize(("vae", "dtype"), [(vae, dtype) for vae in FACTORS for dtype in DTYPES[vae]])
@pytest.mark.parametrize(("output_type", "return_type", "image_format", "partial", "processor"), COMBINATIONS)
def test_every_combination_that_the_client_supports_gives_what_farm_gives(
    hf_farm: HfFarm, expected_of: Any, vae, dtype, output_type, return_type, image_format, partial, processor
) -> None:
    given = remote_decode(
        hf_farm.vae(vae),
        latents_of(vae, dtype),
        processor=VaeImageProcessor() if processor else None,
        output_type=output_type,
        return_type=return_type,
        image_format=image_format,
        partial_postprocess=partial,
        **FACTORS[vae],
        **SIZES[vae],
    )

    expected = expected_of(vae, dtype)
    match output_type, return_type, partial, processor:
        case "pil", "pil", _, False:
            assert given.format == image_format.replace("jpg", "jpeg")
            assert np.array_equal(np.asarray(given), expected.jpeg if image_format == "jpg" else expected.pixels[0])
        case "pil", "pil", _, True:
            assert [np.asarray(one).tolist() for one in given] == expected.from_raw.tolist()
        case "pil", "pt", _, True:
            assert torch.equal(given, (expected.raw * 0.5 + 0.5).clamp(0, 1))
        case "pt", "pil", True, _:
            assert np.array_equal(np.asarray(given), expected.pixels[0])
        case "pt", "pil", False, True:
            assert np.array_equal(np.asarray(given), expected.from_raw[0])
        case "pt", "pt", True, _:
            assert given.dtype is torch.uint8
            assert np.array_equal(given.numpy(), expected.pixels)
        case "pt", "pt", False, _:
            assert given.dtype is torch.float16
            assert torch.equal(given, expected.raw)
        case _:
            pytest.fail("no case")


@pytest.mark.parametrize("vae", list(FACTORS))
@pytest.mark.parametrize(
    ("said", "means"),
    [
        ({"scaling_factor": 0.5}, {"scaling_factor": 0.5}),
        ({"scaling_factor": 0.5, "shift_factor": -0.25}, {"scaling_factor": 0.5, "shift_factor": -0.25}),
        ({"do_scaling": True}, {}),
        ({"do_scaling": False}, {"normalised": False}),
        ({"do_scaling": None}, {"normalised": False}),
        ({"do_scaling": False, "scaling_factor": 0.5}, {"normalised": False}),
    ],
)
def test_latents_are_scaled_as_the_client_means_it(hf_farm: HfFarm, vae: str, said: Any, means: Any) -> None:
    latents = latents_of(vae, torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        given = remote_decode(hf_farm.vae(vae), latents, output_type="pt", return_type="pt", **said, **SIZES[vae])
    assert torch.equal(given, Expected(hf_farm.farm, vae, latents, means).raw)


def test_scalings_differ_in_what_they_make(hf_farm: HfFarm) -> None:
    latents = latents_of("demo", torch.float32)
    options: tuple[dict[str, Any], ...] = (
        {},
        {"normalised": False},
        {"scaling_factor": 0.5},
        {"scaling_factor": 0.5, "shift_factor": -0.25},
    )
    made = [Expected(hf_farm.farm, "demo", latents, one).raw for one in options]
    assert not any(torch.equal(one, other) for place, one in enumerate(made) for other in made[:place])


def test_flux_latents_come_unpacked_too(hf_farm: HfFarm) -> None:
    latents = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    # Height and width are left aside: clients send wrong ones.
    given = remote_decode(hf_farm.vae("flux"), latents, image_format="png", height=8, width=1, **FACTORS["flux"])
    job = hf_farm.farm.submit(latents, vae="flux", **FACTORS["flux"])
    assert np.array_equal(np.asarray(given), np.asarray(job.image(PATIENCE)))


def test_several_pictures_come_as_tensors_and_as_a_list(hf_farm: HfFarm) -> None:
    latents = latents_of("demo", torch.float16, count=3)
    expected = Expected(hf_farm.farm, "demo", latents, dict(FACTORS["demo"]))
    options: dict[str, Any] = {"output_type": "pt", **FACTORS["demo"]}
    raw = remote_decode(hf_farm.vae("demo"), latents, return_type="pt", **options)
    listed = remote_decode(hf_farm.vae("demo"), latents, return_type="pil", partial_postprocess=True, **options)
    assert torch.equal(raw, expected.raw)
    assert [np.asarray(one).tolist() for one in listed] == expected.pixels.tolist()


def test_several_pictures_in_one_are_refused_in_the_clients_own_error(hf_farm: HfFarm) -> None:
    with pytest.raises(RuntimeError, match="one reply holds one; send them one by one"):
        remote_decode(hf_farm.vae("demo"), latents_of("demo", torch.float16, count=2), **FACTORS["demo"])


@pytest.mark.parametrize(
    ("said", "means"),
    [
        ({}, {"normalised": False}),
        ({"scaling_factor": 0.25}, {"scaling_factor": 0.25}),
        ({"scaling_factor": 0.25, "shift_factor": 0.5}, {"scaling_factor": 0.25, "shift_factor": 0.5}),
    ],
)
@pytest.mark.parametrize("vae", list(FACTORS))
@pytest.mark.parametrize("kind", ["picture", "tensor"])
def test_pictures_and_tensors_are_encoded_as_farm_does(hf_farm: HfFarm, vae, kind, said, means) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (64, 96, 3), np.uint8)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous().float() / 127.5 - 1
    image: Any = Image.fromarray(pixels) if kind == "picture" else tensor
    given = remote_encode(hf_farm.vae(vae), image, **said)
    expected = hf_farm.farm.encode(image, vae=vae, **means).latents(PATIENCE).torch()
    assert given.shape == (1, SHAPES[vae][1] if vae == "demo" else 16, 8, 12)
    assert given.dtype is expected.dtype
    assert torch.equal(given, expected)


def test_what_was_encoded_comes_back(hf_farm: HfFarm) -> None:
    picture = Image.fromarray(np.random.default_rng(2).integers(0, 256, (64, 64, 3), np.uint8))
    latents = remote_encode(hf_farm.vae("demo"), picture)
    given = remote_decode(hf_farm.vae("demo"), latents, do_scaling=False, image_format="png")
    whole = hf_farm.farm.encode(picture, vae="demo").latents(PATIENCE)
    again = hf_farm.farm.submit(whole, vae="demo").image(PATIENCE)
    # Scaled and divided again: a value may be rounded.
    assert np.abs(np.asarray(given).astype(int) - np.asarray(again)).max() <= 1
