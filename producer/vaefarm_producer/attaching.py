"""`Farm.attach`: a diffusers pipeline whose calls return jobs. Imports neither torch nor diffusers."""

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Unpack, cast

from vaefarm_shared.catalogue import Contract
from vaefarm_shared.errors import InvalidOption
from vaefarm_shared.job_ids import new_job_id

from .call_metadata import call_metadata, fitting
from .call_options import CallOptions, call_options
from .handle import Job
from .pipeline_kinds import VIDEO_KINDS, Kind, check_kind, check_previews, kind_of
from .previews import check_family
from .step_previews import StepOptions, StepPreviews, after, with_latents
from .submission import JobOptions, SubmitOptions, check_options
from .transport import Transport

if TYPE_CHECKING:
    from .farm import Farm


class AttachOptions(JobOptions, total=False):
    """What the jobs of an attached pipeline may say; `Farm.submit` explains each."""

    job_id: str | None
    block: bool
    timeout: float | None
    image_format: str
    quality: int | None
    lossless: bool
    tiling: bool
    preview: str | None
    video_format: str
    fps: float | None
    seed: int | None


class Attached:
    """A pipeline whose calls return jobs: `Farm.attach` makes it. It holds nothing but what it was made of."""

    def __init__(
        self,
        farm: "Farm",
        pipeline: Any,
        vae: str,
        kind: Kind,
        contract: Contract,
        record_call: bool,
        every: int,
        options: AttachOptions,
    ) -> None:
        self.pipeline = pipeline
        self._contract = contract
        self._every = every
        self._farm = farm
        self._vae = vae
        self._kind = kind
        self._record_call = record_call
        self._options = options

    def __repr__(self) -> str:
        return f"Attached({type(self.pipeline).__name__}, vae={self._vae!r})"

    def __call__(self, *arguments: Any, **options: Any) -> Job:
        """Generate latents with what the pipeline is called with, and queue them.

        Returns:
            One job, however many pictures the call makes: `job.images()` are what the pipeline's `.images` would be,
            `job.videos()` the files of its `.frames`.

        Raises:
            InvalidOption: `output_type` or `return_dict` was given, or what its latents do not say is not known:
                nothing was generated. `padding_mask_crop` too: a farm does not paste pictures.
            InvalidLatents and what else `Farm.submit` raises: nothing was queued.
        """
        call = inspect.signature(type(self.pipeline).__call__).bind(self.pipeline, *arguments, **options)
        for name in ("output_type", "return_dict"):
            if name in call.arguments:
                raise InvalidOption(f"{name} was given to an attached pipeline, which returns a job; leave it out")
        if call.arguments.get("padding_mask_crop") is not None:
            raise InvalidOption(
                "padding_mask_crop pastes the decoded crop into the picture, which a farm does not do; leave it out, or"
                " put FarmVAE in the place of the pipeline's VAE"
            )
        call.apply_defaults()
        said = call_options(self.pipeline, self._kind, self._contract, call.arguments)
        options_of_job = self._described(call.arguments)
        call.arguments["output_type"] = "latent"
        call.arguments["return_dict"] = True
        preview = self._options.get("preview")
        if preview is None:
            return self._submit(call, said, options_of_job)
        job_id = self._options.get("job_id") or new_job_id()
        with self._farm.previews(job_id, vae=preview, every=self._every, **self._step_options(said)) as previews:
            call.arguments["callback_on_step_end_tensor_inputs"] = with_latents(call.arguments)
            call.arguments["callback_on_step_end"] = after(call.arguments["callback_on_step_end"], previews)
            return self._submit(call, said, {**options_of_job, "job_id": job_id}, previews)

    def _submit(
        self,
        call: inspect.BoundArguments,
        said: CallOptions,
        options: AttachOptions,
        previews: StepPreviews | None = None,
    ) -> Job:
        made = self.pipeline(*call.args[1:], **call.kwargs)
        latents = made.frames if self._kind in VIDEO_KINDS else made.images
        if previews is not None:
            # The job's own preview is of these latents; none of a step before may come after it.
            previews.close()
        # What `attach` was told counts for more than what the call says.
        all_options = cast("SubmitOptions", {**said, **options})
        return self._farm.submit(latents, vae=self._vae, **all_options)

    def _step_options(self, said: CallOptions) -> StepOptions:
        """What previews of steps say as the job will."""
        found: StepOptions = {}
        if self._kind == "packed":
            found["height"], found["width"] = said["height"], said["width"]
        if "producer" in self._options:
            found["producer"] = self._options["producer"]
        if "priority" in self._options:
            found["priority"] = self._options["priority"]
        return found

    def _described(self, said: Mapping[str, Any]) -> AttachOptions:
        """The job's options, whose metadata tell of the call besides; what was given stays."""
        if not self._record_call:
            return self._options
        metadata = fitting(call_metadata(self.pipeline, said), self._options.get("metadata"))
        return {**self._options, "metadata": metadata}


class Attaching:
    """The half of `Farm` that pipelines of diffusers meet."""

    _transport: Transport

    def contract(self, vae: str) -> Contract:
        """What latents for a VAE look like: channels, pixels a latent, layouts, limits. Raises UnknownVae."""
        return self._transport.contract(vae)

    def attach(
        self,
        pipeline: Any,
        *,
        vae: str,
        latents: Kind | None = None,
        record_call: bool = True,
        preview_every: int = 1,
        **options: Unpack[AttachOptions],
    ) -> Attached:
        """A callable that takes what the pipeline takes and returns a job instead of pictures:

            generate = farm.attach(pipe, vae="sdxl")
            jobs = [generate(prompt) for prompt in prompts]  # each is decoded while the next is generated
            for job in farm.as_completed(jobs): ...

        The pipeline may have been loaded with `vae=None`, is not changed, and costs nothing to attach again with other
        options: `farm.attach(pipe, vae="sdxl", job_id=name)(prompt)`.

        Args:
            pipeline: A pipeline of diffusers, one of docs/pipelines.md's.
            vae: A VAE id of the catalogue.
            latents: What an unknown pipeline returns with `output_type="latent"`: 'spatial', 'packed', 'binned',
                'denormalised', 'video' or 'video_tokens'. Told by the class unless given.
            record_call: Put prompts, steps, guidance, the generator's seed, scheduler and model into each job's
                metadata, and so into its pictures; what `metadata` says stays as it is.
            preview_every: With `preview`: after how many steps there is one, while the pipeline generates, under the id
                that the job will have (`job_id`, for whoever must know it before).
            options: As `submit`; with `reproducible=True` the pictures are the pipeline's own, bit for bit.

        Raises:
            InvalidOption: the pipeline's latents are not known; or it denormalises them with its VAE, and has none; or
                there can be no previews of its steps; or it makes videos and the VAE pictures, or the reverse.
            UnknownVae: no such VAE.
        """
        kind = kind_of(pipeline) if latents is None else check_kind(latents)
        if kind == "denormalised" and pipeline.vae is None:
            raise InvalidOption(
                f"{type(pipeline).__name__} makes its latents with its VAE's statistics, and has no VAE; keep it, or"
                " put FarmVAE in its place"
            )
        check_options(dict(options), AttachOptions)
        contract = self.contract(vae)
        _check_makes(pipeline, kind, vae, contract, options)
        if (preview := options.get("preview")) is not None:
            # First what no other preview's VAE would change.
            check_previews(pipeline, kind)
            check_family(vae, contract, preview, self.contract(preview))
        return Attached(cast("Farm", self), pipeline, vae, kind, contract, record_call, preview_every, options)

    def previews(
        self, job_id: str | None = None, *, vae: str, every: int = 1, **options: Unpack[StepOptions]
    ) -> StepPreviews:
        """What diffusers calls after each step, and sends its latents as previews of a job that is yet to come:

            with farm.previews(job_id, vae="taesdxl") as previews:
                latents = pipe(prompt, output_type="latent", callback_on_step_end=previews).images
            job = farm.submit(latents, vae="sdxl", job_id=job_id)

        It costs the generation a copy of the latents on their device, and never ends it: errors are logged once.
        Of the steps that were not sent yet the newest is.

        Args:
            job_id: The id that the job will have, drawn unless given: `previews.job_id`.
            vae: The id of a VAE that takes the same latents, and is quick.
            every: After how many steps there is a preview.
            options: `height` and `width` of packed latents, as the pipeline got them; `producer` and `priority`.

        Raises:
            InvalidJobId, InvalidOption: as said.
        """
        check_options(dict(options), StepOptions)
        return StepPreviews(self._transport, new_job_id() if job_id is None else job_id, vae, every, options)


def _check_makes(pipeline: Any, kind: Kind, vae: str, contract: Contract, options: AttachOptions) -> None:
    """Raise InvalidOption unless pipeline and VAE make the same: pictures, or videos, of which some options are."""
    name, of_videos = type(pipeline).__name__, kind in VIDEO_KINDS
    if of_videos != (contract.temporal_scale is not None):
        made, other = ("videos", "pictures") if of_videos else ("pictures", "videos")
        raise InvalidOption(f"a {name} makes {made}, and VAE {vae!r} {other}; attach it with the id of its own VAE")
    if (wrong := sorted({"video_format", "fps", "seed"} & set(options))) and not of_videos:
        raise InvalidOption(f"{wrong[0]} is for videos; a {name} makes pictures: leave it out")
