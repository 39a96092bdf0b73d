"""For every VAE of the catalogue: what its pipelines return is taken, what no decode can take is refused by name."""

import numpy as np
import pytest

from vaefarm_producer.submission import DecodeOptions, prepare
from vaefarm_shared.catalogue import Catalogue, Contract
from vaefarm_shared.checks import check_shape
from vaefarm_shared.errors import InvalidInput, InvalidLatents
from vaefarm_shared.job import Layout

#: Pixels of a picture that every contract's layouts divide.
SIDE = 256

PAIRS = [
    (entry.id, layout) for entry in Catalogue.load() for layout in (entry.contract.layouts if entry.contract else ())
]


def contract_of(vae: str) -> Contract:
    contract = Catalogue.load()[vae].contract
    assert contract is not None
    return contract


def shape_of(contract: Contract, layout: Layout, side: int = SIDE) -> tuple[int, ...]:
    """What one picture's latents look like."""
    c, s = contract.latent_channels, contract.spatial_scale
    rows = side // s
    shapes: dict[Layout, tuple[int, ...]] = {
        "spatial": (1, c, rows, rows),
        "packed": (1, (rows // 2) ** 2, 4 * c),
        "tokens": (1, rows**2, c),
        "patchified": (1, 4 * c, rows // 2, rows // 2),
        "frames": (1, c, 1, rows, rows),
        "video": (1, c, 3, rows, rows),
        "video_tokens": (1, 3 * rows**2, c),
        "frames_first": (1, 3, c, rows, rows),
        "padded": (1, 4, c, rows, rows),
    }
    return shapes[layout]


def frames_of(contract: Contract) -> int | None:
    """Frames of a video of three latent frames; None of pictures."""
    return None if contract.temporal_scale is None else 2 * contract.temporal_scale + 1


def test_every_entry_has_a_contract() -> None:
    assert {vae for vae, _ in PAIRS} == {entry.id for entry in Catalogue.load()}


@pytest.mark.parametrize(("vae", "layout"), PAIRS)
def test_what_its_pipelines_return_is_taken(vae: str, layout: Layout) -> None:
    contract = contract_of(vae)
    shape = shape_of(contract, layout)

    options: DecodeOptions = {"height": SIDE, "width": SIDE, "num_frames": frames_of(contract)}
    job = prepare(np.zeros(shape, np.float16), vae, contract, None, options)

    assert (job.spec.layout, job.spec.count, job.spec.picture_size) == (layout, 1, (SIDE, SIDE))
    assert job.spec.num_frames == frames_of(contract)


@pytest.mark.parametrize(("vae", "layout"), PAIRS)
def test_other_channels_are_refused_with_those_expected(vae: str, layout: Layout) -> None:
    contract = contract_of(vae)
    axis = {"packed": 2, "tokens": 2, "video_tokens": 2, "frames_first": 2, "padded": 2}.get(layout, 1)
    shape = list(shape_of(contract, layout))
    expected, shape[axis] = shape[axis], shape[axis] + 1

    with pytest.raises(InvalidLatents, match=rf"have {shape[axis]} .*VAE '{vae}' expects.* {expected}\b"):
        check_shape(vae, contract, tuple(shape), SIDE, SIDE, frames_of(contract))


@pytest.mark.parametrize(("vae", "layout"), [pair for pair in PAIRS if pair[1] in ("packed", "tokens")])
def test_another_number_of_tokens_is_refused_with_that_of_the_size(vae: str, layout: Layout) -> None:
    contract = contract_of(vae)
    one, tokens, features = shape_of(contract, layout)

    with pytest.raises(InvalidLatents, match=rf"have {tokens - 1} tokens.* = {tokens}: pass the height and width"):
        check_shape(vae, contract, (one, tokens - 1, features), SIDE, SIDE)
    with pytest.raises(InvalidLatents, match="need height and width"):
        check_shape(vae, contract, (one, tokens, features))


@pytest.mark.parametrize(("vae", "layout"), PAIRS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_latents_that_are_not_finite_are_refused(vae: str, layout: Layout, value: float) -> None:
    contract = contract_of(vae)
    latents = np.zeros(shape_of(contract, layout), np.float32)
    latents.flat[-1] = value

    with pytest.raises(InvalidLatents, match="NaN or Inf"):
        prepare(latents, vae, contract, None, {"height": SIDE, "width": SIDE, "num_frames": frames_of(contract)})


@pytest.mark.parametrize("vae", sorted({vae for vae, layout in PAIRS if layout == "spatial"}))
def test_another_size_than_the_latents_make_is_a_crop_for_binned_families_and_an_error_for_others(vae: str) -> None:
    contract = contract_of(vae)
    shape = shape_of(contract, "spatial")

    if contract.binned:
        pictures = check_shape(vae, contract, shape, SIDE - 56, SIDE)
        assert (pictures.height, pictures.crop_height, pictures.crop_width) == (SIDE, SIDE - 56, SIDE)
        with pytest.raises(InvalidLatents, match="would be resized.*takes at most"):
            check_shape(vae, contract, shape, 8, 65_536)
    else:
        with pytest.raises(InvalidLatents, match=f"decode to height {SIDE}"):
            check_shape(vae, contract, shape, SIDE - 56, SIDE)


def test_films_are_not_pictures() -> None:
    with pytest.raises(InvalidLatents, match="hold 5 frames.*of one frame each"):
        check_shape("qwen-image", contract_of("qwen-image"), (1, 16, 5, 32, 32))


def test_a_picture_with_alpha_is_no_jpeg() -> None:
    contract = contract_of("qwen-image-2-1")
    latents = np.zeros(shape_of(contract, "spatial"), np.float16)

    with pytest.raises(InvalidInput, match="'jpeg' has no alpha channel.*'qwen-image-2-1'"):
        prepare(latents, "qwen-image-2-1", contract, None, {"image_format": "jpeg"})
    assert prepare(latents, "qwen-image-2-1", contract, None, {"image_format": "webp"}).spec.picture_channels == 4


@pytest.mark.parametrize(
    ("vae", "layout", "options", "version"),
    [
        ("sdxl", "spatial", {}, 1),
        ("flux", "packed", {"height": SIDE, "width": SIDE}, 1),
        ("sdxl", "spatial", {"normalised": False}, 2),
        ("flux2", "patchified", {}, 2),
        ("qwen-image", "frames", {}, 2),
        ("sana", "spatial", {"height": 200}, 2),
    ],
)
def test_a_job_is_written_in_the_lowest_version_that_carries_it(
    vae: str, layout: Layout, options: dict[str, object], version: int
) -> None:
    contract = contract_of(vae)
    latents = np.zeros(shape_of(contract, layout), np.float16)

    job = prepare(latents, vae, contract, None, options)  # type: ignore[arg-type]

    assert f'"version":{version}' in job.spec.to_json()


def test_a_picture_that_is_resized_to_more_is_reckoned_as_that() -> None:
    contract = contract_of("sana")
    latents = np.zeros((2, *shape_of(contract, "spatial")[1:]), np.float16)

    plain = prepare(latents, "sana", contract, None, {}).spec
    larger = prepare(latents, "sana", contract, None, {"height": 4 * SIDE, "width": SIDE}).spec
    smaller = prepare(latents, "sana", contract, None, {"height": 200, "width": 200}).spec

    assert plain.pixels == smaller.pixels == 2 * SIDE**2
    # Both sides are resized until the longer one is covered, then the rest is cropped.
    assert larger.pixels == 16 * plain.pixels
