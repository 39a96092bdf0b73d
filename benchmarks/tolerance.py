"""How far a decode that is not reproducible may differ from the pipeline's own, by dtype: levels of 255."""

from collections.abc import Sequence
from math import log10

import numpy as np
import torch

from vaefarm_producer.submission import prepare
from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.latents import from_tensor
from vaefarm_worker.decoder import Batch, BatchItem, Pixels
from vaefarm_worker.local_decoder import LocalDecoder

from .farm_under_test import VAE, Options
from .report import Figure

#: Pictures, and rows and columns of each one's latents: 256 x 256 pixels.
COUNT, SIDE = 8, 32

#: Jobs of a batch.
BATCH_JOBS = 4


def tolerance(options: Options) -> Figure:
    """Each picture alone, as a reproducible job, against the same in batches, and in float32."""
    torch.set_num_threads(options.threads)
    items = _items()
    exact = _decoded("float32", options.device, [(item,) for item in items])
    rows, raw = [], {}
    for dtype in ("float32", "float16", "bfloat16"):
        alone = _decoded(dtype, options.device, [(item,) for item in items])
        batches = [tuple(items[start : start + BATCH_JOBS]) for start in range(0, COUNT, BATCH_JOBS)]
        batched = _decoded(dtype, options.device, batches)
        differing = np.abs(batched.astype(np.int16) - alone)
        raw[dtype] = {"most_levels": int(differing.max()), "share": float((differing > 0).mean())}
        rows.append(
            (
                dtype,
                str(differing.max()),
                f"{100 * (differing > 0).mean():.4f} %",
                "-" if dtype == "float32" else f"{_psnr(alone, exact):.1f}",
            )
        )
    return Figure(
        title=f"tolerance, {COUNT} pictures of {SIDE * 8} x {SIDE * 8} from noise, demo's VAE, {options.device}",
        header=(
            "dtype",
            f"most levels, batch of {BATCH_JOBS} against alone",
            "values that differ",
            "PSNR to float32, dB",
        ),
        rows=tuple(rows),
        raw=raw,
        note="Alone is what a reproducible job gets: the pipeline's own bits.",
    )


def _items() -> list[BatchItem]:
    contract = Catalogue.load()[VAE].contract
    assert contract is not None
    arrays = np.random.default_rng(0).standard_normal((COUNT, 1, 4, SIDE, SIDE)).astype(np.float16)
    return [
        BatchItem(prepare(array, VAE, contract, f"picture-{place}", {}).spec, from_tensor(array))
        for place, array in enumerate(arrays)
    ]


def _decoded(dtype: str, device: str, batches: Sequence[tuple[BatchItem, ...]]) -> Pixels:
    """(COUNT, height, width, 3) uint8."""
    entry = Catalogue.load()[VAE].model_copy(update={"dtype": dtype, "cpu_dtype": dtype})
    decoder = LocalDecoder([entry], device)
    made = [one.pixels for batch in batches for one in decoder.decode(Batch(batch))]
    return np.concatenate([pixels for pixels in made if pixels is not None])


def _psnr(pixels: Pixels, reference: Pixels) -> float:
    error = np.mean((pixels.astype(np.float64) - reference) ** 2)
    return float("inf") if error == 0 else 10 * log10(255**2 / error)
