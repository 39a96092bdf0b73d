"""The function that RQ's job hash names: a wire contract (`vaefarm_shared.rq_bridge.JOB_FUNCTION`)."""


def decode(job_id: str) -> None:
    """Never run: a `vaefarm worker` knows the job by its id. Raises for a plain `rq worker`, which cannot decode."""
    raise RuntimeError(f"job {job_id} is a vaefarm decode: start `vaefarm worker` for it, not `rq worker`")
