"""Checked jobs as the body of `POST /v1/batches`."""

from collections.abc import Sequence
from typing import Any, Final
from uuid import uuid4

from pydantic_core import to_json

from vaefarm_shared.job import JobSpec

from .encoding import EncodeOptions
from .submission import PreparedJob, SubmitOptions

#: What of a spec a gateway is told; the rest it finds out from the bytes.
TOLD: Final = {"vae", "task", *SubmitOptions.__annotations__, *EncodeOptions.__annotations__} - {"height", "width"}

OPTIONS_HEAD: Final = b'\r\nContent-Disposition: form-data; name="options"\r\nContent-Type: application/json\r\n\r\n'
LATENTS_HEAD: Final = b'\r\nContent-Disposition: form-data; name="latents"\r\nContent-Type: %s\r\n\r\n'


def batch_body(jobs: Sequence[PreparedJob]) -> tuple[bytes, str]:
    """The body and its content type: for each job its options, then its bytes."""
    boundary = uuid4().hex
    start = f"--{boundary}".encode()
    pieces: list[bytes] = []
    for job in jobs:
        kind = b"application/octet-stream" if job.spec.from_file else b"application/safetensors"
        said = options_of(job.spec) | ({} if job.preview is None else {"preview": job.preview.spec.vae})
        options = to_json(said)
        pieces += (start, OPTIONS_HEAD, options, b"\r\n", start, LATENTS_HEAD % kind, job.packed, b"\r\n")
    return b"".join((*pieces, start, b"--\r\n")), f"multipart/form-data; boundary={boundary}"


def options_of(spec: JobSpec) -> dict[str, Any]:
    """The options from which a gateway makes the same spec of the same bytes."""
    options = spec.model_dump(include=TOLD, exclude_defaults=True)
    if spec.task == "decode":
        # What a pipeline got: the size of the finished picture.
        options["height"], options["width"] = spec.picture_size
    return {"id": spec.id, **options}
