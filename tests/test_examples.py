"""The examples themselves, on tiny random pipelines: each picture is, bit for bit, the pipeline's own."""

import io
from importlib.util import module_from_spec, spec_from_file_location
from itertools import count
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import redis
import torch
from aiohttp.test_utils import TestClient, TestServer
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxAutoBlocks,
    FluxPipeline,
    FluxTransformer2DModel,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from tests.conftest import RedisServer, StartWorker, eventually, save_kl
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from vaefarm_producer import Farm
from vaefarm_shared import keys, latents

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parent.parent / "examples"


def example(name: str) -> ModuleType:
    spec = spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def clip_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer of single letters: made here, since nothing is downloaded."""
    letters = [chr(code) for code in range(33, 127)]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: place for place, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


def t5_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of words, in the place of T5's: what it tells apart does not matter here."""
    tokens = ["<pad>", "</s>", "<unk>", "ice", "cream", "in", "a"]
    tokenizer = Tokenizer(models.WordLevel({token: place for place, token in enumerate(tokens)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=64
    )


def clip_text_model(vocabulary: int) -> CLIPTextModel:
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=32,
            intermediate_size=37,
            num_hidden_layers=2,
            num_attention_heads=4,
            projection_dim=32,
            bos_token_id=vocabulary - 2,
            eos_token_id=vocabulary - 1,
        )
    ).eval()


@pytest.fixture(scope="module")
def stable_diffusion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion with random weights, saved as diffusers saves it."""
    root = tmp_path_factory.mktemp("sd")
    save_kl(root / "vae", channels=4, seed=1, scaling_factor=0.18215)
    torch.manual_seed(0)
    tokenizer = clip_tokenizer()
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=32,
        attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    StableDiffusionPipeline(
        vae=AutoencoderKL.from_pretrained(root / "vae"),
        text_encoder=clip_text_model(len(tokenizer)),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(root / "pipeline")
    return root / "pipeline"


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Flux.1 with random weights, saved as diffusers saves it."""
    root = tmp_path_factory.mktemp("flux")
    constants = {"scaling_factor": 0.3611, "shift_factor": 0.1159}
    save_kl(root / "vae", channels=16, seed=3, use_quant_conv=False, use_post_quant_conv=False, **constants)
    torch.manual_seed(0)
    tokenizer = clip_tokenizer()
    transformer = FluxTransformer2DModel(
        patch_size=1,
        in_channels=64,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=False,
    )
    t5 = T5EncoderModel(T5Config(vocab_size=7, d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4)).eval()
    FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=AutoencoderKL.from_pretrained(root / "vae"),
        text_encoder=clip_text_model(len(tokenizer)),
        tokenizer=tokenizer,
        text_encoder_2=t5,
        tokenizer_2=t5_tokenizer(),
        transformer=transformer,
    ).save_pretrained(root / "pipeline")
    return root / "pipeline"


@pytest.fixture
def decoding(
    server: RedisServer,
    start_worker: StartWorker,
    stable_diffusion: Path,
    flux: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker that serves both pipelines' own VAEs, found by the environment as the examples find it."""
    catalogue = tmp_path / "pipelines.toml"
    entries = {"sd-v1": stable_diffusion, "flux": flux}
    catalogue.write_text(
        "".join(f'[vaes.{vae}]\npath = "{path}"\nsubfolder = "vae"\n' for vae, path in entries.items())
    )
    monkeypatch.setenv("VAEFARM_REDIS_URL", server.url)
    start_worker("--catalogue", str(catalogue), vaes="sd-v1,flux")


def pixels(image: Any) -> np.ndarray:
    return np.asarray(image.convert("RGB"))


def stable_diffusion_picture(folder: Path, prompt: str, seed: int) -> np.ndarray:
    """What the pipeline makes with its VAE in place."""
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    generator = torch.Generator("cpu").manual_seed(seed)
    images = pipe(prompt=prompt, num_inference_steps=2, height=64, width=64, generator=generator).images
    return pixels(images[0])


SMALL = ["--device", "cpu", "--dtype", "float32", "--steps", "2", "--reproducible"]


def test_stable_diffusion_gives_the_pipelines_picture(decoding: None, stable_diffusion: Path, tmp_path: Path) -> None:
    module, out = example("stable_diffusion"), tmp_path / "picture.png"

    module.main([*SMALL, "--model", str(stable_diffusion), "--size", "64", "--seed", "7", "--out", str(out)])

    assert np.array_equal(pixels(Image.open(out)), stable_diffusion_picture(stable_diffusion, module.PROMPT, 7))


def test_flux_gives_the_pipelines_picture(decoding: None, flux: Path, tmp_path: Path) -> None:
    module, out = example("flux"), tmp_path / "picture.png"
    size = ["--height", "96", "--width", "64"]

    module.main([*SMALL, *size, "--model", str(flux), "--seed", "7", "--out", str(out)])

    pipe = FluxPipeline.from_pretrained(flux)
    generator = torch.Generator("cpu").manual_seed(7)
    own = pipe(
        prompt=module.PROMPT, guidance_scale=0.0, num_inference_steps=2, height=96, width=64, generator=generator
    ).images[0]
    assert own.size == (64, 96)
    assert np.array_equal(pixels(Image.open(out)), pixels(own))


def test_queueing_gives_each_of_the_pipelines_pictures(decoding: None, stable_diffusion: Path, tmp_path: Path) -> None:
    module, out = example("queueing"), tmp_path / "pictures"

    module.main([*SMALL, "--model", str(stable_diffusion), "--size", "64", "--seed", "20", "--out", str(out)])

    assert len(module.PROMPTS) == len(list(out.iterdir())) == 6
    for place, prompt in enumerate(module.PROMPTS):
        own = stable_diffusion_picture(stable_diffusion, prompt, 20 + place)
        assert np.array_equal(pixels(Image.open(out / f"{place}.png")), own), prompt


def test_queueing_has_each_latent_decoded_while_the_next_is_generated(
    decoding: None,
    connection: redis.Redis,
    stable_diffusion: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each generation but the first is held until the pictures of all before it are made: no clock decides."""
    generate, begun = StableDiffusionPipeline.__call__, count()

    def finished() -> int:
        return [connection.hget(key, "status") for key in connection.keys(keys.job("*"))].count(b"finished")

    def held(*arguments: Any, **options: Any) -> Any:
        before = next(begun)
        assert len(connection.keys(keys.job("*"))) == before, "each latent is submitted before the next generation"
        eventually(f"{before} pictures are made while the next latent is not", lambda: finished() == before)
        return generate(*arguments, **options)

    monkeypatch.setattr(StableDiffusionPipeline, "__call__", held)
    small = [*SMALL, "--model", str(stable_diffusion), "--size", "64", "--out", str(tmp_path / "pictures")]

    example("queueing").main(small)

    assert next(begun) == 6


def test_attach_gives_each_of_the_pipelines_pictures(decoding: None, stable_diffusion: Path, tmp_path: Path) -> None:
    module, out = example("attach"), tmp_path / "pictures"
    model = ["--model", str(stable_diffusion), "--vae", "sd-v1", "--size", "64", "--seed", "20", "--out", str(out)]

    module.main(["ice cream", "a glass", *SMALL, *model])

    assert sorted(path.name for path in out.iterdir()) == ["0.png", "1.png"]
    for place, prompt in enumerate(["ice cream", "a glass"]):
        own = stable_diffusion_picture(stable_diffusion, prompt, 20 + place)
        assert np.array_equal(pixels(Image.open(out / f"{place}.png")), own), prompt


def test_farm_vae_gives_the_pipelines_picture_within_a_level(
    decoding: None, stable_diffusion: Path, tmp_path: Path
) -> None:
    sketch, out = tmp_path / "sketch.png", tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)).save(sketch)
    model = ["--model", str(stable_diffusion), "--seed", "7", "--out", str(out)]

    example("farm_vae").main([str(sketch), "ice cream", *SMALL, *model])

    pipe = StableDiffusionImg2ImgPipeline.from_pretrained(stable_diffusion)
    generator = torch.Generator("cpu").manual_seed(7)
    own = pipe("ice cream", image=Image.open(sketch), num_inference_steps=2, generator=generator).images[0]
    assert np.abs(np.subtract(pixels(Image.open(out)), pixels(own), dtype=int)).max() <= 1


def test_modular_gives_the_modular_pipelines_picture(decoding: None, flux: Path, tmp_path: Path) -> None:
    module, out = example("modular"), tmp_path / "picture.png"
    size = ["--height", "96", "--width", "64"]

    module.main(["ice cream", *SMALL, *size, "--model", str(flux), "--seed", "7", "--out", str(out)])

    pipe = FluxAutoBlocks().init_pipeline(str(flux))
    pipe.load_components()
    generator = torch.Generator("cpu").manual_seed(7)
    options = {"prompt": "ice cream", "guidance_scale": 0.0, "num_inference_steps": 2, "height": 96, "width": 64}
    own = pipe(**options, generator=generator, output="images")[0]
    assert np.array_equal(pixels(Image.open(out)), pixels(own))


async def test_the_web_service_gives_each_prompt_its_picture(decoding: None, stable_diffusion: Path) -> None:
    module = example("web_service")
    options = module.parse(["--model", str(stable_diffusion), "--size", "64", "--steps", "2", "--device", "cpu"])
    pipe, seeds = StableDiffusionPipeline.from_pretrained(stable_diffusion, vae=None), count(20)

    def seeded(prompt: str, **arguments: Any) -> Any:
        return pipe(prompt, **arguments, generator=torch.Generator("cpu").manual_seed(next(seeds)))

    async with TestClient(TestServer(module.Service(seeded, options).app())) as client:
        assert (await client.post("/pictures")).status == 400
        assert (await client.get("/pictures/nobodys")).status == 404
        prompts = ["ice cream", "a glass"]
        urls = [(await (await client.post("/pictures", params={"prompt": one})).json())["url"] for one in prompts]
        for place, (prompt, url) in enumerate(zip(prompts, urls, strict=True)):
            while (answer := await client.get(url, params={"wait": "5"})).status == 202:
                assert (await answer.json())["status"] in ("generating", "queued", "started")
            assert answer.content_type == "image/png"
            shown = pixels(Image.open(io.BytesIO(await answer.read())))
            own = stable_diffusion_picture(stable_diffusion, prompt, 20 + place)
            assert np.abs(np.subtract(shown, own, dtype=int)).max() <= 1, prompt


def test_a_thousand_files_to_try_are_told_apart(tmp_path: Path) -> None:
    example("make_latents").main([str(tmp_path), "--count", "1000"])

    files = sorted(tmp_path.iterdir())
    assert len(files) == 1000
    assert len({file.read_bytes() for file in files}) == 1000
    planned, metadata = latents.read_file(files[7], 2**20)
    assert tuple(planned.shape)[:2] == (1, 4)
    assert metadata["seed"] == "7"
    assert " " in metadata["prompt"]


def test_several_pictures_in_one_job_are_the_pipelines_pictures(decoding: None, stable_diffusion: Path) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(stable_diffusion)
    options = {"prompt": "ice cream", "num_images_per_prompt": 2, "num_inference_steps": 2, "height": 64, "width": 64}
    own = pipe(**options, generator=torch.Generator("cpu").manual_seed(7)).images
    latents = pipe(**options, generator=torch.Generator("cpu").manual_seed(7), output_type="latent").images

    with Farm.from_env() as farm:
        images = farm.submit(latents, vae="sd-v1", reproducible=True).images(timeout=60)

    assert len(images) == len(own) == 2
    assert not np.array_equal(pixels(own[0]), pixels(own[1]))
    for image, expected in zip(images, own, strict=True):
        assert np.array_equal(pixels(image), pixels(expected))
