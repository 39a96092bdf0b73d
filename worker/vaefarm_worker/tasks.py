"""The function that RQ's job hash names: a wire contract (`vaefarm_shared.rq_bridge.JOB_FUNCTION`)."""

from typing import Any


def decode(spec: dict[str, Any] | None = None) -> None:
    """Never run: a `vaefarm worker` knows the job by its id. Raises for a plain `rq worker`, which cannot decode.

    Args:
        spec: What `Farm.put_latent` returned, for a job that is enqueued by RQ alone.
    """
    raise RuntimeError("this job is a vaefarm decode: start `vaefarm worker` for its queue, not `rq worker`")
