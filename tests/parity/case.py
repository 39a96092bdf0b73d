"""A case of parity: a real pipeline of diffusers, small and random, and what a user passes beside its latents."""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypeVar

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny

#: Constants with which pipelines turn latents into a decoder's input, and the values of them that change nothing.
NEUTRAL: Final[dict[str, float]] = {"scaling_factor": 1.0, "shift_factor": 0.0, "latents_mean": 0.0, "latents_std": 1.0}

Model = TypeVar("Model")


class LastStep:
    """A callback for the end of steps that keeps the last one's latents."""

    latents: torch.Tensor

    def __call__(self, _pipeline: Any, _step: int, _timestep: Any, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        self.latents = tensors["latents"]
        return {}


@dataclass(frozen=True)
class Case:
    """One pipeline, called twice with the same seed: for its pictures, and for its latents.

    Args:
        arguments: what the pipeline is called with; embeddings instead of a prompt, so that no tokenizer is needed.
        options: what a user passes to `Farm.submit` beside the latents and the VAE's id.
        entry: fields of the VAE's catalogue entry beside its path.
        from_callback: the latents are those of the last step, seen by `callback_on_step_end`, as for a pipeline whose
            `output_type="latent"` has other latents in it.
        needs_vae: the pipeline gives no latents without its VAE.
    """

    name: str
    vae_id: str
    pipeline: Any
    arguments: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    entry: Mapping[str, str] = field(default_factory=dict)
    from_callback: bool = False
    needs_vae: bool = False

    @property
    def vae(self) -> Any:
        """The pipeline's VAE."""
        return self.pipeline.vae

    def pictures(self) -> list[np.ndarray]:
        """(height, width, 3) uint8, or 4 channels with transparency: what the pipeline's own user gets."""
        return [np.asarray(picture) for picture in self.images("pil")]

    def latents(self) -> torch.Tensor:
        """The latents as the pipeline gives them: of its own shape, dtype and strides."""
        if not self.from_callback:
            images: torch.Tensor = self.images("latent")
            return images
        last = LastStep()
        self.images("latent", callback_on_step_end=last)
        return last.latents

    @property
    def constants(self) -> list[str]:
        """Names of what the VAE says that changes latents on their way to its decoder."""
        config = self.vae.config
        named = [name for name, value in NEUTRAL.items() if config.get(name) not in (None, value)]
        return [*named, "bn"] if hasattr(self.vae, "bn") else named

    def without(self, constant: str) -> "Case":
        """The same case where that constant leaves latents as they are."""
        pipeline = deepcopy(self.pipeline)
        if constant == "bn":
            pipeline.vae.bn.reset_running_stats()
        else:
            value = pipeline.vae.config[constant]
            neutral = NEUTRAL[constant]
            pipeline.vae.register_to_config(**{constant: neutral if np.ndim(value) == 0 else [neutral] * len(value)})
        return replace(self, pipeline=pipeline)

    def without_vae(self) -> "Case":
        """The same case on a machine that only generates."""
        return replace(self, pipeline=type(self.pipeline)(**(self.pipeline.components | {"vae": None})))

    def in_dtype(self, dtype: torch.dtype) -> "Case":
        """The same case with everything in that dtype, and a worker that decodes in it."""
        arguments = {name: _cast(value, dtype) for name, value in self.arguments.items()}
        entry = {"cpu_dtype": str(dtype).removeprefix("torch.")}
        return replace(self, pipeline=deepcopy(self.pipeline).to(dtype), arguments=arguments, entry=entry)

    def images(self, output_type: str, **more: Any) -> Any:
        """What the pipeline returns as its images."""
        self.pipeline.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(7)
        return self.pipeline(**self.arguments, generator=generator, output_type=output_type, **more).images


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, list):
        return [_cast(one, dtype) for one in value]
    return value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def random(seed: int, model: Callable[..., Model], **config: Any) -> Model:
    """A model with random weights, the same ones each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model(**config)


def embeddings(*shape: int) -> torch.Tensor:
    """Random embeddings of a prompt, the same ones each time."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def masked_prompt(features: int) -> dict[str, torch.Tensor]:
    """A prompt for pipelines that take a mask of its tokens with it."""
    return {"prompt_embeds": embeddings(1, 4, features), "prompt_attention_mask": torch.ones(1, 4, dtype=torch.int64)}


def call_arguments(**more: Any) -> dict[str, Any]:
    """What pipelines without tokens are called with: two steps, no guidance, a portrait format."""
    return {"num_inference_steps": 2, "guidance_scale": 1.0, "height": 96, "width": 64} | more


def vivid(vae: Any, last_layer: Any, *shape: int) -> Any:
    """The VAE with a louder last layer, found with latents of `shape`: a random VAE's pictures are grey otherwise."""
    with torch.no_grad():
        spread = vae.decode(2 * embeddings(*shape)).sample.std()
        last_layer.weight.mul_(0.5 / spread)
        last_layer.bias.mul_(0.5 / spread)
    return vae.eval()


def tiny_kl(channels: int, **config: Any) -> Any:
    """A small AutoencoderKL: four blocks, so a factor of 8 as in the real ones."""
    vae: Any = random(
        channels,
        AutoencoderKL,
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        latent_channels=channels,
        norm_num_groups=4,
        **config,
    )
    return vivid(vae, vae.decoder.conv_out, 1, channels, 8, 8)


def flux_kl() -> Any:
    """A small VAE with the constants of Flux.1's, which other families took over."""
    return tiny_kl(16, scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False)


def tiny_autoencoder(channels: int) -> Any:
    """A small AutoencoderTiny: the class of TAESD, TAESDXL, TAESD3 and TAEF1."""
    widths = (8, 8, 8, 8)
    vae: Any = random(
        channels,
        AutoencoderTiny,
        latent_channels=channels,
        encoder_block_out_channels=widths,
        decoder_block_out_channels=widths,
    )
    last = vae.decoder.layers[-1]
    vivid(vae, last, 1, channels, 8, 8)
    with torch.no_grad():
        # The class makes 2x - 1 of it.
        last.bias.add_(0.5)
    return vae
