"""What replies of the Hugging Face protocol tell of how they were made, and vaefarm's own word `reproducible`."""

import io
from typing import Any

import pytest
import requests
from multidict import MultiDict
from PIL import Image
from tests.gateway.hf_farm import HfFarm
from tests.worker.items import randn

from vaefarm_producer.gateway.hf_parameters import from_query, parameters
from vaefarm_producer.gateway.hf_reply import provenance
from vaefarm_shared.errors import InvalidOption
from vaefarm_shared.records import DecodeReport

PATIENCE = 30
LATENTS = randn(1, 4, 8, 8, seed=5).numpy().tobytes()
SAID: dict[str, Any] = {"shape": [1, 4, 8, 8], "dtype": "float32", "do_scaling": True, "image_format": "png"}


def report(**changes: Any) -> DecodeReport:
    fields: dict[str, Any] = {"vae": "x", "revision": "sha256:0a1b", "dtype": "float16", "device": "cpu", "worker": "w"}
    seconds = {"seconds_queued": 0.0, "seconds_decode": 0.0, "seconds_encode": 0.0}
    return DecodeReport(**fields | seconds | {"attempt": 1} | changes)


@pytest.mark.parametrize("more", [{}, {"output_type": "pt"}, {"output_type": "pt", "partial_postprocess": True}])
def test_each_reply_tells_dtype_and_revision_as_the_record_does(hf_farm: HfFarm, more: dict[str, Any]) -> None:
    answer = requests.post(hf_farm.vae("demo"), params=SAID | more, data=LATENTS, timeout=PATIENCE)
    kept = hf_farm.farm.job(answer.headers["x-job-id"]).record().report
    assert kept is not None
    assert answer.headers["x-decode-dtype"] == kept.dtype == "float32"
    assert answer.headers["x-decode-revision"] == kept.revision
    # Who does not ask for it is promised nothing.
    assert not kept.reproducible
    assert {"x-reproducible", "x-decode-widened-from"}.isdisjoint(answer.headers)


def test_the_gateways_own_notes_of_a_job_are_in_no_reply(hf_farm: HfFarm) -> None:
    answer = requests.post(hf_farm.vae("demo"), params=SAID, data=LATENTS, timeout=PATIENCE)
    image = Image.open(io.BytesIO(answer.content))

    assert hf_farm.farm.job(answer.headers["x-job-id"]).record().metadata["protocol"] == "hf"
    assert (image.format, image.info) == ("PNG", {})


@pytest.mark.parametrize("said", ["True", "true", "1"])
def test_a_reproducible_job_is_one_and_its_reply_says_so(hf_farm: HfFarm, said: str) -> None:
    answer = requests.post(hf_farm.vae("demo"), params=SAID | {"reproducible": said}, data=LATENTS, timeout=PATIENCE)
    assert (answer.status_code, answer.headers["x-reproducible"]) == (200, "True")
    kept = hf_farm.farm.job(answer.headers["x-job-id"]).record().report
    assert kept is not None
    assert kept.reproducible


def test_reproducible_false_is_as_if_it_was_not_said(hf_farm: HfFarm) -> None:
    answer = requests.post(hf_farm.vae("demo"), params=SAID | {"reproducible": "False"}, data=LATENTS, timeout=PATIENCE)
    assert (answer.status_code, answer.headers.get("x-reproducible")) == (200, None)


def test_an_encode_may_be_reproducible_too(hf_farm: HfFarm) -> None:
    pixels = bytes(64 * 64 * 3)
    said: dict[str, Any] = {"shape": [1, 64, 64, 3], "dtype": "uint8", "reproducible": True}
    answer = requests.post(hf_farm.vae("demo") + "/encode", params=said, data=pixels, timeout=PATIENCE)
    assert (answer.status_code, answer.headers["x-reproducible"]) == (200, "True"), answer.text


def test_reproducible_perhaps_is_refused() -> None:
    with pytest.raises(InvalidOption, match="reproducible"):
        parameters({"reproducible": "perhaps"})
    with pytest.raises(InvalidOption, match="reproducible"):
        from_query(MultiDict([("reproducible", "True"), ("reproducible", "False")]))


def test_switches_and_a_wider_dtype_are_told_where_there_were_any() -> None:
    made = report(switches=("slicing", "tiling"), widened_from="float16", dtype="float32", reproducible=True)
    assert provenance(made) == {
        "x-decode-dtype": "float32",
        "x-decode-revision": "sha256:0a1b",
        "x-decode-widened-from": "float16",
        "x-decode-switches": "slicing, tiling",
        "x-reproducible": "True",
    }


def test_what_steps_after_the_decode_may_have_changed_is_not_called_reproducible() -> None:
    assert "x-reproducible" not in provenance(report(reproducible=True, after_decode=("watermark",)))


def test_what_no_header_can_hold_is_left_out() -> None:
    made = report(revision="a\r\nx-evil: 1", dtype="b" * 101, switches=("a, b", "tiling"))
    assert provenance(made) == {"x-decode-switches": "tiling"}
