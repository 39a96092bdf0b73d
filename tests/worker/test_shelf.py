"""Several VAEs on one device: loaded when wanted, dropped when others need the room; one that fails harms no other."""

import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.conftest import eventually
from tests.worker.items import decode, randn

from vaefarm_producer import Farm
from vaefarm_shared.catalogue import Catalogue, VaeEntry
from vaefarm_shared.errors import ConfigurationError, DeviceFault, JobFailed, VaeUnavailable
from vaefarm_worker import shelf as shelf_module
from vaefarm_worker.commands import read_bytes
from vaefarm_worker.fast import wanted_on
from vaefarm_worker.lifeline import Lifeline
from vaefarm_worker.local_decoder import LocalDecoder
from vaefarm_worker.shelf import DECODE_PIXELS, Shelf
from vaefarm_worker.vaes import LoadedVae, describe_vae, read_vae

CPU = torch.device("cpu")

#: Seconds that anything here may take.
PATIENCE = 30


@pytest.fixture
def entries(catalogue: Path) -> list[VaeEntry]:
    known = Catalogue.load(catalogue)
    return [known["sd-v1"], known["sdxl"], known["flux"]]


def room_for(count: int, entries: list[VaeEntry]) -> int:
    """Bytes in which so many of the VAEs find room, with a decode, and one more does not."""
    read = [read_vae(describe_vae(entry, CPU), wanted_on(CPU)) for entry in entries]
    most = max(one.weight_bytes for one in read)
    return int(count * most + max(one.described.cost.planned_bytes for one in read) * DECODE_PIXELS)


def breaks(entry: VaeEntry, folder: Path) -> VaeEntry:
    """The same VAE with weights that are no safetensors file."""
    copy = shutil.copytree(str(entry.path), folder)
    (copy / "diffusion_pytorch_model.safetensors").write_bytes(b"rubbish")
    return entry.model_copy(update={"path": str(copy)})


class Gate:
    """Reads of weights that wait until they are let through."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, waits_for: str) -> None:
        self.begun, self.open = threading.Event(), threading.Event()

        def read(described: Any, *fast: Any) -> LoadedVae:
            if described.id == waits_for:
                self.begun.set()
                assert self.open.wait(PATIENCE)
            return read_vae(described, *fast)

        monkeypatch.setattr(shelf_module, "read_vae", read)


def test_what_there_is_room_for_is_loaded_at_the_start_and_the_rest_when_it_is_wanted(entries: list[VaeEntry]) -> None:
    shelf = Shelf(entries, CPU, room_for(2, entries))

    assert shelf.hot == ["sd-v1", "sdxl"]
    with shelf.using("flux") as loaded:
        assert loaded.described.id == "flux"


def test_the_least_recently_used_makes_room(entries: list[VaeEntry]) -> None:
    shelf = Shelf(entries, CPU, room_for(2, entries))
    with shelf.using("sd-v1"):
        pass

    with shelf.using("flux"):
        assert shelf.hot == ["sd-v1", "flux"]


def test_what_is_in_use_is_not_dropped(entries: list[VaeEntry]) -> None:
    shelf = Shelf(entries, CPU, room_for(1, entries))

    with shelf.using("sd-v1"):
        shelf.begin_load("flux")
        loading = shelf._places["flux"].loading
        assert loading is not None
        eventually("the load waits for room", lambda: bool(shelf._lock._waiters))  # type: ignore[attr-defined]
        assert shelf.hot == ["sd-v1"]

    assert loading.wait(PATIENCE)
    assert shelf.hot == ["flux"]


def test_within_its_limit_the_shelf_never_holds_more(entries: list[VaeEntry]) -> None:
    limit = room_for(1, entries)
    shelf = Shelf(entries, CPU, limit)

    for vae in ("flux", "sdxl", "sd-v1", "flux", "sdxl"):
        with shelf.using(vae) as loaded:
            assert shelf.weight_bytes + loaded.described.cost.planned_bytes * DECODE_PIXELS <= limit


def test_weights_beyond_the_limit_are_refused_with_the_option_that_helps(entries: list[VaeEntry]) -> None:
    with pytest.raises(ConfigurationError, match=r"'sd-v1' has \d+ bytes of weights.*limit is 1000.*--vram-limit"):
        Shelf(entries[:1], CPU, 1000)


def test_what_nobody_uses_is_dropped(entries: list[VaeEntry]) -> None:
    shelf = Shelf(entries[:2], CPU, idle_seconds=0.0)
    with shelf.using("sdxl"):
        shelf.drop_idle()
        assert shelf.hot == ["sdxl"]

    shelf.drop_idle()
    assert shelf.hot == []
    with shelf.using("sd-v1"):
        assert shelf.hot == ["sd-v1"]


def test_a_vae_that_cannot_be_loaded_says_why_and_is_tried_again_after_a_while(
    entries: list[VaeEntry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("vaefarm_worker.shelf.time.monotonic", lambda: now[0])
    broken = breaks(entries[1], tmp_path / "broken")
    shelf = Shelf([entries[0], broken], CPU)

    assert "'sdxl'" in str(shelf.error("sdxl"))
    with pytest.raises(VaeUnavailable, match="'sdxl'.*cannot be loaded"), shelf.using("sdxl"):
        pass

    for name in ("diffusion_pytorch_model.safetensors", "config.json"):
        shutil.copy(Path(str(entries[1].path), name), Path(str(broken.path), name))
    now[0] += shelf_module.FIRST_BACKOFF_SECONDS
    assert shelf.error("sdxl") is None
    with shelf.using("sdxl"):
        assert shelf.hot == ["sd-v1", "sdxl"]


def test_when_nothing_can_be_loaded_the_worker_does_not_start(entries: list[VaeEntry], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"'sd-v1'.*cannot be loaded"):
        Shelf([breaks(entries[0], tmp_path / "broken")], CPU)


def test_a_picture_after_a_reload_is_the_same_picture(entries: list[VaeEntry]) -> None:
    decoder = LocalDecoder(entries[:2], "cpu", limit_bytes=room_for(1, entries))
    latents = randn(1, 4, 8, 8)
    first = decode(decoder, "sd-v1", latents)
    decode(decoder, "sdxl", latents)
    assert not decoder.is_hot("sd-v1")

    again = decode(decoder, "sd-v1", latents)

    assert first.pixels is not None
    assert again.pixels is not None
    assert (first.pixels == again.pixels).all()


def test_a_vae_that_decodes_no_picture_is_told_from_a_device_that_decodes_none(entries: list[VaeEntry]) -> None:
    decoder = LocalDecoder(entries[:2], "cpu", limit_bytes=room_for(1, entries))
    decoder.self_test()
    decode(decoder, "sd-v1", randn(1, 4, 8, 8))
    read = read_vae

    def blank(described: Any, *fast: Any) -> LoadedVae:
        loaded = read(described, *fast)
        for parameter in loaded.module.decoder.conv_out.parameters():
            torch.nn.init.zeros_(parameter)
        return loaded

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(shelf_module, "read_vae", blank)
        decoder._shelf._limit_bytes = room_for(2, entries)
        with pytest.raises(VaeUnavailable, match="'sdxl' decodes no picture.*of one colour"):
            decode(decoder, "sdxl", randn(1, 4, 8, 8))

    assert decoder.load_error("sdxl") is not None
    assert decode(decoder, "sd-v1", randn(1, 4, 8, 8)).pixels is not None


def test_a_device_that_fails_while_weights_move_to_it_is_a_fault_and_no_vaes(
    entries: list[VaeEntry], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(loaded: LoadedVae, device: torch.device) -> LoadedVae:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    shelf = Shelf(entries[:2], CPU, room_for(1, entries))
    monkeypatch.setattr(LoadedVae, "moved_to", fails)

    with pytest.raises(DeviceFault, match="illegal memory access"), shelf.using("sdxl"):
        pass


def test_an_entry_that_is_not_there_leaves_the_others_served(entries: list[VaeEntry], tmp_path: Path) -> None:
    gone = entries[1].model_copy(update={"path": str(tmp_path / "nowhere")})

    assert Shelf([gone, entries[0]], CPU).hot == ["sd-v1"]
    with pytest.raises(ConfigurationError, match=r"'sdxl'.*holds no config\.json"):
        Shelf([gone], CPU)


def test_for_a_picture_that_finds_no_room_the_other_vaes_make_way(
    entries: list[VaeEntry], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = LocalDecoder(entries[:2], "cpu")
    plain = LocalDecoder._decode

    def needs_room(self: LocalDecoder, *given: Any) -> Any:
        if len(self._shelf.hot) > 1:
            raise torch.OutOfMemoryError("no room beside another")
        return plain(self, *given)

    monkeypatch.setattr(LocalDecoder, "_decode", needs_room)

    assert decode(decoder, "sdxl", randn(1, 4, 8, 8)).pixels is not None
    assert decoder._shelf.hot == ["sdxl"]


def test_a_load_that_takes_longer_than_a_decode_may_does_not_end_the_worker(
    farm: Farm, serve: Callable[..., None], entries: list[VaeEntry], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = LocalDecoder(entries, "cpu", limit_bytes=room_for(2, entries))
    gate = Gate(monkeypatch, "flux")
    signs: list[float] = []
    monkeypatch.setattr(Lifeline, "idle", lambda self: signs.append(time.monotonic()))
    job = farm.submit(randn(1, 16, 8, 8), vae="flux")
    serving = threading.Thread(target=serve, args=(decoder,))
    serving.start()
    try:
        assert gate.begun.wait(PATIENCE)
        eventually("the worker says that it lives", lambda: len(signs) > 2)
    finally:
        gate.open.set()
        serving.join(PATIENCE)
    assert job.image(PATIENCE).size == (64, 64)


def test_while_one_loads_batches_of_those_that_are_loaded_go_on(
    farm: Farm, serve: Callable[..., None], entries: list[VaeEntry], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = LocalDecoder(entries, "cpu", limit_bytes=room_for(2, entries))
    gate = Gate(monkeypatch, "flux")
    slow, *_ = [farm.submit(randn(1, 16, 8, 8), vae="flux", priority="high") for _ in range(5)]
    serving = threading.Thread(target=serve, args=(decoder,))
    serving.start()
    try:
        assert gate.begun.wait(PATIENCE)
        quick = [farm.submit(randn(1, 4, 8, 8), vae="sd-v1") for _ in range(10)]
        assert all(job.image(PATIENCE) for job in quick)
        assert slow.status() in ("queued", "started")
    finally:
        gate.open.set()
        serving.join(PATIENCE)

    assert slow.image(PATIENCE).size == (64, 64)


def test_a_vae_that_cannot_be_loaded_fails_its_jobs_with_the_reason_and_no_others(
    farm: Farm, serve: Callable[..., None], entries: list[VaeEntry], tmp_path: Path
) -> None:
    copy = shutil.copytree(str(entries[1].path), tmp_path / "vae")
    decoder = LocalDecoder([entries[0], entries[1].model_copy(update={"path": str(copy)})], "cpu", room_for(1, entries))
    (copy / "diffusion_pytorch_model.safetensors").write_bytes(b"rubbish")
    lost, good = farm.submit(randn(1, 4, 8, 8), vae="sdxl"), farm.submit(randn(1, 4, 8, 8), vae="sd-v1")

    serve(decoder)

    assert good.image(PATIENCE).size == (64, 64)
    with pytest.raises(JobFailed, match=r"'sdxl'.*cannot be loaded.*no other worker that lives can load it"):
        lost.image(PATIENCE)
    assert lost.record().attempts == 0


def test_a_config_that_contradicts_the_catalogue_is_refused_before_weights_are_read(
    entries: list[VaeEntry], tmp_path: Path
) -> None:
    copy = shutil.copytree(str(entries[0].path), tmp_path / "vae")
    config = json.loads((copy / "config.json").read_text()) | {"latent_channels": 16}
    (copy / "config.json").write_text(json.dumps(config))

    with pytest.raises(ConfigurationError, match="latent_channels 16; the catalogue says 4"):
        Shelf([entries[0].model_copy(update={"path": str(copy)})], CPU)


@pytest.mark.parametrize(("text", "expected"), [("6GiB", 6 * 2**30), ("500MB", 500_000_000), ("1024", 1024)])
def test_a_limit_is_read_as_people_write_it(text: str, expected: int) -> None:
    assert read_bytes(text, "--vram-limit") == expected


@pytest.mark.parametrize("text", ["", "much", "-1", "0"])
def test_a_limit_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="--vram-limit.*expected such as 6GiB"):
        read_bytes(text, "--vram-limit")
