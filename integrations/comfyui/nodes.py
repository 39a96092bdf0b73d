"""The nodes: decode and encode, and a decode in two halves, submit and collect.

Their methods are coroutines: ComfyUI (0.3.45 and later) runs other nodes while they wait, so that in one prompt the
next sampler starts while the farm decodes.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Final

import torch

from vaefarm_producer import FarmError, InvalidOption, Job, JobCanceled, JobExpired, JobFailed, JobNotFound, Result

from . import tensors
from .farms import FARMS
from .waiting import ended, forget, on_thread, submitted
from .widgets import OTHER_VAE, OUTPUT, TIMEOUT, TIMEOUT_SECONDS, URL, chosen, patience, vae_widget

Inputs = dict[str, dict[str, Any]]


class VaefarmError(RuntimeError):
    """What ComfyUI's dialog shows: one line."""


@contextmanager
def one_line() -> Iterator[None]:
    """Say a farm's error as one line. They name no key and no password."""
    try:
        yield
    except FarmError as error:
        raise VaefarmError(f"vaefarm: {error}") from None


@dataclass(frozen=True)
class Handle:
    """A VAEFARM_JOB: a job, and the node that submitted it."""

    job: Job
    node: str


#: For each Submit node how many of its jobs came to nothing. ComfyUI keeps a node's output for as long as its inputs
#: stay what they are; this is one, so that after a failure the next prompt submits anew.
LOST: Final[Counter[str]] = Counter()


async def submit_decode(samples: dict[str, Any], vae: str, url: str, output: str) -> Job:
    """Queue the latents of a LATENT. Raises what `Farm.submit` does."""

    def submit() -> Job:
        farm = FARMS.at(url)
        contract = farm.contract(vae)
        latents = tensors.latents_of(samples, contract)
        options = tensors.decode_arguments(vae, contract, latents)
        options["output_type"] = "pt" if output == "tensor" else "pil"
        return farm.submit(latents, vae=vae, **options)

    return await submitted(submit)


async def result_of(job: Job, timeout: float) -> Result:
    """What came of a job. Raises what `Job.result` does, and ComfyUI's InterruptProcessingException."""
    await ended(job, patience(timeout))
    return await on_thread(job.fetch)


def image_of(result: Result) -> torch.Tensor:
    """The IMAGE of a decode. Raises InvalidOption for an encode."""
    if result.report.tensor is not None:
        return tensors.image_of_tensor(result.tensor.torch())
    return tensors.image_of_pictures(result.images)


class VaefarmDecode:
    """LATENT -> IMAGE, by a farm."""

    CATEGORY: ClassVar[str] = "vaefarm"
    DESCRIPTION: ClassVar[str] = "Decodes latents on a vaefarm farm, and waits; other nodes run meanwhile."
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ("IMAGE",)
    FUNCTION: ClassVar[str] = "decode"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {"samples": ("LATENT",), **vae_widget()},
            "optional": {**OTHER_VAE, **OUTPUT, **URL, **TIMEOUT},
        }

    async def decode(
        self,
        samples: dict[str, Any],
        vae: str,
        other_vae: str = "",
        output: str = "picture",
        url: str = "",
        timeout: float = TIMEOUT_SECONDS,
    ) -> tuple[torch.Tensor]:
        """Decode, and leave nothing on the farm, unless the job failed: `vaefarm failed` tells of it then."""
        with one_line():
            job = await submit_decode(samples, chosen(vae, other_vae), url, output)
            result = await taken(job, timeout)
            return (image_of(result),)


class VaefarmSubmit:
    """LATENT -> a job; returns as soon as the farm has it."""

    CATEGORY: ClassVar[str] = "vaefarm"
    DESCRIPTION: ClassVar[str] = (
        "Queues latents on a vaefarm farm and returns at once. Collect gives the picture: in this prompt by the job, in"
        " a later one, or in another ComfyUI, by its id."
    )
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ("VAEFARM_JOB", "STRING")
    RETURN_NAMES: ClassVar[tuple[str, ...]] = ("job", "job_id")
    FUNCTION: ClassVar[str] = "submit"
    # A prompt may end here.
    OUTPUT_NODE: ClassVar[bool] = True

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {
            "required": {"samples": ("LATENT",), **vae_widget()},
            "optional": {**OTHER_VAE, **OUTPUT, **URL},
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    @classmethod
    def IS_CHANGED(cls, unique_id: str = "", **_others: Any) -> int:
        """How many of this node's jobs came to nothing: another number is another output."""
        return LOST[unique_id]

    async def submit(
        self,
        samples: dict[str, Any],
        vae: str,
        other_vae: str = "",
        output: str = "picture",
        url: str = "",
        unique_id: str = "",
    ) -> dict[str, Any]:
        """The job and its id, which the prompt's history has as the node's `text`."""
        with one_line():
            job = await submit_decode(samples, chosen(vae, other_vae), url, output)
            return {"ui": {"text": (job.id,)}, "result": (Handle(job, unique_id), job.id)}


class VaefarmCollect:
    """A job -> IMAGE, waited for."""

    CATEGORY: ClassVar[str] = "vaefarm"
    DESCRIPTION: ClassVar[str] = "Waits for a job that Submit queued, and gives its picture; it stays on the farm."
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ("IMAGE",)
    FUNCTION: ClassVar[str] = "collect"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        by_id = {"tooltip": "A job's id, from Submit in another prompt. Leave it empty where `job` is connected."}
        return {
            "required": {},
            "optional": {
                "job": ("VAEFARM_JOB",),
                "job_id": ("STRING", {"default": "", **by_id}),
                **URL,
                **TIMEOUT,
            },
        }

    async def collect(
        self, job: Handle | None = None, job_id: str = "", url: str = "", timeout: float = TIMEOUT_SECONDS
    ) -> tuple[torch.Tensor]:
        """Cancel ends a connected job as well; one that is named by its id lives on."""
        job_id = job_id.strip()
        with one_line():
            if (job is None) == (not job_id):
                raise InvalidOption("Collect takes either a job, connected to it, or a job_id; it has both or neither")
            if job is None:
                return (image_of(await result_of(FARMS.at(url).job(job_id), timeout)),)
            try:
                return (image_of(await result_of(job.job, timeout)),)
            except (JobFailed, JobCanceled, JobExpired, JobNotFound) as error:
                LOST[job.node] += 1
                raise type(error)(f"{error}; queue the prompt once more to submit it anew") from None
            except BaseException as error:
                if is_interrupt(error):
                    LOST[job.node] += 1
                    forget(job.job)
                raise


class VaefarmEncode:
    """IMAGE -> LATENT, by a farm."""

    CATEGORY: ClassVar[str] = "vaefarm"
    DESCRIPTION: ClassVar[str] = (
        "Encodes pictures on a vaefarm farm, and waits; other nodes run meanwhile. The latents are the mode of the"
        " encoder's posterior: the same picture gives the same latents."
    )
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ("LATENT",)
    FUNCTION: ClassVar[str] = "encode"

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        return {"required": {"pixels": ("IMAGE",), **vae_widget()}, "optional": {**OTHER_VAE, **URL, **TIMEOUT}}

    async def encode(
        self, pixels: torch.Tensor, vae: str, other_vae: str = "", url: str = "", timeout: float = TIMEOUT_SECONDS
    ) -> tuple[dict[str, torch.Tensor]]:
        """Encode, and leave nothing on the farm, unless the job failed."""
        with one_line():
            vae = chosen(vae, other_vae)
            farm = FARMS.at(url)
            contract = await on_thread(partial(farm.contract, vae))

            def submit() -> Job:
                image = tensors.pixels_of(pixels, contract)
                return farm.encode(image, vae=vae, **tensors.encode_options(vae, contract))

            result = await taken(await submitted(submit), timeout)
            return ({"samples": tensors.from_encoder(result.latents.torch(), contract)},)


async def taken(job: Job, timeout: float) -> Result:
    """What came of a job that nobody else knows: it leaves nothing on the farm, unless it failed."""
    try:
        result = await result_of(job, timeout)
    except JobFailed:
        raise
    except BaseException:
        forget(job)
        raise
    forget(job)
    return result


def is_interrupt(error: BaseException) -> bool:
    """Whether it says that the user has canceled the prompt; which base it has depends on ComfyUI's version."""
    return type(error).__name__ == "InterruptProcessingException"


NODE_CLASS_MAPPINGS: Final[dict[str, type]] = {
    "VaefarmDecode": VaefarmDecode,
    "VaefarmSubmit": VaefarmSubmit,
    "VaefarmCollect": VaefarmCollect,
    "VaefarmEncode": VaefarmEncode,
}

NODE_DISPLAY_NAME_MAPPINGS: Final[dict[str, str]] = {
    "VaefarmDecode": "VAE Decode (vaefarm)",
    "VaefarmSubmit": "VAE Decode: submit (vaefarm)",
    "VaefarmCollect": "VAE Decode: collect (vaefarm)",
    "VaefarmEncode": "VAE Encode (vaefarm)",
}
