"""What endpoints are asked: word for word as the protocol has it, and as a farm's own gateway understands it."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import torch
from diffusers import AutoencoderKLQwenImage
from multidict import MultiDict
from tests.gateway.hf_farm import HfFarm, running_farm
from tests.worker.items import decode, randn

from vaefarm_producer.encoding import prepare_encode
from vaefarm_producer.gateway.hf_parameters import from_query, parameters, scaling
from vaefarm_producer.submission import prepare
from vaefarm_shared.catalogue import Catalogue, Contract, VaeEntry
from vaefarm_shared.endpoints import EndpointEntry
from vaefarm_shared.job import JobSpec
from vaefarm_shared.latents import HostTensor, Latents, from_tensor
from vaefarm_worker.decoder import Decoded
from vaefarm_worker.encode import encode_image
from vaefarm_worker.local_decoder import LocalDecoder
from vaefarm_worker.remote.exchange import NotReproducible, Question, joined, questions, read_reply, refusal

PATIENCE = 30
KL = Contract(latent_channels=4, spatial_scale=8)
FLUX = Contract(latent_channels=16, spatial_scale=8, layouts=("spatial", "packed"))
PLAIN_VAE = VaeEntry(id="x")
TODAYS = EndpointEntry(url="http://127.0.0.1:1/")
FIRST = EndpointEntry(url="http://127.0.0.1:1/", protocol="v1")


def job(latents: torch.Tensor, contract: Contract = KL, **options: Any) -> JobSpec:
    return prepare(latents, "x", contract, None, options).spec  # type: ignore[arg-type]


def asked(
    latents: torch.Tensor,
    contract: Contract = KL,
    vae: VaeEntry = PLAIN_VAE,
    entry: EndpointEntry = TODAYS,
    plain: bool = False,
    **options: Any,
) -> list[Question]:
    return questions(job(latents, contract, **options), from_tensor(latents), vae, entry, plain=plain)


def query(question: Question) -> str:
    return "&".join(f"{name}={value}" for name, value in question.params)


SHAPE = "shape=1&shape=4&shape=8&shape=8&dtype=float16"
SMALL = randn(1, 4, 8, 8).half()


@pytest.mark.parametrize(
    ("options", "said", "accept"),
    [
        ({}, "image_format=png&output_type=pil&partial_postprocess=False", "image/png"),
        ({"plain": True}, "image_format=png&output_type=pt&partial_postprocess=True", "tensor/binary"),
        ({"image_format": "webp"}, "image_format=png&output_type=pt&partial_postprocess=True", "tensor/binary"),
        ({"image_format": "jpeg"}, "image_format=png&output_type=pt&partial_postprocess=True", "tensor/binary"),
        (
            {"image_format": "jpeg", "quality": 75},
            "image_format=jpg&output_type=pil&partial_postprocess=False",
            "image/jpeg",
        ),
        ({"output_type": "pt"}, "image_format=png&output_type=pt&partial_postprocess=False", "tensor/binary"),
        (
            {"output_type": "pt", "plain": True},
            "image_format=png&output_type=pt&partial_postprocess=False",
            "tensor/binary",
        ),
    ],
)
def test_the_smallest_reply_that_loses_nothing_is_asked_for(options: dict[str, Any], said: str, accept: str) -> None:
    (question,) = asked(SMALL, **options)
    assert query(question) == f"{said}&{SHAPE}&do_scaling=True"
    assert question.headers == {"Content-Type": "tensor/binary", "Accept": accept}


def test_an_endpoint_whose_files_are_not_kept_is_asked_for_pixels() -> None:
    entry = EndpointEntry(url="http://127.0.0.1:1/", pass_through=False)
    assert [one.form for one in asked(SMALL, entry=entry)] == ["pixels"]
    assert [one.form for one in asked(SMALL, entry=entry, image_format="jpeg", quality=75)] == ["pixels"]


def test_packed_latents_bring_height_and_width_and_no_others_do() -> None:
    packed = randn(1, 24, 64).bfloat16()
    (question,) = asked(packed, FLUX, height=96, width=64, scaling_factor=0.3611, shift_factor=0.1159)
    assert query(question) == (
        "image_format=png&output_type=pil&partial_postprocess=False&shape=1&shape=24&shape=64&dtype=bfloat16"
        "&scaling_factor=0.3611&shift_factor=0.1159&height=96&width=64"
    )


FACTORS = VaeEntry(id="x", scaling_factor=0.3611, shift_factor=0.1159)
OF_ENDPOINT = EndpointEntry(url="http://127.0.0.1:1/", scaling_factor=1e-07)


@pytest.mark.parametrize(
    ("vae", "entry", "options", "said"),
    [
        (PLAIN_VAE, TODAYS, {}, {"do_scaling": "True"}),
        (FACTORS, TODAYS, {}, {"scaling_factor": "0.3611", "shift_factor": "0.1159"}),
        # an endpoint's own take the place of both
        (FACTORS, OF_ENDPOINT, {}, {"scaling_factor": "1e-07"}),
        # and the job's of all
        (FACTORS, OF_ENDPOINT, {"scaling_factor": 2.0}, {"scaling_factor": "2.0"}),
        (
            FACTORS,
            TODAYS,
            {"scaling_factor": 2, "shift_factor": -1.0},
            {"scaling_factor": "2.0", "shift_factor": "-1.0"},
        ),
        (FACTORS, OF_ENDPOINT, {"normalised": False}, {"do_scaling": "False"}),
        (PLAIN_VAE, TODAYS, {"normalised": False}, {"do_scaling": "False"}),
    ],
)
def test_scaling_is_said_always_and_the_job_has_the_last_word(
    vae: VaeEntry, entry: EndpointEntry, options: dict[str, Any], said: dict[str, str]
) -> None:
    (question,) = asked(SMALL, vae=vae, entry=entry, **options)
    names = ("scaling_factor", "shift_factor", "do_scaling")
    assert {name: value for name, value in question.params if name in names} == said
    # As the gateway reads it, whatever silence means to it.
    understood = parameters(from_query(MultiDict(question.params)))
    assert scaling(understood, "model") == scaling(understood, "none")


def test_each_picture_is_a_request_of_its_own_but_those_that_must_be_decoded_in_one_call() -> None:
    latents = randn(3, 4, 8, 8)
    one_by_one, whole = asked(latents), asked(latents, reproducible=True)
    assert [one.count for one in one_by_one] == [1, 1, 1]
    assert [np.frombuffer(one.body, np.float32).tolist() for one in one_by_one] == [
        one.flatten().tolist() for one in latents
    ]
    assert [(one.count, one.form, one.body) for one in whole] == [(3, "pixels", latents.numpy().tobytes())]
    assert whole[0].params[-1] == ("reproducible", "True")
    assert "reproducible" not in query(one_by_one[0])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_bytes_go_row_by_row_and_little_endian_however_they_lie_in_memory(dtype: str) -> None:
    latents = randn(2, 4, 8, 6).to(getattr(torch, dtype))
    straight = from_tensor(latents)
    turned = Latents(np.asfortranarray(straight.array), dtype)
    big = Latents(straight.array.astype(straight.array.dtype.newbyteorder(">")), dtype)
    spec = job(latents)
    for held in (straight, turned, big):
        sent = b"".join(one.body for one in questions(spec, held, PLAIN_VAE, TODAYS, plain=False))
        assert sent == latents.view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize(
    ("options", "most_bytes"),
    [
        ({"plain": True}, 64 * 64 * 3),
        ({"output_type": "pt"}, 64 * 64 * 3 * 4),
        ({}, 64 * 64 * 3 + 2**20),
        ({"image_format": "jpeg", "quality": 75}, 64 * 64 * 3 + 2**20),
    ],
)
def test_a_reply_is_read_no_further_than_what_was_asked_for_can_be(options: dict[str, Any], most_bytes: int) -> None:
    (question,) = asked(SMALL, **options)
    assert question.most_bytes == most_bytes


def test_the_first_generation_is_asked_in_json_for_files_alone() -> None:
    packed = randn(1, 24, 64).half()
    for options, accept, is_kept in (
        ({}, "image/png", True),
        ({"plain": True}, "image/png", False),
        ({"image_format": "jpeg", "quality": 75}, "image/jpeg", True),
        ({"image_format": "jpeg", "quality": 75, "plain": True}, "image/png", False),
        ({"image_format": "jpeg"}, "image/png", False),
        ({"image_format": "webp"}, "image/png", False),
    ):
        (question,) = asked(packed, FLUX, entry=FIRST, vae=FACTORS, height=96, width=64, **options)
        assert question.params == ()
        assert question.headers == {"Content-Type": "application/json", "Accept": accept}
        assert question.is_kept == is_kept
        said = json.loads(question.body)
        assert base64.b64decode(said["inputs"]) == packed.numpy().tobytes()
        assert said["parameters"] == {"shape": [1, 24, 64], "dtype": "float16", "height": 96, "width": 64}


def test_what_no_endpoint_can_be_asked_is_refused_by_name() -> None:
    binned = Contract(latent_channels=4, spatial_scale=8, binned=True)
    encode = prepare_encode(np.zeros((64, 64, 3), np.uint8), "x", KL, None, {}).spec
    small = EndpointEntry(url="http://127.0.0.1:1/", max_pixels=64 * 64)
    wide = randn(1, 4, 8, 9)
    for spec, entry, said in (
        (encode, TODAYS, "encode"),
        (job(SMALL, binned, height=60, width=64), TODAYS, "cropped"),
        (job(wide), small, "72 x 64 = 4608 pixels are above the endpoint's max_pixels of 4096"),
        (job(SMALL, output_type="pt"), FIRST, "v1.*output_type='pt'"),
        (job(SMALL, normalised=False), FIRST, "normalised=False"),
        (job(SMALL, scaling_factor=1.0), FIRST, "scaling_factor"),
        (job(SMALL, reproducible=True, normalised=False), FIRST, "normalised=False, reproducible"),
    ):
        why = refusal(spec, entry)
        assert why is not None
        assert "\n" not in why
        with pytest.raises(AssertionError, match=said):
            raise AssertionError(why)
    for spec, entry in (
        (job(SMALL), FIRST),
        (job(SMALL), small),
        (job(SMALL, reproducible=True, output_type="pt"), TODAYS),
        (job(SMALL, normalised=False), TODAYS),
    ):
        assert refusal(spec, entry) is None


def pixels(value: int, **told: Any) -> Decoded:
    return Decoded(np.full((1, 8, 8, 3), value, np.uint8), told.pop("dtype", "float16"), **told)


def test_what_requests_gave_is_joined_in_their_order() -> None:
    whole = joined([pixels(1, revision="r", endpoint="a"), pixels(2, revision="r", endpoint="a")])
    assert whole.pixels is not None
    assert whole.pixels[:, 0, 0, 0].tolist() == [1, 2]
    assert (whole.dtype, whole.revision, whole.endpoint, whole.files) == ("float16", "r", "a", ())

    files = [Decoded(None, "float16", files=(file,)) for file in (b"1", b"2")]
    assert (joined(files).files, joined(files).pixels) == ((b"1", b"2"), None)

    raw = [Decoded(None, "x", tensor=HostTensor(np.full((1, 3, 8, 8), one, np.float16), "float16")) for one in (1, 2)]
    tensor = joined(raw).tensor
    assert tensor is not None
    assert (tensor.shape, tensor.array[:, 0, 0, 0].tolist()) == ((2, 3, 8, 8), [1, 2])

    with pytest.raises(ValueError, match="files and as pixels"):
        joined([pixels(1), files[0]])


def test_what_endpoints_tell_differently_is_unknown_of_the_whole_and_switches_are_all_named() -> None:
    whole = joined(
        [
            pixels(1, revision="r", endpoint="a", switches=("tiling",)),
            pixels(2, dtype="float32", endpoint="b", switches=("slicing", "tiling"), widened_from="float16"),
        ]
    )
    assert (whole.dtype, whole.revision, whole.endpoint) == ("unknown", None, "a, b")
    assert (whole.switches, whole.widened_from) == (("tiling", "slicing"), "float16")


# With a farm as the endpoint


@pytest.fixture(scope="module")
def peer_catalogue(tmp_path_factory: pytest.TempPathFactory, catalogue: Path) -> Path:
    """The tiny VAEs, and one with means and deviations of its own."""
    folder = tmp_path_factory.mktemp("peer")
    torch.manual_seed(9)
    AutoencoderKLQwenImage(
        base_dim=16,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.3, 0.7, 2.1, 1.0],
    ).save_pretrained(folder / "qwen")
    path = folder / "catalogue.toml"
    path.write_text(f'{catalogue.read_text()}[vaes.qwen-image]\npath = "{folder / "qwen"}"\nlatent_channels = 4\n')
    return path


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory, peer_catalogue: Path) -> Iterator[HfFarm]:
    """A farm with a gateway, which is the endpoint."""
    with running_farm(tmp_path_factory.mktemp("hf"), peer_catalogue, "sd-v1,flux,qwen-image") as farm:
        yield farm


@pytest.fixture(scope="module")
def here(peer_catalogue: Path) -> LocalDecoder:
    """The same VAEs, decoded in this process."""
    entries = Catalogue.load(peer_catalogue)
    return LocalDecoder([entries[vae] for vae in ("sd-v1", "flux", "qwen-image")], "cpu")


#: The factors that the catalogue of one who asks has; the peer's VAEs have them in their configs.
ENTRIES = {
    "sd-v1": VaeEntry(id="sd-v1", scaling_factor=0.18215),
    "flux": VaeEntry(id="flux", scaling_factor=0.3611, shift_factor=0.1159),
    "qwen-image": VaeEntry(id="qwen-image"),
}


def asked_of(
    peer: HfFarm,
    here: LocalDecoder,
    vae: str,
    latents: torch.Tensor,
    entry: EndpointEntry = TODAYS,
    plain: bool = False,
    **options: Any,
) -> Decoded:
    """What the peer decodes of a job, by the exchange under test over real HTTP."""
    contract = here.vaes[vae].contract
    spec = prepare(latents, vae, contract, None, options).spec  # type: ignore[arg-type]
    assert refusal(spec, entry) is None
    parts = []
    for one in questions(spec, from_tensor(latents), ENTRIES[vae], entry, plain=plain):
        answer = requests.post(
            peer.vae(vae), params=one.params, data=one.body, headers=dict(one.headers), timeout=PATIENCE
        )
        assert answer.status_code == 200, answer.text
        assert len(answer.content) <= one.most_bytes
        parts.append(read_reply(one, spec, contract, answer.status_code, answer.headers, answer.content))
    return joined(parts)


#: The families' ways of scaling: by factors that are said, by the peer's own vectors, and packed.
LATENTS: dict[str, tuple[torch.Tensor, dict[str, Any]]] = {
    "sd-v1": (randn(2, 4, 8, 6, seed=1).half(), {}),
    "qwen-image": (randn(2, 4, 8, 6, seed=2), {}),
    "flux": (randn(2, 12, 64, seed=3).bfloat16(), {"height": 64, "width": 48}),
}


@pytest.mark.parametrize("vae", LATENTS)
@pytest.mark.parametrize("output_type", ["pil", "pt"])
def test_a_reproducible_job_has_the_bits_of_a_decode_here(
    peer: HfFarm, here: LocalDecoder, vae: str, output_type: str
) -> None:
    latents, options = LATENTS[vae]
    options = options | {"reproducible": True, "output_type": output_type}
    local, remote = decode(here, vae, latents, **options), asked_of(peer, here, vae, latents, **options)
    if output_type == "pt":
        assert local.tensor is not None
        assert remote.tensor is not None
        assert local.tensor.array.tobytes() == remote.tensor.array.tobytes()
    else:
        assert local.pixels is not None
        assert remote.pixels is not None
        assert np.array_equal(local.pixels, remote.pixels)
    assert (remote.dtype, remote.revision) == (local.dtype, here.vaes[vae].revision)


@pytest.mark.parametrize("vae", LATENTS)
@pytest.mark.parametrize("more", [{"normalised": False}, {"scaling_factor": 0.7, "shift_factor": 0.1}])
def test_denormalised_latents_and_factors_of_a_job_have_the_bits_of_a_decode_here(
    peer: HfFarm, here: LocalDecoder, vae: str, more: dict[str, Any]
) -> None:
    latents, options = LATENTS[vae]
    options = options | more | {"output_type": "pt"}
    latents = latents[:1]
    local, remote = decode(here, vae, latents, **options).tensor, asked_of(peer, here, vae, latents, **options).tensor
    assert local is not None
    assert remote is not None
    assert local.array.tobytes() == remote.array.tobytes()


@pytest.mark.parametrize("entry", [TODAYS, FIRST], ids=["v2", "v1"])
@pytest.mark.parametrize("vae", LATENTS)
def test_pixels_and_the_png_that_is_passed_through_are_the_same_picture(
    peer: HfFarm, here: LocalDecoder, vae: str, entry: EndpointEntry
) -> None:
    latents, options = LATENTS[vae]
    expected = np.concatenate([decode(here, vae, one[None], **options).pixels for one in latents])
    plain = asked_of(peer, here, vae, latents, entry, plain=True, **options)
    assert plain.pixels is not None
    assert np.array_equal(plain.pixels, expected)

    passed = asked_of(peer, here, vae, latents, entry, **options)
    assert passed.pixels is None
    spec = prepare(latents, vae, here.vaes[vae].contract, None, options).spec  # type: ignore[arg-type]
    assert list(passed.files) == [encode_image(one, spec) for one in expected]


@pytest.mark.parametrize("entry", [TODAYS, FIRST], ids=["v2", "v1"])
def test_a_jpeg_of_the_protocols_quality_is_the_file_that_is_made_here(
    peer: HfFarm, here: LocalDecoder, entry: EndpointEntry
) -> None:
    latents = LATENTS["sd-v1"][0][:1]
    options: dict[str, Any] = {"image_format": "jpeg", "quality": 75}
    pixels = decode(here, "sd-v1", latents).pixels
    assert pixels is not None
    spec = prepare(latents, "sd-v1", here.vaes["sd-v1"].contract, None, options).spec  # type: ignore[arg-type]
    passed = asked_of(peer, here, "sd-v1", latents, entry, **options)
    assert passed.files == (encode_image(pixels[0], spec),)


def test_a_peer_that_does_not_know_the_promise_is_told_from_one_that_kept_it(peer: HfFarm, here: LocalDecoder) -> None:
    latents = LATENTS["sd-v1"][0]
    contract = here.vaes["sd-v1"].contract
    spec = prepare(latents, "sd-v1", contract, None, {"reproducible": True}).spec
    (question,) = questions(spec, from_tensor(latents), ENTRIES["sd-v1"], TODAYS, plain=False)
    # As a server that leaves unknown parameters aside.
    params = [one for one in question.params if one[0] != "reproducible"]
    url, headers = peer.vae("sd-v1"), dict(question.headers)
    answer = requests.post(url, params=params, data=question.body, headers=headers, timeout=PATIENCE)
    assert answer.status_code == 200
    with pytest.raises(NotReproducible):
        read_reply(question, spec, contract, answer.status_code, answer.headers, answer.content)
