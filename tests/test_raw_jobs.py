"""Raw tensors and explicit factors through `Farm`, on a real redis-server."""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
import torch
from diffusers import AutoencoderKL
from safetensors.numpy import load_file
from tests.conftest import Serve
from tests.producer.test_commands import vaefarm

from vaefarm_producer import AsyncFarm, Farm, InvalidOption, JobConflict, JobFailed, submission
from vaefarm_shared import keys, transitions
from vaefarm_shared.blobs import BlobStore
from vaefarm_shared.budget import held_bytes
from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.latents import from_tensor, pack
from vaefarm_shared.settings import Settings
from vaefarm_shared.unit import to_pixels
from vaefarm_worker.local_decoder import LocalDecoder

LATENTS = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
PIXELS = np.zeros((64, 64, 3), np.uint8)

#: Seconds that a job may take.
PATIENCE = 10


@pytest.fixture
def farm(farm_settings: Settings) -> Iterator[Farm]:
    """A farm over Redis, and over a gateway."""
    with Farm(settings=farm_settings) as one:
        yield one


@pytest.mark.redis
def test_a_raw_tensor_comes_back_under_its_job_id(farm: Farm, settings: Settings, serve: Serve) -> None:
    job = farm.submit(LATENTS, vae="sd-v1", output_type="pt", reproducible=True)
    serve(LocalDecoder([Catalogue.load(settings.catalogue)["sd-v1"]], "cpu"))

    with Farm(settings=settings) as elsewhere:
        result = elsewhere.job(job.id).result(PATIENCE)
    vae = AutoencoderKL.from_pretrained(Path(str(settings.catalogue)).parent / "sd-v1")
    with torch.no_grad():
        expected = vae.decode(LATENTS / vae.config.scaling_factor).sample.half()
    assert torch.equal(result.tensor.torch(), expected)
    assert np.array_equal(result.tensor.array, expected.numpy())
    assert result.report.tensor is not None
    assert (result.report.tensor.shape, result.report.tensor.dtype) == ((2, 3, 64, 64), "float16")
    assert result.report.tensor.size_bytes == len(result.data[0])
    assert (result.report.images, result.report.latents) == ((), None)


def test_it_is_what_the_async_farm_gives(farm: Farm, settings: Settings, serve: Serve) -> None:
    job = farm.submit(LATENTS, vae="demo", output_type="pt")
    serve()

    async def tensor() -> Any:
        async with AsyncFarm(settings=settings) as other:
            return await other.job(job.id).tensor(PATIENCE)

    assert np.array_equal(asyncio.run(tensor()).array, job.tensor(PATIENCE).array)


def test_each_kind_of_result_says_what_it_is_and_how_to_get_it(farm: Farm, serve: Serve) -> None:
    raw, pictures = farm.submit(LATENTS, vae="demo", output_type="pt"), farm.submit(LATENTS, vae="demo")
    latents = farm.encode(PIXELS, vae="demo")
    serve()

    refused: list[tuple[Callable[..., Any], str]] = [
        (raw.images, "with output_type='pt' and has a raw tensor, no pictures; use tensor()"),
        (lambda seconds: raw.image(seconds, index=0), "has a raw tensor, no pictures; use tensor()"),
        (raw.latents, "has a raw tensor, no latents; use tensor()"),
        (pictures.tensor, "is a decode and has pictures, no raw tensor; use images()"),
        (latents.tensor, "is an encode and has latents, no raw tensor; use latents()"),
    ]
    for call, said in refused:
        with pytest.raises(InvalidOption) as refusal:
            call(PATIENCE)
        assert said in str(refusal.value)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"output_type": "pt", "image_format": "png"}, "which no image_format is for; leave image_format out"),
    ({"output_type": "pt", "quality": 80}, "which no quality is for"),
    ({"output_type": "pt", "lossless": True}, "which no lossless is for"),
    ({"output_type": "np"}, "output_type='np': Input should be 'pil' or 'pt'"),
    ({"scaling_factor": 0}, "scaling_factor is 0"),
    ({"scaling_factor": float("nan")}, "scaling_factor=nan: Input should be a finite number"),
    ({"scaling_factor": 10**400}, "scaling_factor=.*: Input should be"),
    ({"scaling_factor": "0.5"}, "scaling_factor='0.5': Input should be a valid number"),
    ({"shift_factor": 0.1}, "shift_factor comes without scaling_factor"),
    ({"scaling_factor": 0.5, "normalised": False}, "contradict each other"),
]


@pytest.mark.parametrize(("options", "named"), REFUSED, ids=lambda one: str(one)[:60])
def test_options_that_contradict_are_refused_in_one_line_and_nothing_is_queued(
    farm: Farm, connection: redis.Redis, options: dict[str, Any], named: str
) -> None:
    before = connection.keys()

    with pytest.raises(InvalidOption, match=named) as refusal:
        farm.submit(LATENTS, vae="demo", **options)
    if "output_type" not in options:
        with pytest.raises(InvalidOption, match=named):
            farm.encode(PIXELS, vae="demo", **options)

    assert "\n" not in str(refusal.value)
    assert connection.keys() == before


def test_what_redis_is_not_given_is_refused_with_the_setting_that_takes_it(
    farm: Farm, connection: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vaefarm_shared.blobs.MAX_REDIS_BYTES", 2 * 2 * 3 * 64 * 64 - 1)

    with pytest.raises(InvalidOption, match=r"49152 bytes, and Redis is given at most .*VAEFARM_STORE=file:///DIR"):
        farm.submit(LATENTS, vae="demo", output_type="pt")

    assert farm.submit(LATENTS, vae="demo").status() == "queued", "pictures are as large as they turn out"
    assert len(list(connection.scan_iter(keys.job("*")))) == 1


def test_more_than_is_given_back_in_one_tensor_is_refused(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vaefarm_shared.job.MAX_TENSOR_BYTES", 2 * 2 * 3 * 64 * 64 - 1)
    # What was allowed before is remembered.
    submission._kept_template.cache_clear()

    with pytest.raises(InvalidOption, match=r"shape \(2, 3, 64, 64\), 49152 bytes; at most 49151 are given back"):
        farm.submit(LATENTS, vae="demo", output_type="pt")


def test_the_defaults_said_aloud_are_the_same_job_and_others_another(farm: Farm) -> None:
    farm.submit(LATENTS, vae="demo", job_id="a")
    farm.submit(LATENTS, vae="demo", job_id="a", output_type="pil", scaling_factor=None, shift_factor=None)
    farm.encode(PIXELS, vae="demo", job_id="e")
    farm.encode(PIXELS, vae="demo", job_id="e", normalised=True, scaling_factor=None)
    farm.submit(LATENTS, vae="demo", job_id="f", scaling_factor=1)
    farm.submit(LATENTS, vae="demo", job_id="f", scaling_factor=1.0)

    for options in ({"output_type": "pt"}, {"scaling_factor": 1.0}):
        with pytest.raises(JobConflict):
            farm.submit(LATENTS, vae="demo", job_id="a", **options)
    with pytest.raises(JobConflict):
        farm.encode(PIXELS, vae="demo", job_id="e", normalised=False)
    with pytest.raises(JobConflict):
        farm.submit(LATENTS, vae="demo", job_id="f", scaling_factor=1.0, shift_factor=0.0)


def test_the_digest_of_a_job_without_them_is_what_it_was_before_there_were_any(farm: Farm) -> None:
    zeros = np.zeros((1, 4, 8, 8), np.float32)

    decode = farm.prepare(zeros, vae="demo", image_format="webp", normalised=True)
    encode = farm.prepare_encode(PIXELS, vae="demo", seed=3)

    assert decode.spec.request_hash == "55cb7098368b48408341f0c6a404bc24"
    assert encode.spec.request_hash == "d854103160fd094964c93f2622cebd58"


def test_the_budget_holds_the_tensor_until_the_job_is_discarded_and_nothing_is_left(
    farm: Farm, connection: redis.Redis, serve: Serve
) -> None:
    job = farm.submit(LATENTS, vae="demo", output_type="pt")
    reserved = int(connection.hget(keys.BUDGET, "bytes") or 0)
    serve()
    size = len(job.result(PATIENCE).data[0])

    assert reserved >= size + LATENTS.nbytes
    assert int(connection.hget(keys.BUDGET, "bytes") or 0) == size
    # The script alone, without what a client removes after it.
    assert transitions.discard(connection, job.id) is not None
    assert int(connection.hget(keys.BUDGET, "bytes") or 0) == 0
    assert not list(connection.scan_iter("vaefarm:image:*"))


def test_a_tensor_above_the_threshold_goes_to_files(settings: Settings, serve: Serve, tmp_path: Path) -> None:
    with_files = settings.model_copy(update={"store": f"file://{tmp_path}/blobs", "store_threshold": 4096})
    with Farm(settings=with_files) as farm:
        job = farm.submit(LATENTS, vae="demo", output_type="pt")
        serve(settings=with_files)
        result = job.result(PATIENCE)
        assert result.report.tensor is not None
        assert result.report.tensor.blob.startswith("file:image:")
        assert result.tensor.shape == (2, 3, 64, 64)
        job.discard()
    assert not list((tmp_path / "blobs").glob("??/image-*"))


def test_in_files_one_tensor_reserves_one_blobs_worth(farm: Farm, connection: redis.Redis, tmp_path: Path) -> None:
    spec = farm.prepare(LATENTS, vae="demo", output_type="pt").spec

    assert held_bytes(spec, 0, BlobStore(connection, f"file://{tmp_path}", 4096)) == 4096


@pytest.mark.parametrize("farm_settings", ["redis"], indirect=True)
def test_a_plain_rq_job_may_want_a_tensor(farm: Farm, connection: redis.Redis, serve: Serve) -> None:
    import rq

    argument = farm.put_latent(LATENTS, vae="demo", output_type="pt", scaling_factor=0.5)
    assert (argument["version"], argument["output_type"]) == (3, "pt")
    queue = rq.Queue("vaefarm.demo", connection=connection, serializer=rq.serializers.JSONSerializer)
    queue.enqueue("vaefarm_worker.tasks.decode", argument, job_id=argument["id"])
    serve()

    assert farm.job(argument["id"]).tensor(PATIENCE).shape == (2, 3, 64, 64)


def test_a_job_written_to_redis_with_contradictions_fails_by_name(
    farm: Farm, connection: redis.Redis, serve: Serve
) -> None:
    job = farm.submit(LATENTS, vae="demo", output_type="pt")
    spec = json.loads(connection.hget(keys.job(job.id), "spec") or "{}") | {"image_format": "jpeg"}
    connection.hset(keys.job(job.id), "spec", json.dumps(spec))
    serve()

    with pytest.raises(JobFailed, match="spec is not valid: output_type='pt' makes no file of pictures"):
        job.tensor(PATIENCE)


def test_an_encode_as_the_encoder_gives_it_decodes_again_unscaled(farm: Farm, settings: Settings, serve: Serve) -> None:
    decoder = LocalDecoder([Catalogue.load(settings.catalogue)["sd-v1"]], "cpu")
    plain, scaled = farm.encode(PIXELS, vae="sd-v1", normalised=False), farm.encode(PIXELS, vae="sd-v1")
    serve(decoder)
    again = [
        farm.submit(plain.latents(PATIENCE), vae="sd-v1", normalised=False, reproducible=True),
        farm.submit(plain.latents(PATIENCE), vae="sd-v1", scaling_factor=1.0, reproducible=True),
    ]
    serve(decoder)

    assert np.allclose(plain.latents(PATIENCE).array * 0.18215, scaled.latents(PATIENCE).array, rtol=1e-5)
    pictures = [np.asarray(job.image(PATIENCE)) for job in again]
    assert np.array_equal(pictures[0], pictures[1])


def test_from_a_shell_a_tensor_is_a_safetensors_file(farm: Farm, serve: Serve, server: Any, tmp_path: Path) -> None:
    (tmp_path / "one.safetensors").write_bytes(pack(from_tensor(LATENTS)))
    done = vaefarm(
        "submit", str(tmp_path / "one.safetensors"), "--vae", "demo", "--no-wait", "--output-type", "pt", url=server.url
    )
    (job_id,) = done.stdout.split()
    serve()

    fetched = vaefarm("fetch", job_id, "--out", str(tmp_path / "out"), url=server.url)
    shown = vaefarm("status", job_id, url=server.url)

    assert fetched.stdout.split() == [str(tmp_path / "out" / f"{job_id}.safetensors")]
    (name, tensor), *_ = load_file(tmp_path / "out" / f"{job_id}.safetensors").items()
    assert (name, tensor.dtype.name, tensor.shape) == ("images", "float16", (2, 3, 64, 64))
    assert np.array_equal(to_pixels(tensor), to_pixels(farm.job(job_id).tensor(PATIENCE).array))
    assert "float16 (2, 3, 64, 64)" in shown.stdout
