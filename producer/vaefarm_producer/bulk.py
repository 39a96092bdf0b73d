"""A `Farm`'s way with more latents than memory holds."""

import weakref
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal, TypeVar, Unpack, overload

from vaefarm_shared.errors import FarmError, InvalidOption
from vaefarm_shared.job import JobSpec

from .flow import WINDOW, Flow
from .handle import Job
from .previews import prepare_with_preview
from .result import Result
from .submission import DecodeOptions, PreparedJob, SubmitOptions, check_options, spec_of
from .transport import Transport

T = TypeVar("T")
R = TypeVar("R")

OnError = Literal["raise", "return"]


class Results(Iterator[R]):
    """What `Farm.map` gives. Dropping it, as a loop does that is left, cancels what is under way; so does `close`."""

    def __init__(self, flow: "Flow[Any, Result]", is_raised: bool) -> None:
        self._results: Generator[Any, None, None] = results(flow, is_raised)
        #: Have the thread that waits for the next raise Stopped; from any thread.
        self.stop = flow.stop
        # A program that ends with it under way cancels as well, while there are threads yet.
        weakref.finalize(self, close_unless_running, self._results)

    def __next__(self) -> R:
        one: R = next(self._results)
        return one

    def close(self) -> None:
        """Cancel what is under way."""
        self._results.close()


def close_unless_running(generator: Generator[Any, None, None]) -> None:
    """Close a generator, but for one that a thread goes through just now."""
    with suppress(ValueError):
        generator.close()


def results(flow: "Flow[Any, Result]", is_raised: bool) -> Generator[Result | FarmError, None, None]:
    """The result of each job, or its error, raised or given; both with their place."""
    outcomes = flow.outcomes()
    try:
        for outcome in outcomes:
            if outcome.error is None:
                assert outcome.value is not None
                yield replace(outcome.value, place=outcome.place)
                continue
            error = type(outcome.error)(f"latents {outcome.place}: {outcome.error}")
            error.place, error.__cause__ = outcome.place, outcome.error
            if is_raised:
                raise error
            yield error
    finally:
        outcomes.close()


class Bulk:
    """The half of `Farm` that goes through latents without end."""

    _transport: Transport
    #: Seconds for which what may be repeated is, while the farm is not reachable.
    _patience_seconds: float

    @overload
    def map(
        self,
        latents: Iterable[Any],
        *,
        vae: str,
        window: int = ...,
        ordered: bool = ...,
        on_error: Literal["raise"] = ...,
        timeout: float | None = ...,
        **options: Unpack[SubmitOptions],
    ) -> Results[Result]: ...

    @overload
    def map(
        self,
        latents: Iterable[Any],
        *,
        vae: str,
        window: int = ...,
        ordered: bool = ...,
        on_error: Literal["return"],
        timeout: float | None = ...,
        **options: Unpack[SubmitOptions],
    ) -> Results[Result | FarmError]: ...

    def map(self, latents: Iterable[Any], **options: Any) -> Any:
        """Decode latents one by one as they come, however many there are, and give their results.

        for result in farm.map(generate(), vae="sdxl"):
            result.images[0].save(f"{result.place}.png")

        What was given is discarded from the farm once the loop asks for the next; when it is left, or something is
        raised, what is under way is canceled. A full farm is waited for.

        Args:
            latents: As `submit` takes them. The next is taken only when fewer than `window` are under way.
            vae: As `submit`.
            window: Jobs that are under way at most: submitted, and their results not given yet.
            ordered: Give results in the order of their latents; else as they come. `result.place` says which it is.
            on_error: What is wrong with one of them (refused latents, a failed, canceled or expired job): 'raise' it at
                its place, or 'return' it there, with its `place`, and go on.
            timeout: Seconds for all.
            options: As `submit`.

        Raises:
            InvalidOption, UnknownVae: at once.
            InvalidLatents, JobFailed, JobCanceled, JobExpired, JobNotFound: at their place.
            WaitTimeout: `timeout` is over.
            FarmUnavailable, ConfigurationError: nothing more can be done.
        """
        return self.results(latents, **options)

    def results(
        self,
        latents: Iterable[Any],
        *,
        vae: str,
        window: int = WINDOW,
        ordered: bool = True,
        on_error: OnError = "raise",
        timeout: float | None = None,
        **options: Unpack[SubmitOptions],
    ) -> Results[Any]:
        """What `map` gives, with a way to stop it from another thread."""
        if on_error not in ("raise", "return"):
            raise InvalidOption(f"on_error={on_error!r}; expected 'raise' or 'return'")
        check_options(dict(options), SubmitOptions)
        self._transport.contract(vae)

        def prepared(tensor: Any) -> PreparedJob:
            return prepare_with_preview(tensor, vae, self._transport.contract, None, options)

        def fetched(_: Any, job: Job) -> Result:
            return job.fetch()

        flow = self.flow(latents, prepared, fetched, window=window, ordered=ordered, timeout=timeout)
        return Results(flow, on_error == "raise")

    def flow(
        self, items: Iterable[T], prepare: Callable[[T], PreparedJob], collect: Callable[[T, Job], R], **how: Any
    ) -> Flow[T, R]:
        """A flow of jobs made of items by `prepare`; `how` is as Flow has it."""
        return Flow(self._transport, items, prepare, collect, patience_seconds=self._patience_seconds, **how)

    def spec_of(self, shape: tuple[int, ...], dtype: str, *, vae: str, **options: Unpack[DecodeOptions]) -> JobSpec:
        """The spec of a decode of latents that are not read yet; id and digest are placeholders.

        Raises InvalidLatents, InvalidOption, UnknownVae as `submit`.
        """
        return spec_of(shape, dtype, vae, self._transport.contract(vae), options)
