"""A farm as the endpoint of another, by the exchange over real HTTP: its pictures have the bits of decodes here."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import torch
from diffusers import AutoencoderKLQwenImage
from tests.gateway.hf_farm import HfFarm, running_farm
from tests.worker.items import decode, randn

from vaefarm_producer.submission import prepare
from vaefarm_shared.catalogue import Catalogue, VaeEntry
from vaefarm_shared.endpoints import EndpointEntry
from vaefarm_shared.latents import from_tensor
from vaefarm_worker.decoder import Decoded
from vaefarm_worker.encode import encode_image
from vaefarm_worker.local_decoder import LocalDecoder
from vaefarm_worker.remote.exchange import NotReproducible, joined, questions, read_reply, refusal

PATIENCE = 30
TODAYS = EndpointEntry(url="http://127.0.0.1:1/")
FIRST = EndpointEntry(url="http://127.0.0.1:1/", protocol="v1")


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
