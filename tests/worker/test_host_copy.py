"""What is copied between device and host is the same on both sides and stays so; the device's errors surface."""

import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.worker.items import decode, item, randn

from vaefarm_shared.catalogue import Catalogue
from vaefarm_worker import host_copy
from vaefarm_worker.decoder import Batch
from vaefarm_worker.host_copy import pinned, to_device, to_host
from vaefarm_worker.local_decoder import LocalDecoder
from vaefarm_worker.self_test import pixels_of

CUDA = "cuda:0"

on_cuda = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))
devices = pytest.mark.parametrize("device", ["cpu", pytest.param(CUDA, marks=on_cuda)])


def load(path: Path, device: str, dtype: str = "float32") -> LocalDecoder:
    entry = Catalogue.load(path)["demo"].model_copy(update={"cpu_dtype": dtype, "dtype": dtype})
    return LocalDecoder([entry], device)


@devices
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_parts_go_up_as_one_in_the_dtype_that_is_wanted(device: str, dtype: torch.dtype) -> None:
    parts = [randn(1, 4, 3, 5), randn(3, 4, 3, 5, seed=1)]

    for held in (parts, parts[1:]):
        moved = to_device(held, torch.device(device), dtype)

        assert (moved.device, moved.dtype) == (torch.device(device), dtype)
        assert torch.equal(moved.cpu(), torch.cat(held).to(dtype))


@devices
def test_what_comes_down_is_contiguous_and_the_same_whatever_its_strides(device: str) -> None:
    pictures = randn(2, 3, 8, 6).to(device)

    turned, flags = to_host(pictures.permute(0, 2, 3, 1), torch.isfinite(pictures).flatten(1).all(1))

    assert turned.device.type == flags.device.type == "cpu"
    assert turned.is_contiguous()
    assert torch.equal(turned, randn(2, 3, 8, 6).permute(0, 2, 3, 1))
    assert flags.tolist() == [True, True]


@devices
@pytest.mark.parametrize("output_type", ["pil", "pt"])
def test_pictures_that_somebody_holds_are_not_overwritten_by_later_decodes(
    catalogue: Path, device: str, output_type: str
) -> None:
    decoder = load(catalogue, device)
    latents = [randn(1, 4, 8, 8, seed=seed) for seed in range(8)]
    made = [decoder.decode(Batch((item(decoder, "demo", one, output_type=output_type),) * 2)) for one in latents]
    arrays = [array_of(two) for pair in made for two in pair]
    before = [array.copy() for array in arrays]

    for one in latents:
        decode(decoder, "demo", -one, output_type=output_type)

    assert all(map(np.array_equal, arrays, before))
    assert all(array.flags["C_CONTIGUOUS"] for array in arrays)
    assert len({array.tobytes() for array in arrays}) == len(latents)


def array_of(decoded: Any) -> np.ndarray:
    array: np.ndarray = pixels_of(decoded) if decoded.tensor is None else decoded.tensor.array
    return array


@pytest.fixture
def nothing_told() -> Iterator[None]:
    host_copy._has_told.clear()
    yield
    host_copy._has_told.clear()


def refuse_to_pin(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    empty = torch.empty

    def refusing(*arguments: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        if pin_memory:
            raise RuntimeError(text)
        return empty(*arguments, **options)

    monkeypatch.setattr(torch, "empty", refusing)


@pytest.mark.usefixtures("nothing_told")
def test_a_host_that_can_pin_no_more_copies_all_the_same_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refuse_to_pin(monkeypatch, "CUDA error: out of memory\nCUDA kernel errors might be reported later")

    with caplog.at_level(logging.WARNING, host_copy.__name__):
        found = [pinned((2, 3), torch.uint8) for _ in range(3)]

    assert [(one.shape, one.dtype) for one in found] == [((2, 3), torch.uint8)] * 3
    (told,) = (record.getMessage() for record in caplog.records)
    assert told == "this host has no more memory to pin, pictures are copied slower: CUDA error: out of memory"


def test_a_device_that_failed_is_not_taken_for_a_host_without_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_to_pin(monkeypatch, "CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        pinned((2, 3), torch.uint8)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda_a_decode_moves_pinned_memory_alone_and_waits_once(catalogue: Path) -> None:
    from torch.profiler import ProfilerActivity, profile

    decoder = load(catalogue, CUDA, "float16")
    batch = Batch((item(decoder, "demo", randn(1, 4, 32, 32)), item(decoder, "demo", randn(2, 4, 32, 32, seed=1))))
    decoder.decode(batch)
    torch.cuda.synchronize()

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        made = decoder.decode(batch)

    names = [event.name for event in profiled.events()]
    assert [name for name in names if "Memcpy" in name and "Pageable" in name] == []
    assert sum("HtoD (Pinned" in name for name in names) == 1
    assert sum("DtoH (Device -> Pinned" in name for name in names) == 2, "the pictures, and whether they are finite"
    assert names.count("cudaStreamSynchronize") == 1
    assert all(torch.from_numpy(pixels_of(one)).is_pinned() for one in made)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda_a_reproducible_picture_is_the_plain_decodes_bit_for_bit(catalogue: Path) -> None:
    from vaefarm_worker.pixels import to_pixels

    decoder = load(catalogue, CUDA, "float16")
    latents = randn(1, 4, 16, 16)
    loaded = decoder._shelf._places["demo"].loaded
    assert loaded is not None
    made = decode(decoder, "demo", latents, reproducible=True)

    with torch.inference_mode():
        scaled = latents.to(CUDA).to(torch.float16) / loaded.module.config.scaling_factor
        expected = to_pixels(loaded.module.decode(scaled).sample).cpu().numpy()

    assert np.array_equal(pixels_of(made), expected)


#: A decode whose kernel reads beyond its tensor: CUDA tells it to whoever waits, and works no more in that process.
BROKEN = """
import sys
import torch
from pathlib import Path
from tests.worker.items import decode, randn
from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.errors import DeviceFault
from vaefarm_worker.local_decoder import LocalDecoder

decoder = LocalDecoder([Catalogue.load(Path(sys.argv[1]))["demo"]], "cuda:0")
decode(decoder, "demo", randn(1, 4, 8, 8), reproducible=True)
module = decoder._shelf._places["demo"].loaded.module
plain = module.decode

def broken(latents, **options):
    made = plain(latents, **options)
    torch.zeros(4, device="cuda:0")[torch.full((4,), 1 << 20, device="cuda:0")]
    return made

module.decode = broken
try:
    decode(decoder, "demo", randn(1, 4, 8, 8), reproducible=True)
except DeviceFault as fault:
    print(fault)
"""


@pytest.mark.slow
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda_what_went_wrong_on_the_device_is_raised_by_the_decode_in_which_it_did(catalogue: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", BROKEN, str(catalogue)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=150,
    )

    assert "failed to decode 1 x demo 64x64" in ended.stdout, ended.stderr
