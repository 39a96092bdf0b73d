"""What is said to an endpoint, and what its reply is worth: the protocol of Hugging Face's remote VAEs, from the
client's side. No network here.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from vaefarm_shared.catalogue import Contract, VaeEntry
from vaefarm_shared.endpoints import EndpointEntry
from vaefarm_shared.job import JobSpec
from vaefarm_shared.latents import Latents

from ..decoder import Decoded


class BadReply(Exception):
    """A reply that is not what was asked for, though its status says that it is."""


@dataclass(frozen=True, slots=True)
class Question:
    """One request to an endpoint, for one picture, or for all of a job that must be decoded in one call."""

    params: tuple[tuple[str, str], ...]
    headers: Mapping[str, str]
    body: bytes
    #: Pictures that the reply must hold.
    count: int
    #: Bytes beyond which a reply is not read.
    most_bytes: int


def refusal(spec: JobSpec, entry: EndpointEntry) -> str | None:
    """Why an endpoint cannot be asked for a job, whatever state it is in; None where it can."""
    raise NotImplementedError


def questions(spec: JobSpec, latents: Latents, vae: VaeEntry, entry: EndpointEntry, *, plain: bool) -> list[Question]:
    """The requests that a job takes.

    Args:
        plain: Ask for pixels, whatever the job wants: steps follow that need them.
    """
    raise NotImplementedError


def read_reply(
    question: Question, spec: JobSpec, contract: Contract, status: int, headers: Mapping[str, str], body: bytes
) -> Decoded:
    """What came of one request, of `question.count` pictures.

    Raises:
        BadReply: content type, bytes, shape or file are not what was asked for.
    """
    raise NotImplementedError


def joined(parts: list[Decoded]) -> Decoded:
    """What the requests of one job gave, as one."""
    raise NotImplementedError
