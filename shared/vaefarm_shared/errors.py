"""Every error that vaefarm raises on purpose, as one tree.

    FarmError
     - InvalidInput            what the caller gave is wrong; nothing was queued
         - InvalidLatents      shape, dtype, size, values
         - InvalidPicture      format, size, values; truncated, animated, or with other bytes behind it
         - InvalidJobId        characters or length
         - InvalidOption       image format, quality, priority, ...
         - UnknownVae          no catalogue entry and no worker of that name
         - BodyTooLarge        a request with more bytes than it may have
         - IncompleteBody      a request that ended too early, or came too slowly
     - Unauthorized            no key, or one that is none
     - Forbidden               a key that may not do this, or a call from a place that may not
     - JobConflict             that id was used for other content
     - JobNotFound             no job of that id, or one whose tombstone is past its life
     - JobExpired              its result or its deadline is past
     - JobFailed               it ended without a picture; the message says why
     - JobCanceled             somebody canceled it
     - WaitTimeout             the wait gave up; the job lives on
     - RetryLater              not now; says when to try again
         - TooManyRequests     a key's rate is used up
         - QueueFull           the farm takes no more just now
         - QuotaExceeded       an owner has as many unended jobs as it may have
     - FarmUnavailable         Redis is not reachable
         - RedisRefused        it is, and refuses the login, a certificate, or what this user asks
         - StoreAway           nor is the store of latents and pictures, or not now
     - ConfigurationError      settings, catalogue or environment
         - InvalidStore        VAEFARM_STORE is none, or that store refuses what a farm does with it
         - EncodesNothing      this worker has no encoder; another may
         - WorkerLacks         this worker lacks a library or a store that the job needs; another may have it
     - LeaseLost               a worker's job is no longer its own
     - UnsupportedVersion      the other side writes jobs of another version
     - RefusedJob              a job that no producer of ours wrote
     - RefusedPicture          an operator's check lets no picture of the job through
     - DecodeError             the decode of one job went wrong
         - NonFiniteImage      NaN or Inf in the picture, also in the widest dtype
         - OutOfMemory         the device has no room for it
         - VaeUnavailable      its VAE cannot be loaded here just now
             - EndpointsAway   nor is there an endpoint that decodes it now; costs the job nothing
         - EndpointRefused     an endpoint will not decode this job: to ask again changes nothing
         - EndpointFailed      an endpoint that decodes others gave no picture of it, asked several times
         - BatchMismatch       n latents in, m images out
     - DeviceFault             the device is at fault, no job is: the process must end

Whether repeating can help is a property of the class (`retryable`); so is its HTTP status (`http_status`).
Each message is one line: what was wrong, what was expected, what to do.
"""

from typing import ClassVar


class FarmError(Exception):
    """Any error that vaefarm raises on purpose."""

    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False
    #: Of an error of `Farm.map`: the place of its latents among those that were given, from 0.
    place: int | None = None


class InvalidInput(FarmError, ValueError):
    """What the caller gave is wrong; nothing was queued."""

    http_status = 422


class InvalidLatents(InvalidInput):
    """Latents whose shape, dtype, size or values no decode can take."""


class InvalidPicture(InvalidInput):
    """A picture that no encode takes: its format, size or values, or a file that is more or less than one picture."""


class InvalidJobId(InvalidInput):
    """A job id with characters or a length that keys and file names cannot bear."""


class InvalidOption(InvalidInput):
    """An option that is not one of those offered."""


class UnknownVae(InvalidInput):
    """A VAE id that neither the catalogue nor a worker names."""


class BodyTooLarge(InvalidInput):
    """A request with more bytes than it may have."""

    http_status = 413


class IncompleteBody(InvalidInput):
    """A request whose body ended too early, or came too slowly."""

    http_status = 408


class Unauthorized(FarmError):
    """No key was given, or one that nobody has."""

    http_status = 401


class Forbidden(FarmError):
    """The key may not do this, or the call comes from a place that may not."""

    http_status = 403


class RetryLater(FarmError):
    """Not now: nothing was done, and the same may be done later."""

    retryable = True

    def __init__(self, message: str, retry_after_seconds: float = 1.0) -> None:
        super().__init__(message)
        #: When to try again, from now.
        self.retry_after_seconds = retry_after_seconds


class TooManyRequests(RetryLater):
    """A key's rate is used up."""

    http_status = 429


class JobConflict(FarmError):
    """A job id that was used for other content."""

    http_status = 409


class JobNotFound(FarmError):
    """No job of that id is known."""

    http_status = 404


class JobExpired(FarmError):
    """The job's result or its deadline is past."""

    http_status = 410


class JobFailed(FarmError):
    """The job ended without a picture; the message says why."""

    http_status = 409


class JobCanceled(FarmError):
    """The job was canceled."""

    http_status = 409


class WaitTimeout(FarmError, TimeoutError):
    """The wait gave up; the job lives on."""

    http_status = 504
    retryable = True


class QueueFull(RetryLater):
    """The farm takes no more jobs just now."""

    http_status = 503


class QuotaExceeded(RetryLater):
    """The owner has as many jobs that have not ended as it may have."""

    http_status = 429


class FarmUnavailable(FarmError, ConnectionError):
    """Redis is not reachable."""

    http_status = 503
    retryable = True


class RedisRefused(FarmUnavailable):
    """Redis refuses the login, a certificate, or what this user asks: to repeat it changes nothing."""

    retryable = False


class StoreAway(FarmUnavailable):
    """The store of latents and pictures does not answer, or takes nothing just now."""


class ConfigurationError(FarmError):
    """Settings, catalogue or environment do not allow what was asked."""


class InvalidStore(ConfigurationError):
    """VAEFARM_STORE is no store, its library is missing, or it refuses what a farm does with it."""


class EncodesNothing(ConfigurationError):
    """This worker has no encoder; another may have one."""


class WorkerLacks(ConfigurationError):
    """This worker lacks what a job needs; another may have it."""

    def __init__(self, message: str, lack: str) -> None:
        super().__init__(message)
        #: What workers that lack it say in their description.
        self.lack = lack


class LeaseLost(FarmError):
    """The job is no longer this worker's: nothing may be changed in its name."""


class UnsupportedVersion(FarmError):
    """A job written in a version that this side does not read."""


class RefusedJob(FarmError):
    """A job that was not written by a producer of this farm: it is never run."""


class RefusedPicture(FarmError):
    """An operator's check after the decode lets no picture of this job through."""


class DecodeError(FarmError):
    """The decode of one job went wrong."""


class NonFiniteImage(DecodeError):
    """The decoder gave NaN or Inf, also in the widest dtype."""


class OutOfMemory(DecodeError):
    """The device has no room for the decode."""


class VaeUnavailable(DecodeError):
    """The job's VAE cannot be loaded by this worker just now."""


class EndpointsAway(VaeUnavailable):
    """No endpoint of the job's VAE answers now: no fault of the job's, which goes back to its queue."""


class EndpointRefused(DecodeError):
    """An endpoint says that it will not decode this job; to ask it again changes nothing."""


class EndpointFailed(DecodeError):
    """An endpoint that decodes others gave no picture of this job, asked several times."""


class BatchMismatch(DecodeError):
    """The decoder gave another number of images than it got latents."""


class DeviceFault(FarmError):
    """The device is at fault, no job is: nothing is split, no attempt counts, and the process must end."""
