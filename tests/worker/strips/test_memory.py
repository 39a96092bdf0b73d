"""What strips take of memory, counted with the full-size networks on the meta device, which computes no values."""

from typing import Any

import pytest
import torch
from benchmarks.low_memory import stable_diffusion
from diffusers import AutoencoderTiny

from vaefarm_worker import strips
from vaefarm_worker.bench.live_bytes import FusedAttention, LiveBytes, peak_bytes


def share(vae: Any, pixels: int, recompute: bool) -> float:
    """Of a plain decode's peak, the latter with an attention that stores no scores."""
    latents = torch.empty(1, 4, pixels // 8, pixels // 8, device="meta", dtype=vae.dtype)
    with torch.inference_mode(), FusedAttention():
        whole = peak_bytes(lambda: vae.decode(latents))
    return peak_bytes(lambda: strips.decode(vae, latents, recompute=recompute)) / whole


@pytest.mark.parametrize(("recompute", "most"), [(False, 0.55), (True, 0.30)], ids=["half", "third"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("pixels", [1024, 2048])
def test_strips_keep_to_their_share_of_a_plain_decodes_peak(
    pixels: int, dtype: torch.dtype, recompute: bool, most: float
) -> None:
    assert share(stable_diffusion("meta", dtype), pixels, recompute) <= most


def test_an_autoencoder_tiny_takes_less_the_larger_the_picture() -> None:
    with torch.device("meta"):
        vae = AutoencoderTiny().eval()

    assert share(vae, 1024, recompute=False) <= 0.35
    assert share(vae, 4096, recompute=False) <= 0.15


def test_the_counter_counts_what_lives_at_a_time() -> None:
    with LiveBytes() as counter:
        one = torch.zeros(100)
        view = one[:50]
        two = one + 1
        del one, two
        assert counter.live == 400, "the view holds the whole of it"
        del view
        assert counter.live == 0
        three = torch.zeros(150)
        three.add_(1)
    assert (counter.peak, counter.live) == (800, 600)
