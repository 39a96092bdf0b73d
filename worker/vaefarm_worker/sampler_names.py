"""What UIs call the schedulers of diffusers, as diffusers' documentation maps them (docs: api/schedulers/overview)."""

from collections.abc import Mapping
from typing import Final

#: Names of samplers by class.
SAMPLERS: Final[Mapping[str, str]] = {
    "DDIMScheduler": "DDIM",
    "DPMSolverMultistepScheduler": "DPM++ 2M",
    "DPMSolverSinglestepScheduler": "DPM++ SDE",
    "EulerAncestralDiscreteScheduler": "Euler a",
    "EulerDiscreteScheduler": "Euler",
    "FlowMatchEulerDiscreteScheduler": "Euler",
    "HeunDiscreteScheduler": "Heun",
    "KDPM2AncestralDiscreteScheduler": "DPM2 a",
    "KDPM2DiscreteScheduler": "DPM2",
    "LCMScheduler": "LCM",
    "LMSDiscreteScheduler": "LMS",
    "PNDMScheduler": "PLMS",
    "UniPCMultistepScheduler": "UniPC",
}

#: What makes DPM++ 2M another sampler.
STOCHASTIC: Final[str] = "sde-dpmsolver++"


def sampler_of(metadata: Mapping[str, str]) -> dict[str, str]:
    """`Sampler` and `Schedule type` as far as metadata tell them.

    A `scheduler` of diffusers is a sampler; any other is what UIs call a scheduler: how the steps are spaced.
    """
    scheduler = metadata.get("scheduler", "")
    sampler = metadata.get("sampler") or metadata.get("sampler_name") or ""
    if not sampler and scheduler.endswith("Scheduler"):
        sampler, scheduler = SAMPLERS.get(scheduler, scheduler), ""
        if sampler == "DPM++ 2M" and metadata.get("algorithm_type") == STOCHASTIC:
            sampler = "DPM++ 2M SDE"
    if not scheduler and metadata.get("use_karras_sigmas") == "True":
        scheduler = "Karras"
    return {"Sampler": sampler, "Schedule type": scheduler}
