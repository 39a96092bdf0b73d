"""Latents keep every bit on their way through bytes, and hostile bytes are refused by name."""

import json
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save, save_file

from vaefarm_shared.errors import InvalidLatents
from vaefarm_shared.latents import from_tensor, pack, read_file, read_header, unpack

DTYPES = [torch.float16, torch.bfloat16, torch.float32]


def back(data: bytes) -> torch.Tensor:
    latents = unpack(data)
    raw = bytearray(latents.array.tobytes())
    return torch.frombuffer(raw, dtype=getattr(torch, latents.dtype)).reshape(latents.shape)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("view", ["contiguous", "transposed", "sliced", "expanded", "channels_last"])
def test_a_tensor_comes_back_bit_for_bit_whatever_its_strides(dtype: torch.dtype, view: str) -> None:
    base = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)).to(dtype)
    tensor = {
        "contiguous": base,
        "transposed": base.transpose(2, 3),
        "sliced": base[:, 1:3, ::2],
        "expanded": base[:1].expand(3, 4, 8, 8),
        "channels_last": base.to(memory_format=torch.channels_last),
    }[view]

    data = pack(from_tensor(tensor))

    assert torch.equal(back(data), tensor)
    assert torch.equal(load(data)["latents"], tensor), "safetensors itself reads the same"


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_numpy_array_comes_back_bit_for_bit_also_in_fortran_order_and_big_endian(dtype: type) -> None:
    array: np.ndarray = np.asfortranarray(np.arange(48, dtype=dtype).reshape(1, 4, 3, 4))

    for given_array in (array, array.astype(np.dtype(dtype).newbyteorder(">"))):
        assert np.array_equal(unpack(pack(from_tensor(given_array))).array, array)


def test_latents_that_need_a_gradient_are_taken() -> None:
    tensor = torch.ones(1, 4, 2, 2, requires_grad=True)

    assert torch.equal(back(pack(from_tensor(tensor))), tensor.detach())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_one_bad_value_is_seen(dtype: torch.dtype, bad: float) -> None:
    tensor = torch.zeros(1, 4, 8, 8, dtype=dtype)
    assert from_tensor(tensor).is_finite()

    tensor[0, 3, 7, 7] = bad

    assert not from_tensor(tensor).is_finite()


@pytest.mark.parametrize("value", [torch.finfo(torch.bfloat16).max, torch.finfo(torch.bfloat16).tiny, -0.0])
def test_the_largest_and_smallest_bfloat16_are_finite(value: float) -> None:
    assert from_tensor(torch.full((1, 4, 2, 2), value, dtype=torch.bfloat16)).is_finite()


@pytest.mark.parametrize(
    ("tensor", "named"),
    [
        (torch.zeros(1, 4, 2, 2, dtype=torch.int32), "int32"),
        (torch.zeros(1, 4, 2, 2, dtype=torch.float64), "float64"),
        (np.zeros((1, 4, 2, 2), np.uint8), "uint8"),
        ([[1.0]], "list"),
        (None, "NoneType"),
    ],
)
def test_what_is_no_latent_is_refused_by_its_type(tensor: object, named: str) -> None:
    with pytest.raises(InvalidLatents, match=named):
        from_tensor(tensor)


GOOD = pack(from_tensor(torch.zeros(1, 4, 8, 8)))


def hostile_header(**changes: object) -> bytes:
    fields = {"dtype": "F32", "shape": [1, 4, 8, 8], "data_offsets": [0, 1024]} | changes
    header = json.dumps({"latents": fields}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(1024)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (b"", "no safetensors file"),
        (b"\x80\x04.", "no safetensors file"),
        (b"PK\x03\x04 a zip file of pickles", "no safetensors file"),
        (GOOD[:-1], "no complete safetensors file"),
        (GOOD[:40], "truncated"),
        (GOOD + b"more", "no complete safetensors file"),
        (struct.pack("<Q", 2**60) + b"{", "no safetensors file"),
        (hostile_header(shape=[2**40, 4, 8, 8]), "no complete safetensors file"),
        (hostile_header(shape=[2**62, 2**62]), "no complete safetensors file"),
        (hostile_header(data_offsets=[0, 2**50]), "no complete safetensors file"),
        (hostile_header(dtype="I64", shape=[128]), "I64"),
        (hostile_header(dtype="F8_E4M3", shape=[1024]), "F8_E4M3"),
        (save({"a": torch.zeros(1), "b": torch.zeros(1)}), "a, b"),
    ],
)
def test_hostile_bytes_are_refused_by_name(data: bytes, named: str) -> None:
    with pytest.raises(InvalidLatents, match=named):
        unpack(data)


@given(st.binary(max_size=200), st.integers(min_value=0, max_value=len(GOOD)))
def test_no_bytes_raise_anything_but_invalid_latents(noise: bytes, cut: int) -> None:
    for data in (noise, GOOD[:cut] + noise):
        try:
            unpack(data)
        except InvalidLatents:
            continue


def test_a_tensor_named_latents_is_found_among_others() -> None:
    data = save({"latents": torch.ones(1, 4, 2, 2), "other": torch.zeros(3)})

    assert unpack(data).shape == (1, 4, 2, 2)


def test_a_file_above_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "large.safetensors"
    path.write_bytes(GOOD)

    with pytest.raises(InvalidLatents, match="at most 100 bytes"):
        read_file(path, 100)


@pytest.mark.parametrize("package", ["vaefarm_shared.latents", "vaefarm_producer", "vaefarm_producer.cli"])
def test_a_client_imports_no_torch_and_no_worker(package: str) -> None:
    code = f"import sys, {package}; print([m for m in sys.modules if m.split('.')[0] in ('torch', 'vaefarm_worker')])"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_a_header_tells_what_the_whole_file_does(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        save_file({"any": torch.zeros(2, 4, 8, 6, dtype=dtype)}, path, metadata={"seed": "7"})
        tensor, metadata = read_file(path, 10_000)
        header = read_header(path, 10_000)
        assert (header.shape, header.dtype, header.metadata) == (tensor.shape, tensor.dtype, metadata)
    save_file({"latents": torch.zeros(1, 4), "other": torch.zeros(9)}, path)
    assert read_header(path, 10_000).shape == (1, 4)


def a_file(header: bytes, body: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + body


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x04.",
        (2**63).to_bytes(8, "little") + b"{",
        (1000).to_bytes(8, "little") + b"{}",
        a_file(b"{}"),
        a_file(b"{nonsense}"),
        a_file(b'{"a": 1}'),
        a_file(b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": ["0", "4"]}}', b"0000"),
        a_file(b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}', b"0000"),
        a_file(b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}', b"00000000"),
        a_file(b'{"a": {"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}}', b"00000000"),
        a_file(b'{"__metadata__": [], "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}', b"0000"),
    ],
)
def test_a_header_that_is_none_is_refused_as_its_file_is(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)

    for read in (read_file, read_header):
        with pytest.raises(InvalidLatents, match="x.safetensors: "):
            read(path, 10_000)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_file_with_metadata_is_read_by_safetensors_and_takes_one_copy_of_the_tensor(dtype: torch.dtype) -> None:
    tensor = torch.randn(2, 3, 256, 256).to(dtype)
    held, said = from_tensor(tensor), {"seed": "7", "prompt": "été ☂"}

    tracemalloc.start()
    data = pack(held, "images", said)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert torch.equal(load(data)["images"], tensor)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert list(header["__metadata__"].items()) == list(said.items())
    assert peak < 1.1 * held.nbytes
