"""SD.Next's extension: where it puts the farm's addresses, and what SD.Next then sends there, as SD.Next sends it."""

import importlib.util
import io
import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests
import torch
from diffusers.utils.remote_utils import remote_encode
from PIL import Image
from tests.integrations.comfy import as_image, load
from tests.integrations.conftest import ROOT, Served

from vaefarm_shared.catalogue import Catalogue

#: Where SD.Next sends latents as it comes: what of it is left, leaves.
STRANGER = "https://strangers.example"


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """In the place of SD.Next's modules/vae/sd_vae_remote.py, with tables of the same form."""
    module = ModuleType("modules.vae.sd_vae_remote")
    types = ("sd", "sdxl", "f1", "hunyuanvideo", "pixartalpha", "h1", "zimage")
    module.hf_decode_endpoints = dict.fromkeys(types, STRANGER)  # type: ignore[attr-defined]
    module.hf_encode_endpoints = dict.fromkeys(types, STRANGER)  # type: ignore[attr-defined]
    package, vae = ModuleType("modules"), ModuleType("modules.vae")
    vae.sd_vae_remote = module  # type: ignore[attr-defined]
    for one in (package, vae, module):
        monkeypatch.setitem(sys.modules, one.__name__, one)
    return module


def extend() -> None:
    """Load the extension's script, as SD.Next does."""
    path = ROOT / "integrations" / "sdnext" / "scripts" / "vaefarm_remote_vae.py"
    spec = importlib.util.spec_from_file_location(path.name, path)
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


@pytest.fixture
def extended(remote: ModuleType, served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """SD.Next's module with the farm's addresses in it, and the key in a .netrc."""
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine {urlsplit(served.url).hostname} login vaefarm password {served.key}\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("VAEFARM_URL", f"{served.url}/")
    extend()
    return remote


def test_no_endpoint_of_others_is_left(extended: ModuleType, served: Served) -> None:
    known = {entry.id for entry in Catalogue.load()}
    for table in (extended.hf_decode_endpoints, extended.hf_encode_endpoints):
        vaes = {address.removeprefix(f"{served.url}/hf/") for address in table.values()}
        assert vaes <= known
        assert {"sd", "sdxl", "f1", "h1", "zimage"} <= set(table)
        # No video is decoded here: SD.Next does it itself.
        assert "hunyuanvideo" not in table


def test_another_vae_for_a_type_is_an_operators_choice(remote: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAEFARM_URL", "https://farm.example")
    monkeypatch.setenv("VAEFARM_SDNEXT_VAES", "sdxl = my-finetune,other=another,")
    extend()
    assert remote.hf_decode_endpoints["sdxl"] == "https://farm.example/hf/my-finetune"
    assert remote.hf_encode_endpoints["other"] == "https://farm.example/hf/another"
    assert remote.hf_decode_endpoints["sd"] == "https://farm.example/hf/sd-v1"


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "VAEFARM_URL is not set"),
        ({"VAEFARM_URL": "redis://:hidden@farm.example"}, "expected https://HOST"),
        ({"VAEFARM_URL": "https://farm.example", "VAEFARM_SDNEXT_VAES": "sdxl"}, "expected TYPE=VAE"),
    ],
)
def test_what_is_wrong_is_one_line_and_changes_nothing(
    variables: dict[str, str],
    said: str,
    remote: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    extend()
    assert set(remote.hf_decode_endpoints.values()) == set(remote.hf_encode_endpoints.values()) == {STRANGER}
    (line,) = caplog.messages
    assert line.startswith("vaefarm: ")
    assert said in line
    assert "hidden" not in line


def test_an_sdnext_without_those_tables_is_left_alone(
    remote: ModuleType, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("VAEFARM_URL", "https://farm.example")
    del remote.hf_encode_endpoints
    extend()
    assert set(remote.hf_decode_endpoints.values()) == {STRANGER}
    assert "has its endpoints elsewhere" in caplog.text


@pytest.mark.parametrize(
    "variables",
    [
        {"VAEFARM_URL": "https://vaefarm:hidden@farm.example"},
        {"VAEFARM_URL": "https://farm.example", "VAEFARM_KEY": "hidden"},
    ],
)
def test_a_key_that_would_be_logged_or_not_sent_is_warned_of(
    variables: dict[str, str],
    remote: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with caplog.at_level(logging.INFO):
        extend()
    assert ".netrc" in caplog.text
    assert "hidden" not in caplog.text


def send(url: str, latent: torch.Tensor, form: str, factors: dict[str, Any], size: dict[str, int]) -> requests.Response:
    """What SD.Next sends for one picture, for each of its settings of the remote VAE (png, jpg, raw)."""
    parameters: dict[str, Any] = {
        "input_tensor_type": "binary",
        "shape": list(latent.shape),
        "dtype": str(latent.dtype).removeprefix("torch."),
    }
    headers = {"Content-Type": "tensor/binary"}
    if form == "raw":
        parameters |= {"partial_postprocess": False, "output_type": "pt", "output_tensor_type": "binary"}
        headers["Accept"] = "tensor/binary"
    else:
        parameters |= {"image_format": form, "output_type": "pil"}
        headers["Accept"] = f"image/{form}"
    body = latent.contiguous().view(torch.uint8).numpy().tobytes()
    return requests.post(url, headers=headers, params=parameters | size | factors, data=body, timeout=60)


#: For each type of model: the shape of its latents, and how the decoder's input is made of them.
SENT: dict[str, tuple[tuple[int, ...], Callable[[torch.Tensor], torch.Tensor]]] = {
    "sd": ((1, 4, 8, 8), lambda latents: latents),
    "sdxl": ((1, 4, 8, 8), lambda latents: latents),
    "f1": ((1, 16, 64), lambda latents: latents.view(1, 4, 4, 16, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(1, 16, 8, 8)),
    "h1": ((1, 16, 8, 8), lambda latents: latents),
}


@pytest.mark.parametrize("form", ["png", "raw"])
@pytest.mark.parametrize("model", SENT)
def test_what_sdnext_sends_is_decoded_with_the_key_of_netrc(
    model: str, form: str, extended: ModuleType, served: Served
) -> None:
    url = extended.hf_decode_endpoints[model]
    vae = load(served.vaes, url.rpartition("/")[2])
    shape, grid = SENT[model]
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    # None is a parameter that is not sent.
    scale, shift = vae.config.scaling_factor, vae.config.shift_factor
    size = {"width": 64, "height": 64} if model in {"f1", "h1"} else {}

    answer = send(url, latents, form, {"scaling_factor": scale, "shift_factor": shift}, size)

    assert answer.status_code == 200, answer.text
    assert served.key not in answer.url
    with torch.no_grad():
        expected = as_image(vae.decode(grid(latents) / scale + (shift or 0.0)).sample)[0]
    if form == "raw":
        shape = json.loads(answer.headers["shape"])
        raw = np.frombuffer(answer.content, answer.headers["dtype"]).reshape(shape)
        image = as_image(torch.from_numpy(raw.astype(np.float32)))[0]
    else:
        image = torch.from_numpy(np.asarray(Image.open(io.BytesIO(answer.content))).astype(np.float32) / 255)
    assert (image - expected).abs().max() <= 1.5 / 255 + 1e-6


def test_what_sdnext_encodes_is_encoded(extended: ModuleType, served: Served) -> None:
    vae = load(served.vaes, "sdxl")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)

    latents = remote_encode(
        endpoint=extended.hf_encode_endpoints["sdxl"],
        image=Image.fromarray(pixels),
        scaling_factor=vae.config.scaling_factor,
        shift_factor=vae.config.shift_factor,
    )

    image = torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)[None] * 2 - 1
    with torch.no_grad():
        expected = vae.encode(image).latent_dist.mode() * vae.config.scaling_factor
    assert torch.allclose(latents.float(), expected, atol=1e-3)


def test_without_a_key_the_gateway_says_so_in_json(
    extended: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    answer = send(extended.hf_decode_endpoints["sdxl"], torch.zeros(1, 4, 8, 8), "png", {}, {})
    assert answer.status_code == 401
    assert "key" in answer.json()["error"]
