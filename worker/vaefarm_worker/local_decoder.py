"""Decoding with diffusers' VAEs on a device of this machine."""

import logging
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch

from vaefarm_shared.catalogue import VaeEntry
from vaefarm_shared.errors import DeviceFault, OutOfMemory, VaeUnavailable
from vaefarm_shared.job import JobSpec

from . import device_memory
from .decoder import Batch, BatchItem, Decoded, Encoded, ServedVae
from .device_errors import fault_of
from .device_names import choose_device
from .fast import wanted_on
from .fast.compiled import Size
from .gpus import gpu_id
from .local_encoder import encode_items
from .local_pictures import decode_items
from .memory import MemoryEstimate
from .memory_mode import MemoryMode
from .self_test import SelfTest
from .shelf import Shelf
from .vaes import LoadedVae
from .widening import dtype_name

logger = logging.getLogger(__name__)

#: What a pass through a VAE makes, and the pass: the loaded VAE, its items, the names of the switches that are on.
Made = TypeVar("Made", Decoded, Encoded)
Pass = Callable[[LoadedVae, Sequence[BatchItem], tuple[str, ...]], list[Made]]


class LocalDecoder:
    """Diffusers' VAEs, loaded once and kept."""

    def __init__(
        self,
        entries: Iterable[VaeEntry],
        device: str = "auto",
        limit_bytes: int | None = None,
        idle_seconds: float | None = None,
        decode_only: bool = False,
        exact: bool = False,
        compile_sizes: Sequence[Size] = (),
        device_id: str | None = None,
    ) -> None:
        """Load what there is room for; the rest when it is wanted. Arguments and errors: see `Shelf`.

        Args:
            exact: Keep plain decoders alone: each job is to be reproducible.
            compile_sizes: Heights and widths of pictures whose decode is compiled; of none where `exact`.
            device_id: What the device was taken by; as it says itself unless given.
        """
        self._device = choose_device(device)
        self._device_id = device_id
        fast, sizes = (frozenset[str](), ()) if exact else (wanted_on(self._device), tuple(compile_sizes))
        self._shelf = Shelf(entries, self._device, limit_bytes, idle_seconds, decode_only, fast, sizes)
        self._served = {vae: described.served for vae, described in self._shelf.described.items()}
        self._memory = MemoryEstimate({vae: described.cost for vae, described in self._shelf.described.items()})
        self._self_test: SelfTest | None = None
        self._free_bytes = self._read_free_bytes()
        self._is_decoding = False
        #: Whether the decode under way began with a compile.
        self._compiles = False

    @property
    def device(self) -> str:
        """The device's name, with that of its chip where it has one."""
        if self._device.type == "cuda":
            return f"{self._device} ({torch.cuda.get_device_name(self._device)})"
        return str(self._device)

    @property
    def is_gpu(self) -> bool:
        """Whether other workers might take the device for theirs."""
        return self._device.type == "cuda"

    @property
    def device_id(self) -> str:
        """A GPU's UUID, as nvidia-smi names it; of what has none, the host's name and the device's."""
        if self._device_id is not None:
            return self._device_id
        if self._device.type == "cuda":
            return gpu_id(self._device)
        return f"{socket.gethostname()}-{self._device}"

    @property
    def vaes(self) -> Mapping[str, ServedVae]:
        """Every VAE, by id: those that are loaded, and those that are when they are wanted."""
        return self._served

    def is_hot(self, vae: str) -> bool:
        """Whether a VAE is loaded."""
        return self._shelf.is_hot(vae)

    def begin_load(self, vae: str) -> None:
        """Load a VAE in a thread, unless it is loaded or that failed just now."""
        self._shelf.begin_load(vae)

    def load_error(self, vae: str) -> VaeUnavailable | None:
        """Why a VAE cannot be loaded just now."""
        return self._shelf.error(vae)

    def on_load(self, notify: Callable[[], None]) -> None:
        """Have `notify` called whenever a load has ended."""
        self._shelf.on_change = notify

    def drop_idle(self) -> None:
        """Drop the VAEs that nobody has used for long."""
        self._shelf.drop_idle()

    def describe(self) -> dict[str, Any]:
        """Device, its memory, threads, each VAE's dtype, which VAEs are loaded and which cannot be."""
        errors = {vae: self._shelf.error(vae) for vae in self._served}
        return {
            "device": self.device,
            "memory_bytes": self._shelf.limit_bytes,
            "threads": torch.get_num_threads(),
            "dtypes": {vae: dtype_name(described.dtype) for vae, described in self._shelf.described.items()},
            "hot": self._shelf.hot,
            "unavailable": {vae: str(error) for vae, error in errors.items() if error is not None},
        }

    def self_test(self) -> None:
        """Decode each loaded VAE's fixed latent, and compare: first with what is known of it, then with the first.

        Raises:
            DeviceFault: it is another picture, or none.
        """
        if self._self_test is None:
            self._self_test = SelfTest(self.device, self._decode_unmeasured)
        self._self_test.run([self._served[vae] for vae in self._shelf.hot])

    def max_pixels(self, vae: str) -> int | None:
        """Output pixels of the largest picture worth a try; None on a device that does not tell its memory."""
        total = self._total_bytes(vae)
        return None if total is None else self._memory.max_pixels(vae, total)

    def batch_pixels(self, vae: str, picture_pixels: int | None = None) -> int | None:
        """Output pixels that one batch may have now; None on a device that does not tell its memory.

        Args:
            picture_pixels: Pixels of each of its pictures; a ceiling that was set by larger ones is then left out.
        """
        if not self._is_decoding:
            # What is free during a decode is what that leaves; the next begins when it has given it back.
            self._free_bytes = self._read_free_bytes()
        return None if self._free_bytes is None else self._memory.batch_pixels(vae, self._free_bytes, picture_pixels)

    def modes(self, spec: JobSpec) -> tuple[MemoryMode, ...]:
        """By the least that each takes, and by what found no room before; tiles are always worth a try."""
        is_bound = spec.reproducible or spec.task == "encode"
        known = (MemoryMode.WHOLE,) if is_bound else self._memory.modes(spec.vae)
        total = self._total_bytes(spec.vae)
        fitting = tuple(
            mode for mode in known if pixels_in(spec, mode) <= self._memory.most_pixels(spec.vae, total, mode)
        )
        return fitting if is_bound else (*fitting, *self._shelf.described[spec.vae].family.tiled_modes)

    def decode(self, batch: Batch, *, mode: MemoryMode = MemoryMode.WHOLE) -> list[Decoded]:
        """Decode a batch in one call. A job of several pictures too many is decoded one by one, unless reproducible.

        Raises:
            NonFiniteImage: NaN or Inf, also in float32.
            OutOfMemory: the device has no room for the batch in that mode, or the VAE does not know it.
            DeviceFault: the device or its driver is at fault.
            VaeUnavailable: its VAE cannot be loaded.
            BatchMismatch: the VAE gave another number of pictures than it got latents.
        """
        return self._sized(batch, self._decode, mode.switches)

    def encode(self, batch: Batch) -> list[Encoded]:
        """Encode a batch in one call. A job of several images too many is encoded one by one, unless reproducible.

        Memory is reckoned as for a decode of the same pixels, which takes more. Raises as `decode`.
        """
        return self._sized(batch, self._encode, ())

    def _sized(self, batch: Batch, run: Pass[Made], switches: tuple[str, ...]) -> list[Made]:
        """Run a batch whole, or a job of several pictures one by one where there is no room for all."""
        self._begin(batch.vae)
        spec = batch.items[0].spec
        divisible = len(batch.items) == 1 and spec.count > 1 and not spec.reproducible
        divisible = divisible and not MemoryMode.among(switches).is_one_by_one
        room = self.batch_pixels(batch.vae, spec.picture_pixels) if divisible else None
        if room is None or spec.pixels <= room or switches:
            try:
                return self._measured(batch, run, switches)
            except OutOfMemory:
                if not divisible:
                    raise
        return self._measured(batch, run, (*switches, "slicing"))

    def _begin(self, vae: str) -> None:
        """Test a VAE that was not decoded before: here and not in the thread that loads, since one decodes at a time.

        Raises:
            VaeUnavailable: it decodes no picture, and others of this device do: its weights are at fault.
            DeviceFault: none does, or there is no other to ask.
        """
        if self._self_test is None:
            return
        proven = [self._served[other] for other in self._shelf.hot if self._self_test.knows(other)]
        try:
            self._self_test.begin(self._served[vae])
        except DeviceFault as fault:
            if not proven:
                raise
            self._self_test.run(proven)
            raise self._shelf.refuse(vae, f"VAE {vae!r} decodes no picture: {fault}") from fault

    def _total_bytes(self, vae: str) -> int | None:
        """Bytes that a decode of a VAE may take at most; None on a device that does not tell."""
        limit = self._shelf.limit_bytes
        return None if limit is None else limit - self._shelf.weight_bytes_of(vae)

    def _read_free_bytes(self) -> int | None:
        """Bytes that a decode may take now, by the device and by the limit that was set."""
        free, limit = device_memory.free_bytes(self._device), self._shelf.limit_bytes
        known = [free, None if limit is None else limit - self._shelf.weight_bytes]
        return min((room for room in known if room is not None), default=None)

    def _measured(self, batch: Batch, run: Pass[Made], switches: tuple[str, ...]) -> list[Made]:
        """Run a batch, and learn from what it took."""
        spec = batch.items[0].spec
        mode = MemoryMode.among(switches)
        picture = pixels_in(spec, mode)
        one_by_one = "slicing" in switches or mode.is_one_by_one
        pixels = picture if one_by_one else sum(item.spec.pixels for item in batch.items)
        peak, changes = device_memory.Peak(self._device), self._shelf.changes
        self._is_decoding = True
        try:
            made = self._guarded(batch, run, switches)
        except OutOfMemory:
            # What can be halved, or decoded picture by picture, needs no room of others.
            whole = len(batch.items) == 1 and (spec.count == 1 or spec.reproducible or one_by_one)
            if whole and self._shelf.make_way(batch.vae):
                return self._measured(batch, run, switches)
            self._memory.note_out_of_memory(batch.vae, pixels, picture, mode)
            raise
        finally:
            self._is_decoding = False
        taken = peak.taken_bytes()
        # Weights that came or went meanwhile, and what a compile tried out, would count as the decode's.
        plain = changes == self._shelf.changes and not self._compiles and not switches
        plain = plain and not any(one.widened_from for one in made)
        # What an encode takes says nothing of a decode but that it takes more.
        if taken is not None and plain and batch.task == "decode":
            self._memory.note_peak(batch.vae, pixels, taken)
        return made

    def _guarded(self, batch: Batch, run: Pass[Made], switches: tuple[str, ...]) -> list[Made]:
        """Run a batch; what torch raises for want of memory or for a broken device becomes an error of ours."""
        try:
            with self._shelf.using(batch.vae) as loaded:
                return run(loaded, batch.items, switches)
        except (RuntimeError, MemoryError) as error:
            spec = batch.items[0].spec
            count = sum(item.spec.count for item in batch.items)
            fault = fault_of(error, self.device, f"{batch.task} {count} x {spec.vae} {spec.width}x{spec.height}")
            if fault is None:
                raise
        # Out here: the traceback of what was caught holds the batch's tensors.
        if isinstance(fault, OutOfMemory):
            device_memory.empty_cache(self._device)
        raise fault

    def _decode(self, loaded: LoadedVae, items: Sequence[BatchItem], switches: tuple[str, ...]) -> list[Decoded]:
        self._compiles = loaded.fast is not None and loaded.fast.compiles_next
        return decode_items(loaded, items, self._device, switches)

    def _encode(self, loaded: LoadedVae, items: Sequence[BatchItem], switches: tuple[str, ...]) -> list[Encoded]:
        return encode_items(loaded, items, self._device, switches)

    def _decode_unmeasured(self, item: BatchItem) -> Decoded:
        """Decode a job whose size teaches nothing about memory."""
        return self._guarded(Batch((item,)), self._decode, ())[0]


def pixels_in(spec: JobSpec, mode: MemoryMode) -> int:
    """The pixels of one picture, or video, by which its memory goes in a mode."""
    return spec.picture_pixels // (spec.num_frames or 1) if mode.goes_by_frames else spec.picture_pixels
