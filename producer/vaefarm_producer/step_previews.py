"""Previews while a pipeline generates: each step's latents go to the farm on a thread of their own.

The generation is neither held up nor ended by anything that happens here. Of its thread a step takes a copy of its
latents on their own device, which is not waited for; of the farm's errors it hears nothing.
"""

import logging
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Final, TypedDict, cast

from vaefarm_shared.errors import FarmError, InvalidOption
from vaefarm_shared.job_ids import check_job_id

from .previews import id_of_preview, prepare_step
from .submission import DecodeOptions
from .transport import Transport

logger = logging.getLogger(__name__)

#: Seconds before what could not be sent, as a worker has an earlier one, is sent again: the first time, and at most.
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.02, 0.5

#: Seconds without a step after which the thread ends; another step begins one.
IDLE_SECONDS: Final[float] = 30.0

#: Seconds that `close` waits for what is being sent.
CLOSE_SECONDS: Final[float] = 1.0

#: Reads a copy of latents, on whatever device it is, into memory of this machine.
Read = Callable[[], Any]


class StepOptions(TypedDict, total=False):
    """What the previews of a generation may say; as the job that comes of it does."""

    height: int | None
    width: int | None
    producer: str
    priority: str


class StepPreviews(AbstractContextManager["StepPreviews"]):
    """What diffusers calls after each step (`callback_on_step_end`): `Farm.previews` makes it. Of one generation.

    Closing it ends it, and what was not sent yet never is. Left by an error, it removes the preview from the farm too.
    """

    def __init__(
        self, transport: Transport, job_id: str, vae: str, every: int = 1, options: StepOptions | None = None
    ) -> None:
        """Raises InvalidJobId, InvalidOption; what is wrong with latents or VAE is logged once they are sent."""
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise InvalidOption(f"every={every!r}; expected after how many steps there is a preview, 1 or more")
        id_of_preview(check_job_id(job_id))
        self.job_id = job_id
        self._transport = transport
        self._vae, self._every = vae, every
        self._options = cast("DecodeOptions", options or {})
        self._changed = threading.Condition()
        self._newest: Read | None = None
        self._thread: threading.Thread | None = None
        self._is_closed = self._has_sent = self._is_warned = False

    def __repr__(self) -> str:
        return f"StepPreviews({self.job_id!r}, vae={self._vae!r})"

    def __call__(self, pipeline: Any, step: int, timestep: Any, arguments: dict[str, Any]) -> dict[str, Any]:
        """Take a step's latents, as diffusers has it: of `callback_on_step_end_tensor_inputs` ["latents"]."""
        try:
            last = step + 1 == getattr(pipeline, "num_timesteps", None)
            if last or step % self._every == 0:
                self.send(arguments["latents"])
        except Exception as error:
            self._warn(error)
        return arguments

    def send(self, latents: Any) -> None:
        """Send latents unless newer ones come before; a torch tensor on any device, or a NumPy array."""
        read = copied(latents)
        with self._changed:
            if self._is_closed:
                return
            self._newest, self._has_sent = read, True
            self._changed.notify_all()
            if self._thread is None:
                name = f"vaefarm-previews-{self.job_id[:8]}"
                self._thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._thread.start()

    def close(self, *, drop: bool = False) -> None:
        """Send no more, and what waits not either. `drop`: remove what the farm has, too."""
        with self._changed:
            self._is_closed, self._newest = True, None
            self._changed.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(CLOSE_SECONDS)
        if drop and self._has_sent:
            dropping = threading.Thread(target=self._drop, name="vaefarm-previews-drop", daemon=True)
            dropping.start()
            dropping.join(CLOSE_SECONDS)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close(drop=kind is not None)

    def _run(self) -> None:
        while (read := self._next()) is not None:
            try:
                self._send(read)
            except Exception as error:
                self._warn(error)

    def _drop(self) -> None:
        try:
            self._transport.drop_preview(self.job_id)
        except Exception as error:
            self._warn(error)

    def _next(self) -> Read | None:
        """The newest latents; None once it is closed, or nothing came for long."""
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None or self._is_closed, IDLE_SECONDS)
            read, self._newest = self._newest, None
            if read is None and not self._is_closed:
                self._thread = None
            return read

    def _send(self, read: Read) -> None:
        """Send latents as often as a worker has earlier ones, unless newer ones come or it is closed."""
        contract = self._transport.contract(self._vae)
        job = prepare_step(read(), self._vae, contract, self.job_id, self._options)
        seconds = FIRST_WAIT_SECONDS
        while self._transport.put_preview(job) == "busy":
            with self._changed:
                if self._changed.wait_for(lambda: self._newest is not None or self._is_closed, seconds):
                    return
            seconds = min(2 * seconds, LONGEST_WAIT_SECONDS)

    def _warn(self, error: Exception) -> None:
        """Say what went wrong, once: a generation goes on without previews."""
        level = logging.DEBUG if self._is_warned else logging.WARNING
        self._is_warned = True
        unexpected = None if isinstance(error, FarmError) else error
        which = {"job_id": self.job_id}
        logger.log(level, "job %s has no preview: %s", self.job_id, error, exc_info=unexpected, extra=which)


def after(callback: Any, previews: StepPreviews) -> Any:
    """What is called after each step: the caller's own, if there is one, then the previews."""

    def both(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> Any:
        # What it gives back is the pipeline's business.
        answer = tensors if callback is None else callback(pipeline, step, timestep, tensors)
        previews(pipeline, step, timestep, answer if isinstance(answer, dict) and "latents" in answer else tensors)
        return answer

    return both


def with_latents(arguments: Mapping[str, Any]) -> list[str]:
    """The tensors that a pipeline tells of after each step: what the caller wants, and latents."""
    # A callback of diffusers' own says itself which.
    wanted = getattr(arguments["callback_on_step_end"], "tensor_inputs", None)
    wanted = wanted or arguments.get("callback_on_step_end_tensor_inputs") or []
    return [*wanted, *({"latents"} - set(wanted))]


def copied(latents: Any) -> Read:
    """Latents as they are now, read when they are needed: a pipeline may write the next step's over them."""
    if getattr(getattr(latents, "device", None), "type", "") != "cuda":
        copy = latents.detach().clone() if hasattr(latents, "detach") else latents.copy()
        return lambda: copy
    # Whoever has a tensor has imported it.
    torch: Any = sys.modules["torch"]
    copy = latents.detach().clone()
    done = torch.cuda.Event()
    done.record(torch.cuda.current_stream(latents.device))

    def read() -> Any:
        # On a stream of its own: on the generation's the copy would wait for the steps behind it as well.
        stream = torch.cuda.Stream(latents.device)
        with torch.cuda.stream(stream):
            stream.wait_event(done)
            copy.record_stream(stream)
            return copy.to("cpu")

    return read
