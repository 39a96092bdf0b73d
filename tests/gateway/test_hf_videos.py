"""Videos by someone else's client, as it is installed: `diffusers.utils.remote_utils` against a running gateway.

What it gives are the frames of the VAE's own decode, in diffusers.
"""

import io
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import av
import numpy as np
import pytest
import requests
import torch
from diffusers.utils.remote_utils import remote_decode
from diffusers.video_processor import VideoProcessor
from tests.gateway.hf_farm import HfFarm
from tests.gateway.video_vaes import tiny_hunyuan_vae
from tests.parity.videos import tiny_wan_vae

from vaefarm_worker.clips import Clip
from vaefarm_worker.video_files import encode_clip

#: 9 frames of 48 x 32 pixels.
LATENTS = torch.randn(1, 16, 3, 6, 4, generator=torch.Generator().manual_seed(13))
SHAPE = (9, 48, 32, 3)

#: Seconds that anything may take.
PATIENCE = 60


@dataclass
class Own:
    """What the VAE itself makes of the latents, without a farm."""

    vae: Any

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """(1, 3, frames, height, width) in about [-1, 1]."""
        with torch.no_grad():
            sample: torch.Tensor = self.vae.decode(latents, return_dict=False)[0]
        return sample

    def decode_normalised(self, latents: torch.Tensor) -> torch.Tensor:
        """The same of latents as the pipeline returns them."""
        mean, std = (
            torch.tensor(self.vae.config[name]).view(1, -1, 1, 1, 1) for name in ("latents_mean", "latents_std")
        )
        return self.decode(latents / (1.0 / std) + mean)

    @cached_property
    def raw(self) -> torch.Tensor:
        """Of the tests' latents."""
        return self.decode_normalised(LATENTS)

    @cached_property
    def frames(self) -> np.ndarray:
        """(frames, height, width, 3) uint8, as the pipeline's own processor makes them."""
        video: np.ndarray = VideoProcessor().postprocess_video(self.raw, output_type="np")[0]
        return (video * 255).round().astype(np.uint8)


@pytest.fixture(scope="module")
def own() -> Own:
    return Own(tiny_wan_vae())


def ask(hf_farm: HfFarm, latents: torch.Tensor = LATENTS, said: str = "reproducible=True", **options: Any) -> Any:
    """What the client gives of latents; it keeps what its address says besides."""
    with pytest.warns(FutureWarning, match="do_scaling"):
        return remote_decode(f"{hf_farm.vae('wan')}?{said}", latents, **options)


def levels(frames: Any) -> np.ndarray:
    """(frames, height, width, 3) of PIL images or arrays."""
    return np.stack([np.asarray(frame) for frame in frames]).astype(int)


def played(data: bytes) -> np.ndarray:
    """(frames, height, width, 3) uint8 of an MP4."""
    with av.open(io.BytesIO(data)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def test_mp4_is_the_file_of_the_vaes_own_frames(hf_farm: HfFarm, own: Own) -> None:
    given = ask(hf_farm, output_type="mp4", return_type="mp4")

    spec = hf_farm.farm.prepare(LATENTS, vae="wan").spec
    expected = encode_clip(Clip(SHAPE, lambda start, stop: own.frames[start:stop]), spec)
    assert given[4:8] == b"ftyp"
    assert np.array_equal(played(given), played(expected))
    assert played(given).shape == SHAPE


def test_pt_is_the_vaes_own_tensor_in_float16(hf_farm: HfFarm, own: Own) -> None:
    given = ask(hf_farm, output_type="pt", return_type="pt")

    assert given.dtype is torch.float16
    assert torch.equal(given, own.raw.half())


def test_pt_with_a_processor_is_the_vaes_own_frames(hf_farm: HfFarm, own: Own) -> None:
    given = ask(hf_farm, output_type="pt", return_type="pil", processor=VideoProcessor())

    assert levels(given).shape == SHAPE
    # Of a tensor in float16 a value may be rounded to its neighbour.
    assert np.abs(levels(given) - own.frames).max() <= 1


def test_partial_postprocess_is_the_vaes_own_frames_bit_for_bit(hf_farm: HfFarm, own: Own) -> None:
    pixels = ask(hf_farm, output_type="pt", return_type="pt", partial_postprocess=True)
    images = ask(hf_farm, output_type="pt", return_type="pil", partial_postprocess=True)

    assert pixels.dtype is torch.uint8
    assert np.array_equal(pixels.numpy(), own.frames)
    assert np.array_equal(levels(images), own.frames)


@pytest.mark.parametrize("partial", [False, True])
def test_pil_with_a_processor_is_the_vaes_own_frames(hf_farm: HfFarm, own: Own, partial: bool) -> None:
    options: dict[str, Any] = {"output_type": "pil", "processor": VideoProcessor(), "partial_postprocess": partial}
    floats = ask(hf_farm, return_type="pt", **options)
    images = ask(hf_farm, return_type="pil", **options)

    assert (tuple(floats.shape), floats.dtype) == ((9, 3, 48, 32), torch.float16)
    assert torch.equal(floats, (own.raw.half()[0].swapaxes(0, 1) * 0.5 + 0.5).clamp(0, 1))
    assert np.abs(levels(images) - own.frames).max() <= 1


@pytest.mark.parametrize(
    ("said", "denormalised"),
    [({"scaling_factor": 0.5}, LATENTS / 0.5), ({"do_scaling": False}, LATENTS), ({"do_scaling": None}, LATENTS)],
)
def test_latents_are_scaled_as_the_client_says(
    hf_farm: HfFarm, own: Own, said: Any, denormalised: torch.Tensor
) -> None:
    address = f"{hf_farm.vae('wan')}?reproducible=True"
    given = remote_decode(address, LATENTS, output_type="pt", return_type="pt", **said)

    assert torch.equal(given, own.decode(denormalised).half())
    assert not torch.equal(given, own.raw.half())


def test_hunyuan_video_is_decoded_by_the_factor_that_its_endpoint_wants(hf_farm: HfFarm) -> None:
    vae, factor = tiny_hunyuan_vae(), 0.476986
    given = remote_decode(
        f"{hf_farm.vae('hunyuan-video')}?reproducible=True",
        LATENTS,
        scaling_factor=factor,
        output_type="pt",
        return_type="pt",
    )
    assert torch.equal(given, Own(vae).decode(LATENTS / factor).half())


def test_tokens_of_ltx_video_come_with_sizes_and_with_frames_in_the_address(hf_farm: HfFarm) -> None:
    tokens = torch.randn(1, 2 * 3 * 2, 128, generator=torch.Generator().manual_seed(1))
    url, options = hf_farm.vae("ltx-video"), {"output_type": "pt", "return_type": "pt", "height": 96, "width": 64}
    with pytest.warns(FutureWarning, match="do_scaling"):
        given = remote_decode(f"{url}?num_frames=9&reproducible=True", tokens, **options)
    sizes: dict[str, Any] = {"num_frames": 9, "height": 96, "width": 64, "reproducible": True}
    job = hf_farm.farm.submit(tokens, vae="ltx-video", output_type="pt", **sizes)

    assert given.shape == (1, 3, 9, 96, 64)
    assert torch.equal(given, job.tensor(PATIENCE).torch())
    with pytest.raises(RuntimeError, match="num_frames"):
        remote_decode(url, tokens, do_scaling=False, **options)
    with pytest.raises(RuntimeError, match="decode_timestep=0.05 means nothing to VAE 'ltx-video'"):
        remote_decode(f"{url}?num_frames=9&decode_timestep=0.05", tokens, do_scaling=False, **options)


def test_latents_come_in_bfloat16_as_pipelines_return_them(hf_farm: HfFarm, own: Own) -> None:
    latents = LATENTS.bfloat16()
    given = ask(hf_farm, latents, output_type="pt", return_type="pt")
    assert torch.equal(given, own.decode_normalised(latents.float()).half())


def test_several_videos_come_as_one_raw_tensor_and_as_nothing_else(hf_farm: HfFarm, own: Own) -> None:
    two = torch.cat([LATENTS, -LATENTS])
    given = ask(hf_farm, two, output_type="pt", return_type="pt")

    assert torch.equal(given, own.decode_normalised(two).half())
    assert not torch.equal(given[0], given[1])
    for options in ({"output_type": "mp4", "return_type": "mp4"}, {"output_type": "pt", "partial_postprocess": True}):
        with pytest.raises(RuntimeError, match="hold 2 videos, and one reply holds one; send them one by one"):
            ask(hf_farm, two, **options)


def test_the_address_may_say_frames_a_second(hf_farm: HfFarm) -> None:
    for said, rate in (("fps=24", 24), ("", 16)):
        with av.open(io.BytesIO(ask(hf_farm, said=said, output_type="mp4", return_type="mp4"))) as container:
            assert container.streams.video[0].average_rate == rate
    with pytest.raises(RuntimeError, match="decode to 9 frames; the job says num_frames 8"):
        ask(hf_farm, said="num_frames=8", output_type="mp4", return_type="mp4")


@pytest.mark.parametrize("image_format", ["jpg", "png"])
def test_a_picture_of_a_video_is_refused_with_what_to_ask_for(hf_farm: HfFarm, image_format: Any) -> None:
    with pytest.raises(RuntimeError, match="names no reply that there is of a video; expected output_type=mp4"):
        ask(hf_farm, image_format=image_format)


@pytest.mark.parametrize(
    ("accept", "said", "content_type", "begins"),
    [
        # What the client says, and what the protocol's servers answer it with.
        ("text/plain", {"output_type": "mp4"}, "text/plain; charset=utf-8", b"ftyp"),
        ("video/mp4", {}, "video/mp4", b"ftyp"),
        ("*/*", {"output_type": "mp4"}, "video/mp4", b"ftyp"),
        ("*/*", {}, "video/mp4", b"ftyp"),
        ("*/*", {"output_type": "pil"}, "tensor/binary", None),
        ("tensor/binary", {"output_type": "pt"}, "tensor/binary", None),
    ],
)
def test_the_reply_is_of_the_type_that_was_accepted(hf_farm: HfFarm, accept, said, content_type, begins) -> None:
    query: dict[str, Any] = {"shape": list(LATENTS.shape), "dtype": "float32", **said}
    body = LATENTS.numpy().tobytes()
    answer = requests.post(hf_farm.vae("wan"), params=query, data=body, headers={"Accept": accept}, timeout=PATIENCE)

    assert (answer.status_code, answer.headers["Content-Type"]) == (200, content_type)
    assert int(answer.headers["Content-Length"]) == len(answer.content)
    assert ("shape" in answer.headers) is (begins is None)
    if begins is not None:
        assert answer.content[4:8] == begins
