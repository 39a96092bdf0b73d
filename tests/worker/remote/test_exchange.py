"""What endpoints are asked: word for word as the protocol has it, and as a farm's own gateway understands it."""

import base64
import json
from typing import Any

import numpy as np
import pytest
import torch
from multidict import MultiDict
from tests.worker.items import randn

from vaefarm_producer.encoding import prepare_encode
from vaefarm_producer.gateway.hf_parameters import from_query, parameters, scaling
from vaefarm_producer.submission import prepare
from vaefarm_shared.catalogue import Contract, VaeEntry
from vaefarm_shared.endpoints import EndpointEntry
from vaefarm_shared.job import JobSpec
from vaefarm_shared.latents import HostTensor, Latents, from_tensor
from vaefarm_worker.decoder import Decoded
from vaefarm_worker.encode import encoded_files
from vaefarm_worker.remote.exchange import Question, joined, questions, refusal

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


def test_a_file_that_is_to_have_metadata_is_made_here_of_pixels() -> None:
    told: dict[str, Any] = {"metadata": {"prompt": "a cat"}}
    assert [one.form for one in asked(SMALL, **told)] == ["pixels"]
    assert [one.form for one in asked(SMALL, image_format="jpeg", quality=75, **told)] == ["pixels"]
    assert [one.is_kept for one in asked(SMALL, embed_metadata=False, **told)] == [True]


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


@pytest.mark.parametrize("options", [{}, {"image_format": "jpeg", "quality": 75}], ids=["png", "jpeg"])
def test_pixels_of_an_endpoint_whose_files_are_not_kept_become_such_files_as_the_others_gave(options: Any) -> None:
    spec, both = job(randn(2, 4, 8, 8), **options), (pixels(1), pixels(2))
    (one,), (other,) = (encoded_files(part, spec) for part in both)
    kept = Decoded(None, "float16", files=(one,))
    for parts in ([kept, both[1]], [kept, Decoded(None, "float16", files=(other,))]):
        assert (joined(parts).files, joined(parts).pixels) == ((one, other), None)
    assert joined([both[1], kept]).files == (other, one)


def test_what_endpoints_tell_differently_is_unknown_of_the_whole_and_switches_are_all_named() -> None:
    whole = joined(
        [
            pixels(1, revision="r", endpoint="a", switches=("tiling",)),
            pixels(2, dtype="float32", endpoint="b", switches=("slicing", "tiling"), widened_from="float16"),
        ]
    )
    assert (whole.dtype, whole.revision, whole.endpoint) == ("unknown", None, "a, b")
    assert (whole.switches, whole.widened_from) == (("tiling", "slicing"), "float16")
