"""`FarmDecodeStep`: the block of a modular pipeline that queues latents, in place of the one that decodes them. Needs
diffusers, which the pipeline has."""

from typing import Any, Unpack

from diffusers.modular_pipelines import InputParam, ModularPipelineBlocks, OutputParam

from vaefarm_shared.errors import InvalidOption

from .attaching import AttachOptions
from .farm import Farm
from .handle import Job
from .submission import check_options


class FarmDecodeStep(ModularPipelineBlocks):  # type: ignore[misc]
    """Queues a modular pipeline's latents, and gives the job as `job`:

        blocks = StableDiffusionXLAutoBlocks()
        blocks.sub_blocks["decode"] = FarmDecodeStep(farm, "sdxl")
        pipe = blocks.init_pipeline("stabilityai/stable-diffusion-xl-base-1.0")
        job = pipe(prompt="a cat", output="job")

    A pipeline of which no other block wants its VAE has none then: it is neither loaded nor kept.
    """

    def __init__(self, farm: Farm, vae: str, **options: Unpack[AttachOptions]) -> None:
        """Queue for a VAE id of the catalogue, with the options of `Farm.submit`.

        Raises:
            UnknownVae, InvalidOption, FarmUnavailable.
        """
        super().__init__()
        check_options(dict(options), AttachOptions)
        farm.contract(vae)
        self._farm = farm
        self._vae = vae
        self._options = options

    def __deepcopy__(self, memo: dict[int, Any]) -> "FarmDecodeStep":
        """A step of the same farm: pipelines copy their blocks, and connections are not copied."""
        return FarmDecodeStep(self._farm, self._vae, **self._options)

    @property
    def description(self) -> str:
        """For diffusers, which prints it."""
        return f"Step that queues the denoised latents for VAE {self._vae!r} of a vaefarm, and returns at once"

    @property
    def inputs(self) -> list[Any]:
        """What it takes from the pipeline's state."""
        return [
            InputParam("latents", required=True, description="The denoised latents, one frame of them, or packed."),
            InputParam("height", description="Pixels; needed for packed latents."),
            InputParam("width", description="Pixels; needed for packed latents."),
            InputParam("padding_mask_crop", description="Refused: a farm does not paste pictures."),
        ]

    @property
    def intermediate_outputs(self) -> list[Any]:
        """What it puts into the pipeline's state."""
        return [OutputParam("job", type_hint=Job, description="The job; its images() are the pipeline's pictures.")]

    def __call__(self, components: Any, state: Any) -> tuple[Any, Any]:
        """Submit the state's latents. Raises what `Farm.submit` raises."""
        block_state = self.get_block_state(state)
        if block_state.padding_mask_crop is not None:
            raise InvalidOption("padding_mask_crop pastes the decoded crop into the picture, which a farm does not do")
        latents = block_state.latents
        size = {"height": block_state.height, "width": block_state.width} if latents.ndim == 3 else {}
        block_state.job = self._farm.submit(latents, vae=self._vae, **size, **self._options)
        self.set_block_state(state, block_state)
        return components, state
