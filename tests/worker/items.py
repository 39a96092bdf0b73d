"""Jobs for decoders under test."""

from typing import Any

import torch

from vaefarm_producer.submission import prepare
from vaefarm_shared.latents import from_tensor
from vaefarm_worker.decoder import Batch, BatchItem, Decoded, Decoder


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def item(decoder: Decoder, vae: str, latents: torch.Tensor, **options: Any) -> BatchItem:
    job = prepare(latents, vae, decoder.vaes[vae].contract, None, options)  # type: ignore[arg-type]
    return BatchItem(job.spec, from_tensor(latents))


def decode(decoder: Decoder, vae: str, latents: torch.Tensor, **options: Any) -> Decoded:
    return decoder.decode(Batch((item(decoder, vae, latents, **options),)))[0]
