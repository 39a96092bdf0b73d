"""What torch raises is told apart: too little room, a broken device, or neither."""

import pytest
import torch

from vaefarm_shared.errors import DeviceFault, OutOfMemory
from vaefarm_worker.device_errors import fault_of

#: What torch 2.13 raises for a failed kernel; older releases raise a RuntimeError of the same text.
KERNEL_ERRORS = [getattr(torch, "AcceleratorError", RuntimeError), RuntimeError]


def cpu_allocation_error() -> RuntimeError:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**46)
    return caught.value


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB, max allowed: 9 GB)"),
        RuntimeError("upsample_nearest2d_out_frame only supports output tensors with less than INT_MAX elements"),
        MemoryError(),
        cpu_allocation_error(),
    ],
    ids=lambda error: str(error)[:30],
)
def test_too_little_room_is_out_of_memory(error: Exception) -> None:
    fault = fault_of(error, "cuda:0", "decode 2 pictures")

    assert isinstance(fault, OutOfMemory)
    assert str(fault) == "cuda:0 has no room to decode 2 pictures"


@pytest.mark.parametrize("kind", KERNEL_ERRORS)
@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: device-side assert triggered\nCompile with `TORCH_USE_CUDA_DSA`",
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: uncorrectable ECC error encountered",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
        "HIP error: unspecified launch failure",
        "CUDA driver initialization failed, you might not have a CUDA gpu.",
        "Found no NVIDIA driver on your system.",
    ],
)
def test_a_broken_device_or_driver_is_a_device_fault_of_one_line(kind: type[Exception], text: str) -> None:
    fault = fault_of(kind(text), "cuda:0", "decode 2 pictures")

    assert isinstance(fault, DeviceFault)
    assert str(fault) == f"cuda:0 failed to decode 2 pictures: {text.splitlines()[0]}"


@pytest.mark.parametrize("kind", KERNEL_ERRORS)
@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: invalid configuration argument",
        "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous input.",
    ],
)
def test_a_call_that_a_sound_device_refuses_is_no_fault_of_its(kind: type[Exception], text: str) -> None:
    assert fault_of(kind(text), "cuda:0", "decode") is None


def test_any_other_error_is_neither() -> None:
    assert fault_of(RuntimeError("Given groups=1, expected input to have 4 channels"), "cuda:0", "decode") is None
