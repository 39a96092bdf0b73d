"""What torch raises, told apart: no room, a device or driver at fault, or neither."""

from typing import Final

import torch

from vaefarm_shared.errors import DeviceFault, OutOfMemory

#: Text, in small letters, of errors that fewer pixels would spare, beside torch.OutOfMemoryError. The last two are of
#: kernels with 32-bit indices.
NO_ROOM: Final[tuple[str, ...]] = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "alloc_failed",
    "allocation_failed",
    "int_max",
    "32-bit index",
)

#: Text of errors that CUDA and cuDNN raise for a call that they cannot do: another batch may pass, and a device that is
#: handed the next job is well.
REFUSED_CALLS: Final[tuple[str, ...]] = (
    "invalid configuration argument",
    "invalid argument",
    "cudnn_status_not_supported",
    "cudnn_status_bad_param",
)

#: Text of errors of a device, its driver or its libraries.
FAULTS: Final[tuple[str, ...]] = (
    "cuda error",
    "cuda driver",
    "cudnn error",
    "cudnn_status",
    "cublas_status",
    "nvidia driver",
    "nvml",
    "ecc error",
    "device-side assert",
    "hip error",
    "miopen",
    "ur_result_error",
    "device_lost",
    "command buffer exited",
)

#: CUDA's, HIP's and XPU's own errors, where this torch knows them apart from other RuntimeErrors (2.8).
ACCELERATOR_ERRORS: Final[tuple[type[Exception], ...]] = (
    (torch.AcceleratorError,) if hasattr(torch, "AcceleratorError") else ()
)


def fault_of(error: Exception, device: str, doing: str) -> OutOfMemory | DeviceFault | None:
    """The error of ours that `error` amounts to; None where neither memory nor the device is to blame.

    Args:
        doing: What failed, to follow "to": "decode 2 pictures of 64 x 64".
    """
    text = str(error).lower()
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or any(sign in text for sign in NO_ROOM):
        return OutOfMemory(f"{device} has no room to {doing}")
    if any(sign in text for sign in REFUSED_CALLS):
        return None
    if isinstance(error, ACCELERATOR_ERRORS) or any(sign in text for sign in FAULTS):
        return DeviceFault(f"{device} failed to {doing}: {first_line(error)}")
    return None


def first_line(error: BaseException) -> str:
    """The first line of an error's text; its class where it has none."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
