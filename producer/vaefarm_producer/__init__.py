"""The producer: put latents on the queue, wait for pictures.

`FarmVAE` and `FarmDecodeStep` are here as well. They need torch and diffusers: they are imported once somebody asks.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from vaefarm_shared.errors import (
    ConfigurationError,
    DecodeError,
    FarmError,
    FarmUnavailable,
    Forbidden,
    InvalidInput,
    InvalidJobId,
    InvalidLatents,
    InvalidOption,
    InvalidPicture,
    JobCanceled,
    JobConflict,
    JobExpired,
    JobFailed,
    JobNotFound,
    QueueFull,
    QuotaExceeded,
    TooManyRequests,
    Unauthorized,
    UnknownVae,
    WaitTimeout,
)
from vaefarm_shared.failures import FailedJob
from vaefarm_shared.job import JobStatus
from vaefarm_shared.latents import HostTensor, Latents
from vaefarm_shared.quarantine import Device
from vaefarm_shared.records import DecodeReport, ImageRecord, JobRecord, LatentsRecord, TensorRecord, VideoRecord
from vaefarm_shared.workers import WorkerEndpoint

from .async_farm import AsyncFarm
from .async_handle import AsyncJob
from .attaching import Attached, AttachOptions
from .encoding import EncodeOptions
from .farm import Farm
from .handle import Job
from .result import Result, Video
from .step_previews import StepPreviews
from .submission import SubmitOptions
from .transport import Flushed

if TYPE_CHECKING:
    from .farm_decode_step import FarmDecodeStep as FarmDecodeStep
    from .farm_vae import FarmVAE as FarmVAE

#: What needs torch and diffusers, by the module that has it: not in __all__, which `import *` imports.
OF_DIFFUSERS: Final[dict[str, str]] = {"FarmVAE": ".farm_vae", "FarmDecodeStep": ".farm_decode_step"}


def __getattr__(name: str) -> Any:
    if name in OF_DIFFUSERS:
        return getattr(import_module(OF_DIFFUSERS[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    # Farms
    "AsyncFarm",
    "AsyncJob",
    "AttachOptions",
    "Attached",
    "EncodeOptions",
    "Farm",
    "Flushed",
    "HostTensor",
    "Job",
    "Latents",
    "Result",
    "StepPreviews",
    "SubmitOptions",
    "Video",
    # Records
    "DecodeReport",
    "Device",
    "FailedJob",
    "ImageRecord",
    "JobRecord",
    "JobStatus",
    "LatentsRecord",
    "TensorRecord",
    "VideoRecord",
    "WorkerEndpoint",
    # Errors
    "ConfigurationError",
    "DecodeError",
    "FarmError",
    "FarmUnavailable",
    "Forbidden",
    "InvalidInput",
    "InvalidJobId",
    "InvalidLatents",
    "InvalidOption",
    "InvalidPicture",
    "JobCanceled",
    "JobConflict",
    "JobExpired",
    "JobFailed",
    "JobNotFound",
    "QueueFull",
    "QuotaExceeded",
    "TooManyRequests",
    "Unauthorized",
    "UnknownVae",
    "WaitTimeout",
]
