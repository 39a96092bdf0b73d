"""What a job must say beside its latents, read from the call of the pipeline that makes them. Imports no torch."""

import secrets
from collections.abc import Mapping
from typing import Any, TypedDict

from vaefarm_shared.catalogue import Contract
from vaefarm_shared.errors import InvalidOption
from vaefarm_shared.frames import frames_made, latent_frames

from .call_metadata import seed_of
from .pipeline_kinds import VIDEO_KINDS, Kind


class CallOptions(TypedDict, total=False):
    """What a job says of its size, in pixels and frames, whether the farm denormalises, and what a decode is told."""

    height: int
    width: int
    normalised: bool
    num_frames: int
    fps: float
    decode_timestep: float
    decode_noise_scale: float
    decode_chunk_size: int
    seed: int


def call_options(pipeline: Any, kind: Kind, contract: Contract, said: Mapping[str, Any]) -> CallOptions:
    """What the job says.

    Args:
        said: The call's arguments by name, defaults included.

    Raises:
        InvalidOption: what it must say is in no argument; or videos of one call are to be decoded each in its own way.
    """
    if kind in VIDEO_KINDS:
        return {**_frames(pipeline, kind, contract, said), **_told(contract, said)}
    if kind == "denormalised":
        # FarmVAE's statistics change nothing: the farm denormalises.
        return {} if is_farm_vae(pipeline.vae) else {"normalised": False}
    if kind == "spatial" or (kind == "binned" and not said.get("use_resolution_binning", True)):
        return {}
    height, width = (said.get(name) or _default_side(pipeline, kind, said) for name in ("height", "width"))
    return _size(pipeline, height, width)


def _size(pipeline: Any, height: int | None, width: int | None) -> CallOptions:
    if height is None or width is None:
        raise InvalidOption(
            f"{type(pipeline).__name__} was called without height and width, which its latents do not say"
            " themselves; pass both, in pixels"
        )
    return {"height": height, "width": width}


def _default_side(pipeline: Any, kind: Kind, said: Mapping[str, Any]) -> int | None:
    """Pixels of a side that the pipeline takes where none was said; None where that depends on an image."""
    if said.get("image") is not None:
        return None
    latents = getattr(pipeline, "default_sample_size", None)
    if latents is None and kind == "binned":
        latents = pipeline.transformer.config.sample_size
    return None if latents is None else int(latents * pipeline.vae_scale_factor)


def _frames(pipeline: Any, kind: Kind, contract: Contract, said: Mapping[str, Any]) -> CallOptions:
    """Size and frames where the latents do not say them, and the rate, where the pipeline is told one."""
    found: CallOptions = {}
    if (rate := said.get("frame_rate") or said.get("fps")) is not None:
        found["fps"] = rate
    if kind == "video_tokens":
        found |= _size(pipeline, said.get("height"), said.get("width"))
    elif "padded" not in contract.layouts:
        return found
    asked = said.get("num_frames") or getattr(pipeline.transformer.config, "sample_frames", None)
    if asked is None:
        raise InvalidOption(
            f"{type(pipeline).__name__} was called without num_frames, which its latents do not say themselves; pass it"
        )
    scale = contract.temporal_scale or 1
    # As many as the pipeline makes of those that were asked for.
    found["num_frames"] = frames_made(contract.layouts[0], latent_frames(asked, scale), scale)
    return found


def _told(contract: Contract, said: Mapping[str, Any]) -> CallOptions:
    """What the pipeline would have told its VAE's decode."""
    found: CallOptions = {}
    arguments = contract.decode_arguments
    if "decode_timestep" in arguments and (timestep := _one("decode_timestep", said)) is not None:
        found["decode_timestep"] = timestep
    if "decode_noise_scale" in arguments and (scale := _one("decode_noise_scale", said)) is not None:
        found["decode_noise_scale"] = scale
    if "decode_chunk_size" in arguments and (size := said.get("decode_chunk_size")) is not None:
        found["decode_chunk_size"] = size
    if "seed" in arguments:
        seed = seed_of(said.get("generator"))
        if seed.isdecimal():
            found["seed"] = int(seed)
        elif found.get("decode_noise_scale", found.get("decode_timestep", 0.0)) > 0:
            # The pipeline's own noise would be of no seed that anybody knows either.
            found["seed"] = secrets.randbits(32)
    return found


def _one(name: str, said: Mapping[str, Any]) -> float | None:
    """A number, or that of a list in which all are the same."""
    value = said.get(name)
    values = set(value) if isinstance(value, list | tuple) else {value}
    if len(values) > 1:
        raise InvalidOption(f"{name} has another number for each video, and a job has one; call the pipeline for each")
    found: float | None = values.pop() if values else None
    return found


def is_farm_vae(vae: Any) -> bool:
    """Whether it is a `FarmVAE`, without importing torch for the question."""
    return any(one.__name__ == "FarmVAE" and one.__module__ == f"{__package__}.farm_vae" for one in type(vae).__mro__)
