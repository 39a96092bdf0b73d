"""Latents as bytes: safetensors, from torch tensors and NumPy arrays, without importing torch.

NumPy has no bfloat16, so an array of it travels as `uint16` words beside its dtype's name. A tensor is made
contiguous before its bytes are taken: a view's memory holds other values, or the same in another order.
"""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, TensorSpec, deserialize, serialize

from .errors import InvalidLatents

T = TypeVar("T")

#: NumPy's storage for each dtype that a diffusion pipeline hands out.
STORAGE: Final[dict[str, type[np.generic]]] = {
    "float16": np.float16,
    "bfloat16": np.uint16,
    "float32": np.float32,
}

#: Names of the same dtypes inside a safetensors file.
SAFETENSORS_NAMES: Final[dict[str, str]] = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "U8": "uint8"}

#: Bytes that a safetensors header of ours may take; it holds one tensor.
MAX_HEADER_BYTES: Final[int] = 4096

#: The tensor's name inside a file of latents.
TENSOR_NAME: Final[str] = "latents"

#: Exponent bits of the 16-bit dtypes' words: all set means Inf or NaN.
EXPONENTS: Final[dict[str, int]] = {"float16": 0x7C00, "bfloat16": 0x7F80}


@dataclass(frozen=True, slots=True)
class HostTensor:
    """A tensor in host memory: C-contiguous `array` in the storage type of `dtype` (bfloat16 as uint16)."""

    array: npt.NDArray[Any]
    dtype: str

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return tuple(self.array.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor's data."""
        return int(self.array.nbytes)

    def numpy(self) -> npt.NDArray[np.float32]:
        """The values as float32, which holds those of every dtype exactly."""
        if self.dtype == "bfloat16":
            return (self.array.astype(np.uint32) << 16).view(np.float32)
        return self.array.astype(np.float32)

    def torch(self) -> Any:
        """A torch tensor of the same dtype on the CPU, in memory of its own. Imports torch."""
        import torch

        dtype = getattr(torch, self.dtype)
        return torch.frombuffer(bytearray(self.array.tobytes()), dtype=dtype).reshape(self.shape)


@dataclass(frozen=True, slots=True)
class Latents(HostTensor):
    """Latents: (n, channels, rows, columns), or as a pipeline packs them."""

    def is_finite(self) -> bool:
        """True when no value is NaN or Inf."""
        if self.dtype in EXPONENTS and self.array.size:
            # On words, a fifth of the time that NumPy's isfinite takes for float16.
            exponent = np.uint16(EXPONENTS[self.dtype])
            return bool((self.array.view(np.uint16) & exponent).max() != exponent)
        return bool(np.isfinite(self.array).all())


def from_tensor(tensor: Any) -> Latents:
    """Take a torch tensor (any device, strides and grad state) or a NumPy array as `Latents`.

    Raises:
        InvalidLatents: it is neither, or its dtype is not float16, bfloat16 or float32.
    """
    if not is_tensor(tensor):
        raise InvalidLatents(
            f"latents are a {type(tensor).__name__}; expected a torch tensor or a NumPy array"
            " (a pipeline called with output_type='latent' returns one as .images)"
        )
    dtype = dtype_of(tensor)
    check_dtype(dtype)
    return Latents(to_host(tensor), dtype)


def is_tensor(value: Any) -> bool:
    """Whether it is a NumPy array or a torch tensor."""
    # A tensor can only exist where torch is loaded already, so this never imports it.
    torch = sys.modules.get("torch")
    return isinstance(value, np.ndarray) or (torch is not None and isinstance(value, torch.Tensor))


def dtype_of(tensor: Any) -> str:
    """The name of its dtype; that of ml_dtypes' bfloat16, which is a NumPy dtype, is the same as torch's."""
    return tensor.dtype.type.__name__ if isinstance(tensor, np.ndarray) else str(tensor.dtype).removeprefix("torch.")


def to_host(tensor: Any) -> npt.NDArray[Any]:
    """A NumPy array or torch tensor as a C-contiguous, little-endian array, bfloat16 as uint16."""
    is_bfloat16 = dtype_of(tensor) == "bfloat16"
    if isinstance(tensor, np.ndarray):
        array = np.ascontiguousarray(tensor).view(np.uint16) if is_bfloat16 else tensor
    else:
        host = tensor.detach().to("cpu").contiguous()
        array = (host.view(sys.modules["torch"].uint16) if is_bfloat16 else host).numpy()
    # A tensor of no dimensions becomes one of one: it has its own shape again afterwards.
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).reshape(tensor.shape)


def check_dtype(dtype: str, storage: Mapping[str, type[np.generic]] = STORAGE) -> None:
    """Raise InvalidLatents unless `dtype` is one of those given: else, one that pipelines hand out."""
    if dtype not in storage:
        raise InvalidLatents(
            f"latents have dtype {dtype}; expected one of {', '.join(storage)}: convert them before submitting"
        )


def pack(latents: HostTensor, name: str = TENSOR_NAME, metadata: Mapping[str, str] | None = None) -> bytes:
    """Write a tensor as the bytes of a safetensors file, under that name; the same tensor gives the same bytes.

    Never called "packed latents": that is Flux's 3-d layout.
    """
    if metadata:
        return _with_metadata(latents, name, metadata)
    spec = TensorSpec(
        dtype=latents.dtype,
        shape=list(latents.shape),
        data_ptr=latents.array.ctypes.data,
        data_len=latents.nbytes,
    )
    return bytes(serialize({name: spec}))


def _with_metadata(latents: HostTensor, name: str, metadata: Mapping[str, str]) -> bytes:
    """The same file with text metadata in their order: safetensors would write them in another one each time."""
    theirs = next(one for one, ours in SAFETENSORS_NAMES.items() if ours == latents.dtype)
    described = {"dtype": theirs, "shape": list(latents.shape), "data_offsets": [0, latents.nbytes]}
    header = json.dumps({"__metadata__": dict(metadata), name: described}).encode()
    # Tensors begin at a multiple of eight bytes.
    header += b" " * (-len(header) % 8)
    # A video's may have hundreds of megabytes: they are copied once.
    return b"".join((len(header).to_bytes(8, "little"), header, latents.array.reshape(-1).view(np.uint8).data))


def unpack(data: bytes) -> Latents:
    """Read what `pack` wrote, or any safetensors file of one tensor or of one named 'latents'.

    Raises:
        InvalidLatents: it is no safetensors file, is truncated, or holds no such tensor.
    """
    return Latents(*read_tensor(data, STORAGE))


def read_tensor(data: bytes, storage: Mapping[str, type[np.generic]]) -> tuple[npt.NDArray[Any], str]:
    """A safetensors file's tensor, in the storage of its dtype, and that dtype. Raises as `unpack`."""
    check_header(data)
    try:
        tensors = dict(deserialize(data))
    except SafetensorError as error:
        raise InvalidLatents(f"latents are no complete safetensors file: {error}") from error
    tensor = the_tensor(tensors)
    dtype = SAFETENSORS_NAMES.get(tensor["dtype"], tensor["dtype"])
    check_dtype(dtype, storage)
    array = np.frombuffer(tensor["data"], dtype=np.dtype(storage[dtype]).newbyteorder("<"))
    return array.reshape(tensor["shape"]), dtype


def the_tensor(tensors: Mapping[str, T]) -> T:
    """Of a file's tensors by name the one that is meant. Raises InvalidLatents."""
    if TENSOR_NAME not in tensors and len(tensors) != 1:
        names = ", ".join(sorted(tensors)) or "none"
        raise InvalidLatents(f"the file holds the tensors {names}; expected one tensor, or one named 'latents'")
    return tensors.get(TENSOR_NAME) or next(iter(tensors.values()))


def check_header(data: bytes) -> None:
    """Raise InvalidLatents unless `data` begins like a safetensors file whose header is complete."""
    header_bytes = int.from_bytes(data[:8], "little")
    if len(data) < 8 or data[8:9] != b"{" or header_bytes > 100_000_000:
        raise InvalidLatents("latents are no safetensors file (its header is missing); write one with safetensors")
    if 8 + header_bytes > len(data):
        raise InvalidLatents(
            f"the safetensors file is truncated: its header needs {8 + header_bytes} bytes, it has {len(data)}"
        )


@dataclass(frozen=True, slots=True)
class FileHeader:
    """What a safetensors file says of its latents, without their values."""

    shape: tuple[int, ...]
    dtype: str
    metadata: dict[str, str]


def read_header(path: Path, max_bytes: int) -> FileHeader:
    """Read what a safetensors file says of its latents.

    Raises:
        InvalidLatents: as `read_file`, also for a file that is shorter or longer than its header says.
    """
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            data = file.read(8)
            # A header that is no header is told by `check_header`, and not read.
            data += file.read(min(int.from_bytes(data, "little"), size, max_bytes))
    except OSError as error:
        raise InvalidLatents(f"{path} cannot be read: {error.strerror}") from error
    try:
        check_header(data)
        header = FileHeader(*_described(data, size))
        check_dtype(header.dtype)
    except InvalidLatents as error:
        raise InvalidLatents(f"{path}: {error}") from error
    check_file_size(path, size, max_bytes)
    return header


def _described(data: bytes, size: int) -> tuple[tuple[int, ...], str, dict[str, str]]:
    try:
        header = json.loads(data[8:])
        metadata = {str(name): str(value) for name, value in header.pop("__metadata__", {}).items()}
        end = len(data) + max((one["data_offsets"][1] for one in header.values()), default=0)
        tensor = the_tensor(header)
        dtype = SAFETENSORS_NAMES.get(tensor["dtype"], str(tensor["dtype"]))
        shape = tuple(int(one) for one in tensor["shape"])
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        if isinstance(error, InvalidLatents):
            raise
        raise InvalidLatents("latents are no complete safetensors file: its header cannot be read") from error
    if end != size:
        raise InvalidLatents(f"latents are no complete safetensors file: it has {size} bytes in place of {end}")
    return shape, dtype, metadata


def read_file(path: Path, max_bytes: int) -> tuple[Latents, dict[str, str]]:
    """Read a safetensors file's latents and its text metadata (`height` and `width` of packed latents).

    Raises:
        InvalidLatents: the file is missing, above `max_bytes`, no safetensors file, or truncated.
    """
    try:
        size = path.stat().st_size
        check_file_size(path, size, max_bytes)
        data = path.read_bytes()
    except OSError as error:
        raise InvalidLatents(f"{path} cannot be read: {error.strerror}") from error
    try:
        latents = unpack(data)
    except InvalidLatents as error:
        raise InvalidLatents(f"{path}: {error}") from error
    return latents, _text_metadata(data)


def check_file_size(path: Path, size: int, max_bytes: int) -> None:
    """Raise InvalidLatents for a file of more bytes than are taken."""
    if size > max_bytes:
        raise InvalidLatents(f"{path} has {size} bytes; latents of at most {max_bytes} bytes are taken")


def _text_metadata(data: bytes) -> dict[str, str]:
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    metadata: dict[str, str] = header.get("__metadata__", {})
    return metadata
