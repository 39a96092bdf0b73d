"""The producer: put latents on the queue, wait for pictures."""

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
from vaefarm_shared.records import DecodeReport, ImageRecord, JobRecord, LatentsRecord, TensorRecord
from vaefarm_shared.workers import WorkerEndpoint

from .async_farm import AsyncFarm, AsyncJob
from .encoding import EncodeOptions
from .farm import Farm
from .handle import Job, Result
from .submission import SubmitOptions
from .transport import Flushed

__all__ = [
    # Farms
    "AsyncFarm",
    "AsyncJob",
    "EncodeOptions",
    "Farm",
    "Flushed",
    "HostTensor",
    "Job",
    "Latents",
    "Result",
    "SubmitOptions",
    # Records
    "DecodeReport",
    "Device",
    "FailedJob",
    "ImageRecord",
    "JobRecord",
    "JobStatus",
    "LatentsRecord",
    "TensorRecord",
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
