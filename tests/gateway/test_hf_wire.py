"""What other clients of the Hugging Face protocol put on the wire, each as it does, against a running gateway.

SD.Next, the ComfyUI nodes of kijai and GridTester, and the generations that diffusers' own client went through.
"""

import base64
import io
import json
import urllib.request
from typing import Any

import numpy as np
import pytest
import requests
import torch
from PIL import Image
from tests.gateway.hf_farm import HfFarm
from yarl import URL

from vaefarm_shared.unit import to_unit

LATENTS = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))
PACKED = torch.randn(1, 16, 64, generator=torch.Generator().manual_seed(6))
BINARY = {"Content-Type": "tensor/binary", "Accept": "tensor/binary"}

#: Seconds that anything may take.
PATIENCE = 30


def raw_of(farm: HfFarm, latents: torch.Tensor, vae: str = "demo", **options: Any) -> np.ndarray:
    """What `Farm` decodes."""
    return farm.farm.submit(latents, vae=vae, output_type="pt", **options).tensor(PATIENCE).array


def tensor_in(answer: requests.Response) -> np.ndarray:
    """A tensor reply, by its headers."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"] == "tensor/binary"
    shape, dtype = json.loads(answer.headers["shape"]), answer.headers["dtype"]
    return np.frombuffer(answer.content, dtype=dtype).reshape(shape)


def post(url: str, **more: Any) -> requests.Response:
    return requests.post(url, timeout=PATIENCE, **more)


def b64(tensor: torch.Tensor) -> str:
    return base64.b64encode(tensor.numpy().tobytes()).decode()


def test_v1_is_scaled_by_the_vae_and_answered_with_the_jpeg_that_pillow_makes(hf_farm: HfFarm) -> None:
    data = {"inputs": b64(LATENTS), "parameters": {"shape": [1, 4, 8, 8], "dtype": "float32"}}
    answer = post(hf_farm.vae("demo"), json=data, headers={"Accept": "image/jpeg"})
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "image/jpeg")
    assert answer.headers["x-scaling"] == "model"

    file = io.BytesIO()
    hf_farm.farm.submit(LATENTS, vae="demo").image(PATIENCE).save(file, format="JPEG")
    assert answer.content == file.getvalue()
    # 4:2:0 of quality 75, as every client of the protocol got.
    picture = Image.open(io.BytesIO(answer.content))
    assert picture.layer[0][1:3] == (2, 2)  # type: ignore[attr-defined]


def test_v1_packed_latents_bring_height_and_width(hf_farm: HfFarm) -> None:
    parameters = {"shape": [1, 16, 64], "dtype": "float32", "height": 64, "width": 64}
    answer = post(hf_farm.vae("flux"), json={"inputs": b64(PACKED), "parameters": parameters})
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "image/jpeg")

    del parameters["height"], parameters["width"]
    answer = post(hf_farm.vae("flux"), json={"inputs": b64(PACKED), "parameters": parameters})
    assert answer.status_code == 400
    assert "height and width" in answer.json()["error"]


def test_v1_5_takes_base64_and_gives_base64(hf_farm: HfFarm) -> None:
    parameters = {"do_scaling": False, "output_type": "pt", "partial_postprocess": False}
    answer = post(
        hf_farm.vae("demo"),
        params={**parameters, "shape": [1, 4, 8, 8], "dtype": "float32"},
        json={"inputs": b64(LATENTS)},
        headers={"Content-Type": "tensor/base64", "Accept": "tensor/base64"},
    )
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "tensor/base64")
    assert "shape" not in answer.headers
    reply = answer.json()
    assert reply["parameters"] == {"shape": [1, 3, 64, 64], "dtype": "float16"}
    assert base64.b64decode(reply["inputs"]) == raw_of(hf_farm, LATENTS, normalised=False).tobytes()


def test_kijai_sends_scaled_latents_and_a_height_and_width_of_nothing(hf_farm: HfFarm) -> None:
    latents = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(7))
    parameters = {
        "do_scaling": False,
        "output_type": "pt",
        "partial_postprocess": False,
        "shape": list(latents.shape),
        "dtype": "float32",
        # Of axes 2 and 3 whatever they are: wrong for most latents.
        "height": 24,
        "width": 5,
    }
    answer = post(hf_farm.vae("flux"), data=latents.numpy().tobytes(), params=parameters, headers=BINARY)
    assert answer.headers["x-scaling"] == "none"
    assert np.array_equal(tensor_in(answer), raw_of(hf_farm, latents, "flux", normalised=False))


@pytest.mark.parametrize("image_format", ["png", "jpg"])
def test_sdnext_asks_for_pictures_with_more_than_the_protocol_knows(hf_farm: HfFarm, image_format: str) -> None:
    parameters = {
        "input_tensor_type": "binary",
        "shape": list(PACKED.shape),
        "dtype": "float32",
        "image_format": image_format,
        "output_type": "pil",
        "width": 64,
        "height": 64,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
    }
    accept = f"image/{image_format.replace('jpg', 'jpeg')}"
    headers = {"Content-Type": "tensor/binary", "Accept": accept}
    answer = post(hf_farm.vae("flux"), data=PACKED.numpy().tobytes(), params=parameters, headers=headers)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, accept)
    assert answer.headers["x-scaling"] == "explicit"
    if image_format == "png":
        job = hf_farm.farm.submit(PACKED, vae="flux", height=64, width=64)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), np.asarray(job.image(PATIENCE)))


def test_sdnext_takes_raw_tensors(hf_farm: HfFarm) -> None:
    parameters = {
        "input_tensor_type": "binary",
        "shape": [1, 4, 8, 8],
        "dtype": "float32",
        "partial_postprocess": False,
        "output_type": "pt",
        "output_tensor_type": "binary",
        "scaling_factor": 0.25106,
    }
    answer = post(hf_farm.vae("demo"), data=LATENTS.numpy().tobytes(), params=parameters, headers=BINARY)
    assert np.array_equal(tensor_in(answer), raw_of(hf_farm, LATENTS))


def test_gridtester_builds_its_query_by_hand_and_sends_by_urllib(hf_farm: HfFarm) -> None:
    query = "do_scaling=False&output_type=pt&partial_postprocess=False&dtype=float32" + "".join(
        f"&shape={size}" for size in LATENTS.shape
    )
    url = URL(f"{hf_farm.vae('demo')}/decode?{query}", encoded=True)
    # urllib takes no key out of an address.
    headers = BINARY | {"Authorization": f"Bearer {url.password}"}
    request = urllib.request.Request(
        str(url.with_user(None)), data=LATENTS.numpy().tobytes(), headers=headers, method="POST"
    )
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        given = np.frombuffer(answer.read(), np.float16).reshape(json.loads(answer.headers["shape"]))
    assert np.array_equal(given, raw_of(hf_farm, LATENTS, normalised=False))


@pytest.mark.parametrize(
    "headers", [{"Content-Type": None, "Accept": None}, {"Content-Type": "application/octet-stream"}]
)
def test_a_request_without_headers_is_answered_by_its_parameters(hf_farm: HfFarm, headers: Any) -> None:
    parameters: dict[str, Any] = {"shape": [1, 4, 8, 8], "dtype": "float32", "do_scaling": True}
    url, body = hf_farm.vae("demo") + "/", LATENTS.numpy().tobytes()
    png = post(url, data=body, params=parameters | {"image_format": "png"}, headers=headers)
    raw = post(url, data=body, params=parameters | {"output_type": "pt"}, headers=headers)
    assert png.content.startswith(b"\x89PNG")
    assert np.array_equal(tensor_in(raw), raw_of(hf_farm, LATENTS))


def test_a_picture_in_json_is_base64_of_a_png(hf_farm: HfFarm) -> None:
    data = {"inputs": b64(LATENTS), "parameters": {"shape": [1, 4, 8, 8], "dtype": "float32"}}
    answer = post(hf_farm.vae("demo"), json=data, headers={"Accept": "application/json"})
    picture = Image.open(io.BytesIO(base64.b64decode(answer.json())))
    expected = hf_farm.farm.submit(LATENTS, vae="demo").image(PATIENCE)
    assert picture.format == "PNG"
    assert np.array_equal(np.asarray(picture), np.asarray(expected))


def test_floats_in_0_to_1_are_the_raw_tensors(hf_farm: HfFarm) -> None:
    parameters = {"shape": [1, 4, 8, 8], "dtype": "float32", "output_type": "pil", "do_scaling": True}
    answer = post(hf_farm.vae("demo"), data=LATENTS.numpy().tobytes(), params=parameters, headers=BINARY)
    assert np.array_equal(tensor_in(answer), to_unit(raw_of(hf_farm, LATENTS)))


def test_a_webp_is_given_to_who_accepts_it(hf_farm: HfFarm) -> None:
    parameters = {"shape": [1, 4, 8, 8], "dtype": "float32"}
    headers = {"Accept": "image/webp"}
    answer = post(hf_farm.vae("demo"), data=LATENTS.numpy().tobytes(), params=parameters, headers=headers)
    assert (answer.headers["Content-Type"], Image.open(io.BytesIO(answer.content)).format) == ("image/webp", "WEBP")


def test_a_job_is_named_and_can_be_had_again_for_a_while(hf_farm: HfFarm) -> None:
    parameters = {"shape": [1, 4, 8, 8], "dtype": "float32", "image_format": "png"}
    answer = post(hf_farm.vae("demo"), data=LATENTS.numpy().tobytes(), params=parameters)
    job_id = answer.headers["x-job-id"]
    record = requests.get(f"{hf_farm.url}/v1/jobs/{job_id}", timeout=PATIENCE).json()
    assert (record["status"], record["metadata"]) == ("finished", {"protocol": "hf", "scaling": "none"})
    again = requests.get(f"{hf_farm.url}/v1/jobs/{job_id}/image", timeout=PATIENCE)
    assert again.content == answer.content


def test_a_key_in_the_address_opens_a_gateway_that_is_not_on_loopback_and_no_other_does(hf_farm: HfFarm) -> None:
    url = URL(hf_farm.vae("demo"))
    assert url.host is not None
    if url.host.startswith("127."):
        pytest.skip("this machine has no address but its loopback")
    body, parameters = LATENTS.numpy().tobytes(), {"shape": [1, 4, 8, 8], "dtype": "float32"}
    assert post(str(url), data=body, params=parameters).status_code == 200
    for other in (url.with_user(None), url.with_password("wrong")):
        answer = post(str(other), data=body, params=parameters)
        assert answer.status_code == 401
        assert "key" in answer.json()["error"]


def test_a_job_of_the_protocol_is_its_keys_own(hf_farm: HfFarm) -> None:
    answer = post(
        hf_farm.vae("demo"), data=LATENTS.numpy().tobytes(), params={"shape": [1, 4, 8, 8], "dtype": "float32"}
    )
    assert hf_farm.farm.job(answer.headers["x-job-id"]).record().owner == "someone"


def test_what_a_vae_is_asked_for_without_a_body_is_ok(hf_farm: HfFarm) -> None:
    for path in ("", "/health"):
        answer = requests.get(hf_farm.vae("demo") + path, timeout=PATIENCE)
        assert (answer.status_code, answer.text) == (200, "Ok")


def test_where_several_vaes_are_served_and_none_is_the_default_the_address_must_say_which(hf_farm: HfFarm) -> None:
    for path in ("/", "/predict"):
        answer = post(hf_farm.url + path, data=LATENTS.numpy().tobytes(), params={"shape": [1, 4, 8, 8]})
        assert answer.status_code == 400
        assert "demo, flux" in answer.json()["error"]


def test_scaled_alike_the_three_words_for_it_give_the_same_picture(hf_farm: HfFarm) -> None:
    parameters: dict[str, Any] = {"shape": [1, 4, 8, 8], "dtype": "float32", "output_type": "pt"}
    divided = LATENTS / 0.25106
    model, explicit, none = (
        tensor_in(post(hf_farm.vae("demo"), data=body.numpy().tobytes(), params=parameters | more, headers=BINARY))
        for body, more in ((LATENTS, {"do_scaling": True}), (LATENTS, {"scaling_factor": 0.25106}), (divided, {}))
    )
    assert np.array_equal(model, explicit)
    assert np.array_equal(model, none)
