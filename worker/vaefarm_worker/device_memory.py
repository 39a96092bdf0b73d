"""Memory of a torch device: what is free, what there is, what a decode took."""

import torch

from . import host_memory


def free_bytes(device: torch.device) -> int | None:
    """Bytes that a decode could take now; None where it cannot be told."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # What torch's allocator keeps of freed tensors is as good as free.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return host_memory.free_bytes() if device.type == "cpu" else None


def total_bytes(device: torch.device) -> int | None:
    """Bytes that a decode could take if nobody else had any; None where it cannot be told."""
    if device.type == "cuda":
        _, total = torch.cuda.mem_get_info(device)
        return total - torch.cuda.memory_allocated(device)
    return host_memory.total_bytes() if device.type == "cpu" else None


def empty_cache(device: torch.device) -> None:
    """Give back what torch's allocator keeps of freed tensors."""
    if device.type in {"cuda", "mps", "xpu"}:
        getattr(torch, device.type).empty_cache()


class Peak:
    """What is taken at most from now on, beyond what is held already."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._held = 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._held = torch.cuda.memory_allocated(device)

    def taken_bytes(self) -> int | None:
        """None where it cannot be told."""
        if self._device.type != "cuda":
            return None
        return torch.cuda.max_memory_allocated(self._device) - self._held
