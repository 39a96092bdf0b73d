"""Encodes through `Farm`, on a real redis-server: the same queues, the same life, latents instead of pictures."""

import io
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
import torch
from diffusers import AutoencoderKL
from PIL import Image
from tests.conftest import RedisServer, Serve, StartWorker, eventually

from vaefarm_producer import AsyncFarm, Farm, InvalidInput, InvalidOption, InvalidPicture, JobConflict, JobFailed
from vaefarm_shared import keys
from vaefarm_shared.budget import FILE_BYTES, picture_bytes
from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.job import JobSpec
from vaefarm_shared.pictures import open_picture
from vaefarm_shared.settings import Settings
from vaefarm_worker.decoder import Batch, Decoded, Encoded
from vaefarm_worker.fake_decoder import FakeDecoder
from vaefarm_worker.local_decoder import LocalDecoder
from vaefarm_worker.memory_mode import MemoryMode

DEMO = Path(str(files("vaefarm_worker"))) / "demo"
LATENTS = torch.zeros(1, 4, 8, 8)


@pytest.fixture
def farm(farm_settings: Settings) -> Iterator[Farm]:
    """A farm over Redis, and over a gateway."""
    with Farm(settings=farm_settings) as one:
        yield one


def picture(height: int = 64, width: int = 64, seed: int = 0, image_format: str = "PNG") -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(file, image_format)
    return file.getvalue()


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.square(one.astype(float) - other).mean()))


@pytest.mark.redis
def test_a_picture_becomes_normalised_latents_under_its_job_id(farm: Farm, settings: Settings, serve: Serve) -> None:
    data = picture(64, 96)

    job = farm.encode(data, vae="sd-v1", metadata={"from": "a file"})
    assert job.status() == "queued"
    serve(LocalDecoder([Catalogue.load(settings.catalogue)["sd-v1"]], "cpu"))

    with Farm(settings=settings) as elsewhere:
        latents = elsewhere.job(job.id).latents(timeout=10)
        record = elsewhere.job(job.id).record()
    assert (latents.shape, latents.dtype) == ((1, 4, 8, 12), "float32")
    vae = AutoencoderKL.from_pretrained(Path(str(settings.catalogue)).parent / "sd-v1")
    images = torch.from_numpy(open_picture(data).copy()).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        wanted = vae.encode(images).latent_dist.mode() * vae.config.scaling_factor
    assert torch.allclose(latents.torch(), wanted, atol=1e-5)
    assert np.array_equal(latents.numpy(), latents.torch().numpy())
    report = record.report
    assert report is not None
    assert report.latents is not None
    assert (report.images, report.latents.shape, report.latents.dtype) == ((), (1, 4, 8, 12), "float32")
    assert (record.status, record.metadata, record.attempts) == ("finished", {"from": "a file"}, 1)


def test_encode_then_decode_of_a_photograph_keeps_its_psnr(farm: Farm, settings: Settings, serve: Serve) -> None:
    data = (DEMO / "photographs" / "cat.webp").read_bytes()
    original = open_picture(data)
    decoder = LocalDecoder([Catalogue.load(settings.catalogue)["demo"]], "cpu")

    encoded = farm.encode(data, vae="demo")
    serve(decoder)
    decoded = farm.submit(encoded.latents(timeout=30), vae="demo")
    serve(decoder)
    through_the_farm = psnr(np.asarray(decoded.image(timeout=30)), original)

    vae = AutoencoderKL.from_pretrained(DEMO / "vae")
    images = torch.from_numpy(original.copy()).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        back = vae.decode(vae.encode(images).latent_dist.mode()).sample[0]
    direct = (back.clamp(-1, 1).permute(1, 2, 0).numpy() + 1) * 127.5
    assert through_the_farm == pytest.approx(psnr(direct.round(), original), abs=0.02)
    assert through_the_farm > 24


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP"])
def test_a_file_travels_as_it_is_and_goes_when_its_job_has_finished(
    farm: Farm, connection: redis.Redis, serve: Serve, image_format: str
) -> None:
    data = picture(image_format=image_format)

    job = farm.encode(data, vae="demo")

    (key,) = connection.scan_iter("vaefarm:latent:*")
    assert connection.get(key) == data
    serve()
    assert job.latents(timeout=10).shape == (1, 4, 8, 8)
    assert not list(connection.scan_iter("vaefarm:latent:*"))


def test_files_images_arrays_and_tensors_of_one_picture_encode_to_the_same(
    farm: Farm, settings: Settings, serve: Serve
) -> None:
    data = picture()
    pixels = open_picture(data).copy()
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None] / 255.0 * 2 - 1
    given: list[Any] = [data, bytearray(data), Image.open(io.BytesIO(data)), pixels, pixels[None]]
    given += [torch.from_numpy(pixels), tensor, tensor.numpy()]

    jobs = [farm.encode(one, vae="taesd") for one in given]
    serve(LocalDecoder([Catalogue.load(settings.catalogue)["taesd"]], "cpu"))

    made = [job.latents(timeout=10) for job in jobs]
    for one in made[1:]:
        assert np.allclose(one.array, made[0].array, atol=1e-5)


def test_several_images_of_one_job_and_a_seed(farm: Farm, serve: Serve) -> None:
    pixels = np.stack([open_picture(picture(seed=seed)) for seed in (1, 2)])

    mode, sampled = farm.encode(pixels, vae="demo"), farm.encode(pixels, vae="demo", seed=3)
    serve()

    assert mode.latents(10).shape == (2, 4, 8, 8)
    assert not np.array_equal(mode.latents(10).array, sampled.latents(10).array)


def test_the_same_id_is_one_job_unless_picture_seed_or_task_differ(farm: Farm) -> None:
    farm.encode(picture(), vae="demo", job_id="a")

    assert farm.encode(picture(), vae="demo", job_id="a", priority="high").id == "a"
    for again in (
        lambda: farm.encode(picture(seed=1), vae="demo", job_id="a"),
        lambda: farm.encode(picture(), vae="demo", job_id="a", seed=1),
        lambda: farm.submit(LATENTS, vae="demo", job_id="a"),
    ):
        with pytest.raises(JobConflict):
            again()


def test_pictures_of_an_encode_and_latents_of_a_decode_are_refused_by_name(farm: Farm, serve: Serve) -> None:
    encoded, decoded = farm.encode(picture(), vae="demo"), farm.submit(LATENTS, vae="demo")
    serve()

    with pytest.raises(InvalidOption, match="is an encode and has latents, no pictures; use latents()"):
        encoded.image(timeout=10)
    with pytest.raises(InvalidOption, match="is an encode and has latents, no pictures; use latents()"):
        encoded.images(timeout=10)
    with pytest.raises(InvalidOption, match="is a decode and has pictures, no latents; use images()"):
        decoded.latents(timeout=10)


def bomb() -> bytes:
    """A small PNG that announces 3.6 thousand million pixels."""
    data = picture()
    header = b"IHDR" + struct.pack(">II", 60_000, 60_000) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


REFUSED: list[tuple[object, dict, type[InvalidInput], str]] = [
    (picture()[:-20], {}, InvalidPicture, "truncated"),
    (picture() + b"PK\3\4", {}, InvalidPicture, "4 bytes follow the end of the PNG"),
    (bomb(), {}, InvalidPicture, "60000 x 60000"),
    (picture(60, 64), {}, InvalidPicture, "nearest heights 56 and 64"),
    (picture(72, 64), {"vae": "flux"}, InvalidPicture, "multiples of 16"),
    (b"GIF89a", {}, InvalidPicture, "expected the bytes of a file"),
    (torch.full((1, 3, 64, 64), 2.0), {}, InvalidPicture, "expected them in"),
    ("photo.png", {}, InvalidPicture, "the image is a str"),
    (picture(), {"vae": "nobody"}, InvalidInput, "'nobody' is not known"),
    (picture(), {"seed": -1}, InvalidOption, "seed=-1"),
    (picture(), {"image_format": "png"}, InvalidOption, "'image_format' is not known; expected some of"),
    (picture(), {"priority": "urgent"}, InvalidOption, "priority='urgent'"),
]


@pytest.mark.parametrize(("image", "options", "error", "named"), REFUSED)
def test_bad_input_is_named_and_nothing_is_queued(
    farm: Farm, connection: redis.Redis, image: object, options: dict, error: type[InvalidInput], named: str
) -> None:
    before = connection.keys()

    with pytest.raises(error, match=named):
        farm.encode(image, **({"vae": "demo"} | options))

    assert connection.keys() == before


class Recording(FakeDecoder):
    """Notes what each call was, and holds so many pixels."""

    calls: list[tuple[str, int]]

    def decode(self, batch: Batch, *, mode: MemoryMode = MemoryMode.WHOLE) -> list[Decoded]:
        self.calls.append((batch.task if mode is MemoryMode.WHOLE else mode, len(batch.items)))
        return super().decode(batch, mode=mode)

    def encode(self, batch: Batch) -> list[Encoded]:
        self.calls.append((batch.task, len(batch.items)))
        return super().encode(batch)


def recording(**options: Any) -> Recording:
    decoder = Recording([Catalogue.load()["demo"]], **options)
    decoder.calls = []
    return decoder


def test_encodes_and_decodes_of_one_shape_share_a_queue_but_no_batch(farm: Farm, connection: redis.Redis) -> None:
    from vaefarm_worker.batching import batch_key

    decoded, encoded = farm.submit(LATENTS, vae="demo"), farm.encode(picture(), vae="demo")
    array = farm.encode(open_picture(picture(seed=2)), vae="demo")

    specs = [JobSpec.from_json(connection.hget(keys.job(job.id), "spec")) for job in (decoded, encoded, array)]  # type: ignore[arg-type]
    assert batch_key(specs[0]) != batch_key(specs[1]) == batch_key(specs[2])
    assert len({job.record().queue for job in (decoded, encoded, array)}) == 1


def test_encodes_share_batches_and_are_halved_where_there_is_no_room(farm: Farm, serve: Serve) -> None:
    jobs = [farm.encode(picture(seed=seed), vae="demo") for seed in range(2)]
    decoder = recording(memory_bytes=64 * 64 * 4096)

    serve(decoder)

    assert [job.status() for job in jobs] == ["finished"] * 2
    assert decoder.calls == [("encode", 2), ("encode", 1), ("encode", 1)]


def test_an_encode_that_fits_nowhere_fails_and_is_never_tiled(farm: Farm, settings: Settings, serve: Serve) -> None:
    job = farm.encode(picture(), vae="demo")
    decoder = recording(memory_bytes=1000)

    serve(decoder, settings=settings.model_copy(update={"tiling": True}))

    assert decoder.calls == [("encode", 1)]
    with pytest.raises(JobFailed, match="no room to encode 4096 pixels: .* no other worker that lives has room"):
        job.latents(timeout=10)


@pytest.mark.redis
def test_a_decode_only_worker_hands_encodes_back_and_another_takes_them(
    farm: Farm, connection: redis.Redis, start_worker: StartWorker
) -> None:
    halved = start_worker("--decoder", "fake", "--decode-only")
    encoded, decoded = farm.encode(picture(), vae="demo"), farm.submit(LATENTS, vae="demo")
    decoded.wait(timeout=30)

    eventually("it is handed back", lambda: encoded.record().last_error is not None)
    assert "only decodes (--decode-only): an encode goes to another" in str(encoded.record().last_error)
    assert encoded.status() == "queued"
    whole = start_worker("--decoder", "fake")

    assert encoded.latents(timeout=30).shape == (1, 4, 8, 8)
    record = encoded.record()
    assert (record.worker, record.attempts, decoded.record().worker) == (whole.name, 1, halved.name)


FORGED: list[tuple[dict[str, object], str]] = [
    ({"shape": [1, 4, 8, 16]}, "its spec says spatial latents of"),
    ({"layout": "packed"}, "its spec says packed latents of"),
    (
        {"width": 128, "shape": [1, 4, 8, 16]},
        "the image tensor is uint8 .1, 64, 64, 3.; its job says uint8 .1, 64, 128, 3",
    ),
    ({"height": 60}, "takes multiples of 8"),
    ({"dtype": "float32"}, "says 1 pictures of float32 in one file"),
    ({"from_file": False}, "cannot be read: latents are no safetensors file"),
    ({"count": 65, "shape": [65, 4, 8, 8]}, "at most 64"),
    ({"height": 400_000, "shape": [1, 4, 50_000, 8]}, "64 x 400000 = 25600000 pixels; at most 16777216"),
    ({"task": "decode"}, "latents have dtype uint8"),
]


@pytest.mark.parametrize(("changes", "named"), FORGED)
def test_a_spec_that_lies_about_its_picture_fails_by_name(
    farm: Farm, connection: redis.Redis, serve: Serve, changes: dict[str, object], named: str
) -> None:
    job = farm.encode(picture(), vae="demo")
    spec = json.loads(connection.hget(keys.job(job.id), "spec"))  # type: ignore[arg-type]
    connection.hset(keys.job(job.id), "spec", json.dumps(spec | changes))

    serve()

    assert job.status() == "failed"
    assert job.record().attempts == 0
    with pytest.raises(JobFailed, match=named):
        job.result(timeout=5)


def test_a_bomb_put_in_the_place_of_a_picture_is_refused_by_the_worker(
    farm: Farm, connection: redis.Redis, serve: Serve
) -> None:
    job = farm.encode(picture(), vae="demo")
    (key,) = connection.scan_iter("vaefarm:latent:*")
    connection.set(key, picture(512, 512), keepttl=True)

    serve()

    with pytest.raises(JobFailed, match="512 x 512 = 262144 pixels; at most 4096 are taken"):
        job.result(timeout=5)


def test_jobs_that_an_older_worker_can_do_are_written_for_it_and_encodes_are_not(
    farm: Farm, connection: redis.Redis
) -> None:
    decoded, encoded = farm.submit(LATENTS, vae="demo"), farm.encode(picture(), vae="demo")

    def version(job_id: str) -> int:
        return int(json.loads(connection.hget(keys.job(job_id), "spec"))["version"])  # type: ignore[arg-type]

    assert (version(decoded.id), version(encoded.id)) == (1, 2)


def test_room_is_reserved_for_latents_not_for_pictures(farm: Farm, connection: redis.Redis, serve: Serve) -> None:
    data = picture(256, 256)
    job = farm.encode(data, vae="demo")

    spec = JobSpec.from_json(connection.hget(keys.job(job.id), "spec"))  # type: ignore[arg-type]
    assert picture_bytes(spec) == 4 * 32 * 32 * 4 + FILE_BYTES
    assert int(connection.hget(keys.BUDGET, "bytes") or 0) == len(data) + picture_bytes(spec)
    serve()
    report = job.record().report
    assert report is not None
    assert report.latents is not None
    assert int(connection.hget(keys.BUDGET, "bytes") or 0) == report.latents.size_bytes <= picture_bytes(spec)


def test_latents_go_to_files_too_and_discard_removes_them(settings: Settings, tmp_path: Path, serve: Serve) -> None:
    in_files = settings.model_copy(update={"store": f"file://{tmp_path / 'blobs'}", "store_threshold": 1024})
    with Farm(settings=in_files) as farm:
        job = farm.encode(picture(256, 256), vae="demo")
        serve(settings=in_files)

        report = job.result(timeout=10).report
        assert report.latents is not None
        assert report.latents.blob.startswith("file:image:")
        assert job.latents().shape == (1, 4, 32, 32)
        job.discard()
    assert not [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()]


async def test_async_farm_encodes_too(farm_settings: Settings, serve: Serve) -> None:
    async with AsyncFarm(settings=farm_settings) as farm:
        job = await farm.encode(picture(), vae="demo", seed=1)
        serve()
        assert (await job.latents(timeout=10)).shape == (1, 4, 8, 8)
        with pytest.raises(InvalidOption, match="use latents()"):
            await job.image(timeout=10)


def test_an_encode_waits_in_the_spool_while_redis_is_away(settings: Settings, tmp_path: Path, serve: Serve) -> None:
    away = settings.at("redis://127.0.0.1:1/0")
    data = picture()
    with Farm(settings=away, spool=tmp_path / "spool") as farm:
        assert farm.encode(data, vae="demo", job_id="later").status() == "spooled"
    with Farm(settings=settings, spool=tmp_path / "spool") as farm:
        farm.flush(timeout=30)
        serve()
        assert farm.job("later").latents(timeout=10).shape == (1, 4, 8, 8)


def vaefarm(*arguments: object, url: str) -> "subprocess.CompletedProcess[str]":
    code = "import sys; from vaefarm_producer.cli import main; main()"
    command = [sys.executable, "-c", code, *map(str, arguments), "--redis", url]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@pytest.mark.slow
def test_the_command_writes_latents_that_submit_decodes(
    server: RedisServer, tmp_path: Path, start_worker: StartWorker
) -> None:
    (tmp_path / "photo.png").write_bytes(picture())
    start_worker("--decoder", "fake")
    out = tmp_path / "latents.safetensors"

    encoded = vaefarm("encode", tmp_path / "photo.png", "--vae", "demo", "--out", out, "--json", url=server.url)
    assert encoded.returncode == 0, encoded.stderr
    told = json.loads(encoded.stdout)
    assert (told["file"], told["shape"], told["dtype"]) == (str(out), [1, 4, 8, 8], "float32")

    decoded = vaefarm("submit", out, "--vae", "demo", "--out", tmp_path, url=server.url)
    assert decoded.returncode == 0, decoded.stderr
    assert open_picture((tmp_path / "latents.png").read_bytes()).shape == (64, 64, 3)

    fetched = vaefarm("fetch", told["id"], "--out", tmp_path, url=server.url)
    assert fetched.returncode == 0, fetched.stderr
    assert (tmp_path / f"{told['id']}.safetensors").read_bytes() == out.read_bytes()


@pytest.mark.parametrize(
    ("name", "content", "arguments", "named"),
    [
        ("missing.png", None, (), "cannot be read: No such file"),
        ("text.png", b"hello", (), "text.png: the picture begins with b'hello'"),
        ("odd.png", picture(60, 64), (), "nearest heights 56 and 64"),
        ("good.png", picture(), ("--out", "nowhere/x.safetensors"), "nowhere is no folder"),
    ],
)
def test_the_command_says_what_is_wrong_in_one_line(
    server: RedisServer, tmp_path: Path, name: str, content: bytes | None, arguments: tuple[str, ...], named: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)

    done = vaefarm("encode", tmp_path / name, "--vae", "demo", *arguments, url=server.url)

    assert done.returncode == 2
    assert named in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
