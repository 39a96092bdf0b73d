"""Jobs for decoders under test."""

from typing import Any

import torch

from vaefarm_producer.submission import prepare
from vaefarm_shared.job import JobSpec
from vaefarm_shared.latents import from_tensor
from vaefarm_worker.decoder import Batch, BatchItem, Decoded, Decoder


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def spec_of(**options: Any) -> JobSpec:
    """A spec of pictures, 24 pixels high and 40 wide unless told otherwise."""
    fields = {"id": "a", "vae": "x", "dtype": "float32", "shape": (1, 4, 3, 5), "layout": "spatial", "count": 1}
    return JobSpec.model_validate(fields | {"height": 24, "width": 40, "request_hash": "0"} | options)


def item(decoder: Decoder, vae: str, latents: torch.Tensor, **options: Any) -> BatchItem:
    job = prepare(latents, vae, decoder.vaes[vae].contract, None, options)  # type: ignore[arg-type]
    return BatchItem(job.spec, from_tensor(latents))


def decode(decoder: Decoder, vae: str, latents: torch.Tensor, **options: Any) -> Decoded:
    return decoder.decode(Batch((item(decoder, vae, latents, **options),)))[0]
