"""ComfyUI's nodes: real VAEs, over a gateway with a key and over Redis, against diffusers' own decodes and encodes."""

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from diffusers import Flux2Pipeline
from tests.conftest import DEADLINE_SECONDS, eventually
from tests.integrations.comfy import as_image, latent, load, picture, run
from tests.integrations.conftest import Served

#: A picture has 8 bits: half a level for the rounding, and a level for the order in which a decode adds up.
LEVEL = 1.5 / 255 + 1e-6

#: What a raw tensor's trip through float16 may change of values within [-1, 1], halved by the step to [0, 1].
HALF = 2**-12


def denormalised(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    return latents


def tiny(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    return latents * 0.18215


def of_blocks(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    mean = vae.bn.running_mean.view(1, -1, 1, 1)
    std = torch.sqrt(vae.bn.running_var.view(1, -1, 1, 1) + vae.config.batch_norm_eps)
    return Flux2Pipeline._unpatchify_latents(latents * std + mean)  # type: ignore[no-any-return]


#: For each VAE the shape of ComfyUI's latents, and what its own VAE does with them before the decoder.
HELD: dict[str, tuple[tuple[int, ...], Callable[[Any, torch.Tensor], torch.Tensor]]] = {
    "sd-v1": ((1, 4, 8, 6), denormalised),
    "sdxl": ((2, 4, 8, 6), denormalised),
    "flux": ((1, 16, 8, 6), denormalised),
    "taesd": ((1, 4, 8, 6), tiny),
    "flux2": ((1, 32, 4, 3), of_blocks),
    "qwen-image": ((2, 4, 1, 8, 6), denormalised),
}


def own_decode(served: Served, vae_id: str, latents: torch.Tensor) -> torch.Tensor:
    """The IMAGE that diffusers makes of what ComfyUI holds."""
    vae = load(served.vaes, vae_id)
    with torch.no_grad():
        decoded = vae.decode(HELD[vae_id][1](vae, latents)).sample
    return as_image(decoded[:, :, 0] if decoded.ndim == 5 else decoded)


def test_comfyui_finds_four_nodes_whose_names_agree(comfyui: ModuleType) -> None:
    nodes = comfyui.NODE_CLASS_MAPPINGS
    assert set(nodes) == set(comfyui.NODE_DISPLAY_NAME_MAPPINGS)
    for node in nodes.values():
        inputs = node.INPUT_TYPES()
        named = {name for part in inputs.values() for name in part}
        parameters = inspect.signature(getattr(node, node.FUNCTION)).parameters
        assert set(parameters) - {"self"} == named
        # What a workflow in ComfyUI's API form leaves out is what the widget would have been.
        for name, (_, *options) in inputs["optional"].items():
            assert parameters[name].default == (options[0]["default"] if options else None)
        assert inspect.iscoroutinefunction(getattr(node, node.FUNCTION))
        assert all(isinstance(one, str) for one in node.RETURN_TYPES)
        assert not {"key", "token", "password"} & named
    assert "sdxl" in nodes["VaefarmDecode"].INPUT_TYPES()["required"]["vae"][0]


@pytest.mark.parametrize("vae", HELD)
def test_a_decode_is_that_of_the_vae_itself(
    vae: str, comfyui: ModuleType, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAEFARM_URL", served.redis_url)
    samples = latent(*HELD[vae][0])

    (image,) = run(comfyui, "VaefarmDecode", samples=samples, vae=vae)

    expected = own_decode(served, vae, samples["samples"])
    assert (image.shape, image.dtype) == (expected.shape, torch.float32)
    assert (image - expected).abs().max() <= LEVEL


def test_a_decode_goes_over_a_gateway_with_a_key_as_over_redis(comfyui: ModuleType, told: Served) -> None:
    samples = latent(2, 4, 8, 6, seed=1)
    (image,) = run(comfyui, "VaefarmDecode", samples=samples, vae="sdxl", timeout=DEADLINE_SECONDS)
    assert (image - own_decode(told, "sdxl", samples["samples"])).abs().max() <= LEVEL


def test_a_decode_that_is_asked_for_its_tensor_is_not_rounded_to_levels(comfyui: ModuleType, told: Served) -> None:
    samples = latent(1, 4, 8, 6, seed=2)
    (image,) = run(comfyui, "VaefarmDecode", samples=samples, vae="sdxl", output="tensor")
    expected = own_decode(told, "sdxl", samples["samples"])
    assert (image - expected).abs().max() <= HALF
    assert not torch.equal((image * 255).round() / 255, image)
    assert image.is_contiguous()


def test_decode_and_encode_leave_nothing_on_the_farm(comfyui: ModuleType, told: Served) -> None:
    before = told.kept()
    run(comfyui, "VaefarmDecode", samples=latent(1, 4, 8, 8), vae="sdxl")
    run(comfyui, "VaefarmDecode", samples=latent(1, 4, 8, 8), vae="sdxl", output="tensor")
    run(comfyui, "VaefarmEncode", pixels=picture(1, 64, 64), vae="sdxl")
    eventually("what they made is gone", lambda: told.kept() == before)


def test_what_is_submitted_is_collected_by_its_job(comfyui: ModuleType, told: Served) -> None:
    samples = latent(1, 4, 8, 6, seed=3)
    output = run(comfyui, "VaefarmSubmit", samples=samples, vae="sdxl", unique_id="7")
    handle, job_id = output["result"]
    assert output["ui"] == {"text": (job_id,)}

    (image,) = run(comfyui, "VaefarmCollect", job=handle)
    assert (image - own_decode(told, "sdxl", samples["samples"])).abs().max() <= LEVEL
    # It stays there for others, and for a prompt that is queued again.
    (again,) = run(comfyui, "VaefarmCollect", job_id=f" {job_id}\n")
    assert torch.equal(again, image)


#: Another ComfyUI, started later.
COLLECT = """
import asyncio, importlib.util, sys
import torch

folder, job_id, path = sys.argv[1:]
spec = importlib.util.spec_from_file_location("vaefarm_nodes", folder + "/__init__.py")
sys.modules["vaefarm_nodes"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
(image,) = asyncio.run(module.NODE_CLASS_MAPPINGS["VaefarmCollect"]().collect(job_id=job_id))
torch.save(image, path)
"""


def test_what_is_submitted_is_collected_in_another_process(
    comfyui: ModuleType, served: Served, custom_node: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAEFARM_URL", served.url)
    monkeypatch.setenv("VAEFARM_KEY", served.key)
    samples, path = latent(1, 4, 8, 6, seed=4), tmp_path / "image.pt"
    _, job_id = run(comfyui, "VaefarmSubmit", samples=samples, vae="sdxl", output="tensor")["result"]

    command = [sys.executable, "-c", COLLECT, str(custom_node), job_id, str(path)]
    subprocess.run(command, check=True, timeout=DEADLINE_SECONDS)

    image = torch.load(path, weights_only=True)
    assert (image - own_decode(served, "sdxl", samples["samples"])).abs().max() <= HALF


def own_encode(served: Served, vae_id: str, image: torch.Tensor) -> torch.Tensor:
    """What ComfyUI would hold of diffusers' encode, its posterior's mode."""
    vae = load(served.vaes, vae_id)
    pixels = image.movedim(-1, 1) * 2 - 1
    with torch.no_grad():
        if vae_id == "taesd":
            return vae.encode(pixels).latents / 0.18215  # type: ignore[no-any-return]
        mode = vae.encode(pixels.unsqueeze(2) if vae_id == "qwen-image" else pixels).latent_dist.mode()
    if vae_id != "flux2":
        return mode  # type: ignore[no-any-return]
    mean = vae.bn.running_mean.view(1, -1, 1, 1)
    std = torch.sqrt(vae.bn.running_var.view(1, -1, 1, 1) + vae.config.batch_norm_eps)
    return (Flux2Pipeline._patchify_latents(mode) - mean) / std  # type: ignore[no-any-return]


@pytest.mark.parametrize("vae", HELD)
def test_an_encode_is_that_of_the_vae_itself(
    vae: str, comfyui: ModuleType, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAEFARM_URL", served.redis_url)
    image = picture(2, 64, 48)

    (samples,) = run(comfyui, "VaefarmEncode", pixels=image, vae=vae)

    expected = own_encode(served, vae, image)
    assert samples["samples"].dtype == torch.float32
    assert samples["samples"].shape == expected.shape
    assert torch.allclose(samples["samples"], expected, atol=1e-4)


def test_what_is_encoded_is_decoded_again(comfyui: ModuleType, told: Served) -> None:
    image = picture(1, 64, 48, seed=1)
    (samples,) = run(comfyui, "VaefarmEncode", pixels=image, vae="sdxl")
    (again,) = run(comfyui, "VaefarmDecode", samples=samples, vae="sdxl")
    assert (again - own_decode(told, "sdxl", own_encode(told, "sdxl", image))).abs().max() <= LEVEL


@pytest.mark.parametrize(("vae", "height", "width"), [("sdxl", 64, 56), ("flux", 64, 48)])
def test_a_picture_is_cropped_around_its_middle_to_what_the_vae_takes(
    vae: str, height: int, width: int, comfyui: ModuleType, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAEFARM_URL", served.redis_url)
    image = picture(1, 69, 59, seed=2)
    top, left = (69 - height) // 2, (59 - width) // 2

    # An alpha channel is no matter of the encoder's.
    with_alpha = torch.cat([image, torch.ones(1, 69, 59, 1)], dim=-1)
    (samples,) = run(comfyui, "VaefarmEncode", pixels=with_alpha, vae=vae)

    expected = own_encode(served, vae, image[:, top : top + height, left : left + width])
    assert torch.allclose(samples["samples"], expected, atol=1e-4)


def test_values_between_levels_are_encoded_as_they_are(
    comfyui: ModuleType, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAEFARM_URL", served.redis_url)
    image = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(5))
    (samples,) = run(comfyui, "VaefarmEncode", pixels=image, vae="sdxl")
    assert torch.allclose(samples["samples"], own_encode(served, "sdxl", image), atol=1e-5)
