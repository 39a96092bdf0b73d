"""One benchmark: the plan's cases one after the other, on one device."""

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import torch

from vaefarm_shared.catalogue import Catalogue

from .. import device_memory
from ..device_names import choose_device
from ..fast.threads import use_quota
from ..widening import dtype_name
from .limit import decode_flops, peak_flops
from .measurement import Trial, room_of
from .modes import chosen_modes
from .plan import Plan
from .results import Results
from .subject import SHIPPED_VAE, check_sizes, chosen_entries, load

#: Sides and batches unless the command line says others. A CPU takes seconds for a full-size VAE's 256 pixels.
GPU_SIZES: Final[tuple[int, ...]] = (512, 1024, 2048)
SHIPPED_SIZES: Final[tuple[int, ...]] = (256, 512)
CPU_SIZES: Final[tuple[int, ...]] = (256,)
GPU_BATCHES: Final[tuple[int, ...]] = (1, 4)
CPU_BATCHES: Final[tuple[int, ...]] = (1,)

#: Told what is measured next, and how many rows were made.
OnCase = Callable[[str], None]
OnRows = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Session:
    """A plan that fits this machine."""

    catalogue: Catalogue
    plan: Plan
    device: torch.device

    @classmethod
    def of(cls, catalogue: Catalogue, plan: Plan, device: str) -> "Session":
        """Fill in what the plan leaves to the device, and take as many threads as a worker does.

        Raises:
            InvalidInput, ConfigurationError: a device, VAE, mode or size that there is not; one line.
        """
        use_quota()
        chosen = choose_device(device)
        on_cpu = chosen.type == "cpu"
        entries = chosen_entries(catalogue, plan.vaes, chosen, plan.random)
        for entry in entries:
            if entry.spatial_scale is not None:
                check_sizes(entry.id, entry.spatial_scale, plan.sizes)
        vaes = tuple(entry.id for entry in entries)
        cpu_sizes = SHIPPED_SIZES if vaes == (SHIPPED_VAE,) else CPU_SIZES
        filled = replace(
            plan,
            vaes=vaes,
            sizes=plan.sizes or (cpu_sizes if on_cpu else GPU_SIZES),
            batches=plan.batches or (CPU_BATCHES if on_cpu else GPU_BATCHES),
            modes=tuple(mode.name for mode in chosen_modes(plan.modes)),
        )
        return cls(catalogue, filled, chosen)

    @property
    def cases(self) -> int:
        """How many rows there will be."""
        plan = self.plan
        return len(plan.vaes) * len(plan.sizes) * len(plan.batches) * len(plan.modes)

    def begin(self) -> Results:
        """No rows yet, but the machine."""
        return Results(describe(self.device, self.plan.limit_bytes))

    def run(self, results: Results, on_case: OnCase, on_rows: OnRows) -> None:
        """Measure every case, and add each to the results as soon as it is known.

        Args:
            on_case: Told what is measured next.
            on_rows: Told how many rows it made.

        Raises:
            ConfigurationError: a VAE cannot be loaded.
            InvalidOption: a size that is none of a VAE's.
            DeviceFault: the device is at fault.
        """
        room = room_of(self.device, self.plan.limit_bytes)
        if self.device.type == "cuda" and self.plan.limit_bytes is not None:
            share = min(1.0, self.plan.limit_bytes / (device_memory.total_bytes(self.device) or 1))
            torch.cuda.set_per_process_memory_fraction(share, self.device)
        for vae in self.plan.vaes:
            self._run_vae(vae, results, room, on_case, on_rows)
            device_memory.empty_cache(self.device)
        results.is_complete = True

    def _run_vae(
        self,
        vae: str,
        results: Results,
        room: int | None,
        on_case: OnCase,
        on_rows: OnRows,
    ) -> None:
        on_case(f"{vae}: loading")
        subject = load(self.catalogue[vae], self.device, self.plan.dtype)
        check_sizes(vae, subject.scale, self.plan.sizes)
        if dtype_name(subject.dtype) not in results.peaks:
            on_case(f"{dtype_name(subject.dtype)}: matrix products")
            results.peaks[dtype_name(subject.dtype)] = peak_flops(self.device, subject.dtype)
        for size in self.plan.sizes:
            flops = decode_flops(subject, size)
            for batch in self.plan.batches:
                modes = chosen_modes(self.plan.modes)
                trials = [Trial(subject, size, batch, mode, batch * flops) for mode in modes]
                try:
                    self._run_trials(trials, room, on_case)
                finally:
                    # What has a run counts, also where the rest was interrupted.
                    results.rows += [row for trial in trials if (row := trial.row) is not None]
                on_rows(len(trials))

    def _run_trials(self, trials: list[Trial], room: int | None, on_case: OnCase) -> None:
        """The modes take turns, so that what else the machine does weighs on all of them."""
        for trial in trials:
            on_case(f"{trial.title}, first call")
            trial.warm_up(room)
        for number in range(self.plan.runs):
            for trial in trials:
                on_case(f"{trial.title}, call {number + 2}")
                trial.run()


def describe(device: torch.device, limit_bytes: int | None) -> dict[str, Any]:
    """What the figures were measured on."""
    total = device_memory.total_bytes(device)
    return {
        "device": str(device),
        "name": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "memory_bytes": min((one for one in (total, limit_bytes) if one is not None), default=None),
        "memory_by": "torch's allocator" if device.type == "cuda" else "tensors alive at a time, counted",
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "diffusers", "vaefarm")},
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def processor() -> str:
    """The processor's model name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
