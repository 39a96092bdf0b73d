"""What is measured: a VAE's own weights where they are here, and random ones of the same architecture elsewhere."""

from pathlib import Path

import diffusers
import pytest
import torch

from vaefarm_shared.catalogue import Catalogue
from vaefarm_worker.bench import architectures
from vaefarm_worker.bench.architectures import ARCHITECTURES
from vaefarm_worker.bench.limit import decode_flops
from vaefarm_worker.bench.live_bytes import LiveBytes, peak_bytes
from vaefarm_worker.bench.measurement import Measurement, Trial
from vaefarm_worker.bench.modes import MODES, Mode
from vaefarm_worker.bench.subject import Subject, load
from vaefarm_worker.families.known import family_of

CPU = torch.device("cpu")


def measure(subject: Subject, size: int, mode: Mode, room_bytes: int | None = None) -> Measurement:
    """One run of a picture."""
    trial = Trial(subject, size, 1, mode)
    trial.warm_up(room_bytes)
    trial.run()
    row = trial.row
    assert row is not None
    return row


def empty(vae: str) -> Subject:
    """An architecture without numbers."""
    class_name, config = ARCHITECTURES[vae]
    with torch.device("meta"):
        module = getattr(diffusers, class_name)(**config)
    return Subject(vae, module, family_of(class_name), torch.float32, CPU, "random")


@pytest.mark.parametrize("vae", ARCHITECTURES)
def test_an_architecture_keeps_the_contract_of_its_catalogue_entry(vae: str) -> None:
    class_name, _ = ARCHITECTURES[vae]
    entry, family = Catalogue.load()[vae], family_of(class_name)

    made = empty(vae).module.config

    assert (family.channels(made), family.scale(made)) == (entry.latent_channels, entry.spatial_scale)


@pytest.mark.parametrize(
    ("vae", "millions"), [("sd-v1", 49.49), ("sdxl", 49.49), ("sd3", 49.55), ("flux", 49.55), ("flux2", 49.62)]
)
def test_a_decoder_has_as_many_parameters_as_the_trained_one(vae: str, millions: float) -> None:
    module = empty(vae).module
    quant = module.post_quant_conv.parameters() if module.post_quant_conv is not None else ()

    count = sum(one.numel() for one in (*module.decoder.parameters(), *quant))

    assert count / 1e6 == pytest.approx(millions, abs=0.01)


@pytest.mark.parametrize("vae", ARCHITECTURES)
def test_random_weights_decode_in_every_mode(vae: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Nothing is fetched, and what someone fetched is not here.
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    class_name, config = ARCHITECTURES[vae]
    if "block_out_channels" in config:
        narrow = config | {"block_out_channels": (32, 32, 32, 32), "layers_per_block": 1}
        monkeypatch.setitem(architectures.ARCHITECTURES, vae, (class_name, narrow))

    subject = load(Catalogue.load()[vae], CPU, None)
    measured = [measure(subject, 64, mode) for mode in MODES.values()]

    assert (subject.weights, subject.dtype) == ("random", torch.float32)
    assert [one.outcome for one in measured] == ["measured"] * len(MODES)
    assert getattr(subject.module, "encoder", None) is None


def test_weights_that_are_here_are_measured_in_the_dtype_that_was_asked_for() -> None:
    subject = load(Catalogue.load()["demo"], CPU, "bfloat16")

    assert (subject.weights, subject.dtype) == ("own", torch.bfloat16)
    assert {one.dtype for one in subject.module.parameters()} == {torch.bfloat16}
    assert subject.weight_bytes < 2 * 978_103


@pytest.mark.parametrize(("size", "tera"), [(512, 2.51), (1024, 10.47)])
def test_the_operations_of_a_decode_are_those_of_its_layers(size: int, tera: float) -> None:
    assert decode_flops(empty("sdxl"), size) / 1e12 == pytest.approx(tera, rel=0.005)


def test_bytes_are_counted_while_tensors_live() -> None:
    def work() -> None:
        first = torch.empty(1000, dtype=torch.uint8)
        second = torch.empty(500, dtype=torch.uint8)
        del first
        view = second.view(5, 100)
        third = torch.empty(200, dtype=torch.uint8)
        del view, third

    with LiveBytes() as counter:
        work()

    assert (counter.peak, counter.live) == (1500, 0)
    assert peak_bytes(work) == 1500


def test_the_peak_of_a_plain_decode_is_that_of_its_widest_block() -> None:
    subject = load(Catalogue.load()["demo"], CPU, None)

    row = measure(subject, 256, MODES["plain"])

    # The first block at the picture's own size: 32 channels of its input, the norm and the activation.
    latents = 4 * 32 * 32 * 4
    assert row.peak_bytes is not None
    taken = row.peak_bytes - subject.weight_bytes - latents
    assert pytest.approx(taken, rel=0.02) == 3 * 32 * 4 * 256 * 256


@pytest.mark.parametrize("name", MODES)
@pytest.mark.parametrize("size", [64, 256])
def test_what_has_just_room_is_measured_and_a_byte_less_is_no_room(name: str, size: int) -> None:
    subject = load(Catalogue.load()["demo"], CPU, None)
    taken = measure(subject, size, MODES[name]).peak_bytes
    assert taken is not None

    enough, short, hopeless = (measure(subject, size, MODES[name], room) for room in (taken, taken - 1, 1000))

    assert (enough.outcome, enough.peak_bytes) == ("measured", taken)
    assert (short.outcome, short.runs, short.reason) == ("no room", (), f"it takes {taken / 2**20:.0f} MiB")
    assert hopeless.outcome == "no room"
    assert hopeless.reason.endswith("MiB at least")
