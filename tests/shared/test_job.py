"""Specs survive their way through Redis, or the other side says why not."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaefarm_shared.digests import digest_of, request_hash
from vaefarm_shared.errors import InvalidJobId, RefusedJob, UnsupportedVersion
from vaefarm_shared.job import JOB_VERSION, JobSpec
from vaefarm_shared.job_ids import check_job_id

SPEC = JobSpec(
    id="a",
    vae="sdxl",
    dtype="float16",
    shape=(1, 4, 8, 8),
    layout="spatial",
    count=1,
    height=64,
    width=64,
    request_hash="0",
)


def test_a_spec_comes_back_as_it_was() -> None:
    spec = SPEC.model_copy(update={"priority": "high", "metadata": {"prompt": "été ☂"}, "deadline_seconds": 2.5})

    assert JobSpec.from_json(spec.to_json()) == spec


def test_a_spec_says_its_version_even_though_it_is_the_default() -> None:
    assert json.loads(SPEC.to_json())["version"] == 1


def test_a_job_of_another_version_is_refused_by_both_versions_names() -> None:
    newer = json.dumps(json.loads(SPEC.to_json()) | {"version": JOB_VERSION + 1})

    with pytest.raises(UnsupportedVersion, match=r"version 6.*reads versions up to 5"):
        JobSpec.from_json(newer)


@pytest.mark.parametrize(
    ("fields", "version"),
    [
        ({"image_format": "webp"}, 1),
        ({"normalised": False}, 2),
        ({"task": "encode"}, 2),
        ({"task": "encode", "normalised": False}, 3),
        ({"task": "encode", "scaling_factor": 0.5}, 3),
        ({"scaling_factor": 0.5, "shift_factor": 0.1}, 3),
        ({"output_type": "pt"}, 3),
        ({"output_type": "pt", "count": 43, "height": 1024, "width": 1024}, 5),
    ],
    ids=str,
)
def test_a_job_is_written_in_the_first_version_whose_readers_do_it(fields: dict[str, Any], version: int) -> None:
    spec = SPEC.model_copy(update=fields)

    assert json.loads(spec.to_json())["version"] == version
    assert JobSpec.from_json(spec.to_json()) == spec.model_copy(update={"version": version})


CONTRADICTIONS: list[tuple[dict[str, Any], str]] = [
    ({"scaling_factor": 0.0}, "scaling_factor is 0"),
    ({"scaling_factor": -0.0, "shift_factor": 1.0}, "scaling_factor is 0"),
    ({"shift_factor": 0.1}, "shift_factor comes without scaling_factor"),
    ({"scaling_factor": 0.5, "normalised": False}, "normalised=False contradict"),
    ({"scaling_factor": float("nan")}, "scaling_factor: Input should be a finite number"),
    ({"scaling_factor": 0.5, "shift_factor": float("inf")}, "shift_factor: Input should be a finite number"),
    ({"scaling_factor": "0.5"}, "scaling_factor: Input should be a valid number"),
    ({"scaling_factor": True}, "scaling_factor: Input should be a valid number"),
    ({"output_type": "np"}, "output_type: Input should be 'pil' or 'pt'"),
    ({"output_type": "pt", "image_format": "jpeg"}, "makes no file of pictures"),
    ({"output_type": "pt", "quality": 90}, "makes no file of pictures"),
    ({"output_type": "pt", "task": "encode"}, "output_type='pt' is for decodes"),
    ({"output_type": "pt", "count": 342, "height": 1024, "width": 1024}, "2151677952 bytes; at most 2147483648"),
]


@pytest.mark.parametrize(("fields", "named"), CONTRADICTIONS, ids=str)
def test_fields_that_contradict_each_other_are_refused_by_name(fields: dict[str, Any], named: str) -> None:
    text = json.dumps(json.loads(SPEC.to_json()) | fields)

    with pytest.raises(RefusedJob, match=f"^the job's spec is not valid: .*{named}"):
        JobSpec.from_json(text)


def test_a_field_that_this_version_does_not_know_is_no_obstacle() -> None:
    newer = json.dumps(json.loads(SPEC.to_json()) | {"colour_of_the_cable": "red"})

    assert JobSpec.from_json(newer) == SPEC


@pytest.mark.parametrize(
    "text", ["", "[]", "null", "{}", "\x80\x04.", '{"version": 1}', '{"version": 1, "id": "../x"}']
)
def test_what_is_no_spec_is_refused(text: str) -> None:
    with pytest.raises(RefusedJob):
        JobSpec.from_json(text)


@pytest.mark.parametrize("job_id", ["a", "order-17", "A_b-9", "x" * 100])
def test_an_id_of_letters_digits_and_dashes_is_taken(job_id: str) -> None:
    assert check_job_id(job_id) == job_id


@pytest.mark.parametrize("job_id", ["", "a b", "a/b", "a.b", "a:b", "../a", "é", "a\n", "a--b", "x" * 101, 7, None])
def test_an_id_with_other_characters_is_refused_by_name(job_id: object) -> None:
    with pytest.raises(InvalidJobId, match="expected 1 to 100 letters"):
        check_job_id(job_id)  # type: ignore[arg-type]


def test_the_request_hash_tells_content_apart_and_not_circumstances() -> None:
    wanted = {"vae": "sdxl", "image_format": "png", "priority": "high", "producer": "a"}

    assert request_hash(digest_of(wanted), b"x") == request_hash(
        digest_of(wanted | {"priority": "low", "producer": "b"}), b"x"
    )
    assert request_hash(digest_of(wanted), b"x") != request_hash(digest_of(wanted), b"y")
    assert request_hash(digest_of(wanted), b"x") != request_hash(digest_of(wanted | {"image_format": "jpeg"}), b"x")


@given(st.text())
def test_no_text_passes_as_a_spec(text: str) -> None:
    with pytest.raises((RefusedJob, UnsupportedVersion)):
        JobSpec.from_json(text)


def test_the_request_hash_of_a_job_never_changes() -> None:
    wanted = {"width": 8, "shape": (1, 4, 1, 1), "vae": "demo", "metadata": {"b": "猫", "a": "1"}, "priority": "high"}

    assert request_hash(digest_of(wanted), b"latents") == "705a37e80f11d99d1ef90a25c0ae8679"
