"""The local decoder's batches: each job's picture is its own; what memory, device or dtype cannot do is told apart."""

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from tests.worker.items import decode, item, randn

from vaefarm_shared.catalogue import Catalogue, VaeEntry
from vaefarm_shared.errors import BatchMismatch, DeviceFault, NonFiniteImage, OutOfMemory
from vaefarm_worker import device_memory, host_memory, ladder
from vaefarm_worker.decoder import Batch, Decoded
from vaefarm_worker.families import switches
from vaefarm_worker.fast import FastDecoder
from vaefarm_worker.fast.compiled import CompiledDecoder
from vaefarm_worker.local_decoder import LocalDecoder
from vaefarm_worker.memory import SHARE
from vaefarm_worker.memory_mode import MemoryMode
from vaefarm_worker.self_test import pixels_of

#: Levels of 255 by which a picture of a batch may differ from the same picture decoded alone, by dtype.
TOLERANCES = {"float32": 1, "float16": 2, "bfloat16": 8}

SHAPES = {"demo": (1, 4, 8, 8), "sd-v1": (2, 4, 10, 6), "taesd": (1, 4, 8, 8), "flux": (1, 16, 8, 12)}


@pytest.fixture
def load(catalogue: Path) -> Callable[..., LocalDecoder]:
    def loaded(vae: str, dtype: str = "float32") -> LocalDecoder:
        return LocalDecoder([Catalogue.load(catalogue)[vae].model_copy(update={"cpu_dtype": dtype})], "cpu")

    return loaded


Load = Callable[..., LocalDecoder]


def batch(decoder: LocalDecoder, vae: str, *latents: torch.Tensor, **options: Any) -> Batch:
    return Batch(tuple(item(decoder, vae, one, **options) for one in latents))


def module(decoder: LocalDecoder, vae: str) -> Any:
    loaded = decoder._shelf._places[vae].loaded
    assert loaded is not None
    return loaded.module


def difference(one: Decoded, other: Decoded) -> int:
    return int(np.abs(pixels_of(one).astype(int) - pixels_of(other)).max())


def counted(monkeypatch: pytest.MonkeyPatch, vae: Any) -> list[int]:
    """The number of latents in each call of the VAE's decode from now on."""
    calls: list[int] = []
    decode = vae.decode

    def counting(latents: torch.Tensor, **options: Any) -> Any:
        calls.append(len(latents))
        return decode(latents, **options)

    monkeypatch.setattr(vae, "decode", counting)
    return calls


def failing(monkeypatch: pytest.MonkeyPatch, vae: Any, error: Exception, above: int = 0) -> None:
    """Make the VAE's network raise for more latents at a time than `above`."""
    # What slicing calls for each picture, where the class has it.
    name = "_decode" if hasattr(vae, "_decode") else "decode"
    decode = getattr(vae, name)

    def raising(latents: torch.Tensor, *arguments: Any, **options: Any) -> Any:
        if len(latents) > above:
            raise error
        return decode(latents, *arguments, **options)

    monkeypatch.setattr(vae, name, raising)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("vae", SHAPES)
def test_a_batch_is_one_call_and_gives_each_job_its_own_picture_within_the_dtypes_tolerance(
    load: Load, monkeypatch: pytest.MonkeyPatch, vae: str, dtype: str
) -> None:
    decoder = load(vae, dtype)
    latents = [randn(*SHAPES[vae], seed=seed) for seed in range(3)]
    alone = [decode(decoder, vae, one) for one in latents]
    calls = counted(monkeypatch, module(decoder, vae))

    together = decoder.decode(batch(decoder, vae, *latents))

    assert calls == [3 * SHAPES[vae][0]]
    assert [one.dtype for one in together] == [dtype] * 3
    assert max(map(difference, alone, together)) <= TOLERANCES[dtype]
    assert all(
        difference(one, alone[0]) > difference(one, own) for one, own in zip(together[1:], alone[1:], strict=True)
    )


def test_packed_jobs_share_a_batch(load: Load) -> None:
    decoder = load("flux")
    latents = [randn(1, 4 * 6, 64, seed=seed) for seed in range(3)]

    together = decoder.decode(batch(decoder, "flux", *latents, height=64, width=96))

    for one, tokens in zip(together, latents, strict=True):
        assert difference(one, decode(decoder, "flux", tokens, height=64, width=96)) <= TOLERANCES["float32"]


@pytest.fixture
def overflowing(tmp_path: Path, tiny_vaes: Path) -> VaeEntry:
    """A float16 VAE whose activations are beyond float16 for latents of 40, and well within it for those of 1."""
    vae = AutoencoderKL.from_pretrained(tiny_vaes / "sd-v1")
    with torch.no_grad():
        vae.decoder.conv_in.weight.mul_(1e3)
    vae.save_pretrained(tmp_path / "vae")
    return VaeEntry(id="hot", path=str(tmp_path / "vae"), cpu_dtype="float16")


def test_only_the_jobs_that_overflow_are_decoded_again_alone_and_wider(
    overflowing: VaeEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = LocalDecoder([overflowing], "cpu")
    latents = [randn(1, 4, 8, 8), 1e3 * randn(1, 4, 8, 8), randn(1, 4, 8, 8, seed=1)]
    calls = counted(monkeypatch, module(decoder, "hot"))

    together = decoder.decode(batch(decoder, "hot", *(one.half() for one in latents)))

    assert calls == [3, 1]
    assert [(one.dtype, one.widened_from) for one in together] == [
        ("float16", None),
        ("float32", "float16"),
        ("float16", None),
    ]
    assert module(decoder, "hot").dtype == torch.float16


def test_a_batch_with_latents_that_no_dtype_decodes_names_their_job(load: Load) -> None:
    decoder = load("sd-v1")
    jobs = batch(decoder, "sd-v1", randn(1, 4, 8, 8), torch.full((1, 4, 8, 8), 3e38))

    with pytest.raises(NonFiniteImage, match=f"job {jobs.items[1].spec.id} to NaN or Inf"):
        decoder.decode(jobs)


def test_another_number_of_pictures_than_of_latents_is_a_mismatch(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = load("sd-v1")
    monkeypatch.setattr(module(decoder, "sd-v1"), "decode", lambda latents, **_: (torch.zeros(1, 3, 64, 64),))

    with pytest.raises(BatchMismatch, match="1 pictures for 2 latents"):
        decoder.decode(batch(decoder, "sd-v1", randn(2, 4, 8, 8)))


def test_tiles_are_another_picture_and_are_said_and_the_next_decode_has_none(load: Load, tiny_vaes: Path) -> None:
    decoder = load("sd-v1")
    latents = randn(1, 4, 16, 16)
    whole = decode(decoder, "sd-v1", latents, reproducible=True)

    tiled = decoder.decode(batch(decoder, "sd-v1", latents, reproducible=True), mode=MemoryMode.TILED)[0]

    theirs = AutoencoderKL.from_pretrained(tiny_vaes / "sd-v1")
    theirs.enable_tiling()
    with torch.inference_mode():
        expected = theirs.decode(latents / theirs.config.scaling_factor).sample
    assert torch.equal(torch.from_numpy(pixels_of(tiled)), to_uint8(expected))
    assert (tiled.switches, whole.switches) == (("tiling",), ())
    assert difference(whole, tiled) > 0
    assert difference(whole, decode(decoder, "sd-v1", latents, reproducible=True)) == 0


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    return (images * 0.5 + 0.5).clamp(0, 1).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1)


def test_a_vae_made_for_large_pictures_has_tiles_that_spare_memory(tmp_path: Path, tiny_vaes: Path) -> None:
    vae = AutoencoderKL.from_pretrained(tiny_vaes / "sdxl")
    vae.register_to_config(sample_size=1024)
    vae.save_pretrained(tmp_path / "vae")

    loaded = module(LocalDecoder([VaeEntry(id="x", path=str(tmp_path / "vae"))], "cpu"), "x")

    assert loaded.config.sample_size == 1024
    assert (loaded.tile_sample_min_size, loaded.tile_latent_min_size) == (512, 64)
    assert switches.MAX_TILE_PIXELS == 512


def test_a_vae_that_knows_no_tiles_is_out_of_memory_and_says_so(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = load("sd-v1")

    def not_implemented() -> None:
        raise NotImplementedError("Tiling doesn't seem to be implemented")

    monkeypatch.setattr(module(decoder, "sd-v1"), "enable_tiling", not_implemented)

    with pytest.raises(OutOfMemory, match="a AutoencoderKL has no tiling"):
        decoder.decode(batch(decoder, "sd-v1", randn(1, 4, 8, 8)), mode=MemoryMode.TILED)


def test_after_out_of_memory_nothing_of_the_batch_is_held_and_the_cache_is_emptied(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = load("sd-v1")
    held: list[weakref.ref[torch.Tensor]] = []
    emptied: list[bool] = []

    def decode_into(latents: torch.Tensor, **_: Any) -> None:
        activations = latents.repeat(1, 1, 2, 2)
        held.extend((weakref.ref(latents), weakref.ref(activations)))
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(module(decoder, "sd-v1"), "decode", decode_into)
    monkeypatch.setattr(
        device_memory, "empty_cache", lambda _: emptied.append(all(reference() is None for reference in held))
    )
    gc.disable()
    try:
        with pytest.raises(OutOfMemory, match="cpu has no room to decode 2 x sd-v1 64x64") as caught:
            decoder.decode(batch(decoder, "sd-v1", randn(1, 4, 8, 8), randn(1, 4, 8, 8)))
    finally:
        gc.enable()

    assert emptied == [True], "emptied once, when nothing was held any more"
    assert caught.value.__context__ is None


def test_what_ran_out_of_memory_is_remembered_for_its_vae(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_memory, "free_bytes", lambda: 2**50)
    monkeypatch.setattr(host_memory, "total_bytes", lambda: 2**50)
    decoder = load("sd-v1")
    picture = 64 * 64
    failing(monkeypatch, module(decoder, "sd-v1"), torch.OutOfMemoryError("no"))

    def run_out(jobs: int, **options: Any) -> None:
        with pytest.raises(OutOfMemory):
            decoder.decode(batch(decoder, "sd-v1", *[randn(1, 4, 8, 8)] * jobs), **options)

    run_out(1, mode=MemoryMode.TILED)
    assert (decoder.batch_pixels("sd-v1") or 0) > 6 * picture, "tiles tell nothing of whole pictures"
    run_out(6)
    assert decoder.batch_pixels("sd-v1") == 3 * picture
    assert decoder.batch_pixels("sd-v1", picture // 4) == 2**31 // 16, "smaller pictures are not bound"
    assert (decoder.max_pixels("sd-v1") or 0) > picture, "one alone was not tried yet"
    run_out(1)
    alone = batch(decoder, "sd-v1", randn(1, 4, 8, 8)).items[0].spec
    assert decoder.modes(alone) == (MemoryMode.HALF, MemoryMode.THIRD, MemoryMode.TILED)
    assert (decoder.max_pixels("sd-v1") or 0) > picture, "strips were not tried yet"


def test_a_job_of_many_pictures_is_decoded_one_by_one_where_all_at_once_find_no_room(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = load("sd-v1")
    latents = randn(3, 4, 8, 8)
    whole = decode(decoder, "sd-v1", latents)
    failing(monkeypatch, module(decoder, "sd-v1"), torch.OutOfMemoryError("no"), above=1)
    calls = counted(monkeypatch, module(decoder, "sd-v1"))

    sliced, again = decode(decoder, "sd-v1", latents), decode(decoder, "sd-v1", latents)

    assert sliced.switches == again.switches == ("slicing", *whole.switches)
    assert difference(whole, sliced) <= TOLERANCES["float32"]
    assert calls == [3, 3, 3], "the second time not even tried whole"
    assert not module(decoder, "sd-v1").use_slicing
    with pytest.raises(OutOfMemory):
        decode(decoder, "sd-v1", latents, reproducible=True)


@pytest.mark.parametrize("vae", SHAPES)
def test_what_finds_no_room_whole_is_decoded_in_strips_and_the_next_one_at_once(
    load: Load, monkeypatch: pytest.MonkeyPatch, vae: str
) -> None:
    decoder = load(vae)
    latents = randn(*SHAPES[vae])
    whole = decode(decoder, vae, latents)
    failing(monkeypatch, module(decoder, vae), torch.OutOfMemoryError("no"))
    calls = counted(monkeypatch, module(decoder, vae))

    def outcome(**options: Any) -> Any:
        return ladder.decode(decoder, batch(decoder, vae, latents, **options), lambda _: None)[0]

    first = outcome()
    tried, again = len(calls), outcome()

    assert first.switches == again.switches == ("strips-half",)
    assert difference(whole, first) <= 1
    assert np.array_equal(pixels_of(first), pixels_of(again))
    assert len(calls) == tried > 0, "the second one was not tried whole"
    assert isinstance(outcome(reproducible=True), OutOfMemory), "its bits would be others"


@pytest.mark.parametrize("mode", [MemoryMode.HALF, MemoryMode.THIRD])
def test_strips_of_half_latents_are_pictures_like_any_and_the_record_says_which(load: Load, mode: MemoryMode) -> None:
    decoder = load("sd-v1", "bfloat16")
    latents = randn(3, 4, 10, 6).bfloat16()

    (made,) = decoder.decode(batch(decoder, "sd-v1", latents), mode=mode)

    assert (made.dtype, made.switches) == ("bfloat16", (mode,))
    assert difference(decode(decoder, "sd-v1", latents), made) <= TOLERANCES["bfloat16"]


def test_a_vae_with_a_part_that_strips_do_not_know_has_no_room_in_strips(load: Load) -> None:
    decoder = load("sd-v1")
    module(decoder, "sd-v1").decoder.conv_act = torch.nn.GELU()
    jobs = batch(decoder, "sd-v1", randn(1, 4, 8, 8))

    with pytest.raises(OutOfMemory, match="VAE 'sd-v1' has a part that strips do not know: conv_norm_out"):
        decoder.decode(jobs, mode=MemoryMode.HALF)

    assert MemoryMode.HALF not in decoder.modes(jobs.items[0].spec)


def test_latents_that_overflow_in_strips_are_decoded_in_strips_once_more_in_float32(overflowing: VaeEntry) -> None:
    decoder = LocalDecoder([overflowing], "cpu")
    jobs = batch(decoder, overflowing.id, torch.full((1, 4, 8, 8), 40.0, dtype=torch.float16))

    (made,) = decoder.decode(jobs, mode=MemoryMode.THIRD)

    assert (made.dtype, made.widened_from, made.switches) == ("float32", "float16", ("strips-third",))


@pytest.mark.parametrize(
    ("share", "modes"),
    [
        (1.2, (MemoryMode.WHOLE, MemoryMode.HALF, MemoryMode.THIRD)),
        (0.5, (MemoryMode.HALF, MemoryMode.THIRD)),
        (0.3, (MemoryMode.THIRD,)),
        (0.1, ()),
    ],
)
def test_no_mode_is_tried_that_takes_more_than_the_machine_has(
    load: Load, share: float, modes: tuple[MemoryMode, ...]
) -> None:
    """A process of a CPU is killed rather than told."""
    decoder = load("sd-v1")
    spec = batch(decoder, "sd-v1", randn(1, 4, 8, 8)).items[0].spec
    least = spec.picture_pixels * decoder._memory._costs["sd-v1"].least_bytes / SHARE

    decoder._shelf._limit_bytes = decoder._shelf.weight_bytes_of("sd-v1") + int(share * least)

    assert decoder.modes(spec) == (*modes, MemoryMode.TILED)
    bound = spec.model_copy(update={"reproducible": True})
    assert decoder.modes(bound) == modes[: modes.count(MemoryMode.WHOLE)]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError("CUDA error: device-side assert triggered\nmore"), DeviceFault),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."), OutOfMemory),
        (MemoryError(), OutOfMemory),
        (RuntimeError("weights and input do not fit"), RuntimeError),
    ],
)
def test_what_the_network_raises_becomes_the_error_that_it_amounts_to(
    load: Load, monkeypatch: pytest.MonkeyPatch, error: Exception, kind: type[Exception]
) -> None:
    decoder = load("sd-v1")
    failing(monkeypatch, module(decoder, "sd-v1"), error)

    with pytest.raises(kind) as caught:
        decoder.decode(batch(decoder, "sd-v1", randn(1, 4, 8, 8)))

    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)


def test_peaks_of_whole_decodes_alone_teach_the_estimate(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = load("taesd")
    monkeypatch.setattr(device_memory.Peak, "taken_bytes", lambda _: 2**40)
    planned = decoder._memory.bytes_per_pixel("taesd")
    jobs = batch(decoder, "taesd", randn(1, 4, 64, 64))

    decoder.decode(jobs, mode=MemoryMode.TILED)
    assert decoder._memory.bytes_per_pixel("taesd") == planned
    decoder.decode(jobs)
    assert decoder._memory.bytes_per_pixel("taesd") == 2**40 / 512**2


@pytest.mark.slow
def test_the_peak_of_a_compile_teaches_the_estimate_nothing(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = load("sd-v1")
    loaded = decoder._shelf._places["sd-v1"].loaded
    assert loaded is not None
    # A small network and the backend that makes no code: a compile of seconds.
    network = torch.nn.Sequential(torch.nn.Conv2d(4, 3, 1), torch.nn.Upsample(scale_factor=8.0))
    compiled = CompiledDecoder(network, [(4, 4)], "eager")
    decoder._shelf._places["sd-v1"].loaded = replace(loaded, fast=FastDecoder(compiled, ()))
    monkeypatch.setattr(device_memory.Peak, "taken_bytes", lambda _: 2**40)
    planned = decoder._memory.bytes_per_pixel("sd-v1")
    jobs = batch(decoder, "sd-v1", randn(4, 4, 32, 32))

    decoder.decode(jobs)
    assert decoder._memory.bytes_per_pixel("sd-v1") == planned
    decoder.decode(jobs)
    assert decoder._memory.bytes_per_pixel("sd-v1") > planned


def test_without_a_told_memory_there_is_no_limit(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_memory, "free_bytes", lambda: None)
    monkeypatch.setattr(host_memory, "total_bytes", lambda: None)
    decoder = load("taesd")

    assert decoder.batch_pixels("taesd") is decoder.max_pixels("taesd") is None


def test_the_device_has_an_id_that_two_decoders_of_it_share(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "render-3")

    assert load("taesd").device_id == load("demo").device_id == "render-3-cpu"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda_the_id_is_the_cards_and_the_estimate_learns(catalogue: Path) -> None:
    decoder = LocalDecoder([Catalogue.load(catalogue)["demo"]], "cuda:0")
    planned = decoder._memory.bytes_per_pixel("demo")

    decode(decoder, "demo", randn(4, 4, 64, 64))

    assert decoder.device_id == str(torch.cuda.get_device_properties(0).uuid)
    assert decoder._memory.bytes_per_pixel("demo") != planned
    assert (decoder.batch_pixels("demo") or 0) > 512**2
