"""Remote endpoints that decode: how an operator names them (`EndpointEntry`), and what a worker tells of them
(`EndpointState`). docs/remote_endpoints.md is their manual.
"""

import re
from ipaddress import ip_address
from typing import Annotated, Any, Final, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from .job import Factor, Name

#: Generations of the protocol that a worker speaks: raw bytes with parameters in the query (today's), and JSON with
#: base64 and parameters (the first).
Protocol = Literal["v2", "v1"]

#: closed: it is asked; open: it failed, and is left alone; half-open: one known latent tries whether it works again.
Circuit = Literal["closed", "open", "half-open"]

#: Pixels of the largest picture that Hugging Face's endpoints decode: 2048 x 2048.
HF_MAX_PIXELS: Final[int] = 2048 * 2048

#: Hosts that are this machine.
LOOPBACK_NAMES: Final = frozenset({"localhost", "localhost.localdomain", "ip6-localhost"})


class EndpointEntry(BaseModel):
    """One endpoint of a VAE: `[[vaes.ID.endpoints]]` of the catalogue."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    #: http://HOST/PATH or https://; a user and password in it are sent as they are there, and never shown.
    url: Annotated[str, Field(repr=False)]
    #: What it is called in records, logs and figures; its host unless given.
    name: Name | None = None
    #: The environment variable whose value is sent as bearer token.
    token_env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    protocol: Protocol = "v2"
    #: Requests that it is asked at a time by one worker.
    concurrency: Annotated[int, Field(ge=1, le=1024)] = 8
    #: Pixels of the largest picture that it is asked for.
    max_pixels: Annotated[int, Field(ge=1)] = HF_MAX_PIXELS
    #: What it is told to scale by; the VAE's own entry unless given, and where that has none the endpoint's own.
    scaling_factor: Factor | None = None
    shift_factor: Factor | None = None
    #: Whether its files are kept as they come where the job wants just such a file.
    pass_through: bool = True
    connect_seconds: Annotated[float, Field(gt=0, le=3600)] = 5.0
    #: Seconds without a byte, once it has begun to answer.
    read_seconds: Annotated[float, Field(gt=0, le=3600)] = 30.0
    #: Seconds for a whole request.
    timeout_seconds: Annotated[float, Field(gt=0, le=86400)] = 120.0
    #: Whether a request that takes longer than 95 of 100 others is sent to another endpoint too.
    hedge: bool = False
    #: Whether http:// is taken for another machine than this one.
    allow_http: bool = False

    @field_validator("url")
    @classmethod
    def _is_url(cls, url: str) -> str:
        if re.search(r"\s", url):
            raise PydanticCustomError("url", "expected https://HOST/PATH without spaces")
        try:
            parts = urlsplit(url)
            is_whole = bool(parts.hostname) and not parts.fragment and parts.port != 0
        except ValueError:
            # Not in its words: they repeat what stands where a port should, which may be of a password.
            is_whole = False
        if not is_whole or parts.scheme not in ("http", "https"):
            raise PydanticCustomError(
                "url",
                "expected https://HOST/PATH, or http:// for this machine, its password's / : @ as %2F %3A %40",
            )
        return url

    @model_validator(mode="after")
    def _scales(self) -> "EndpointEntry":
        """Refuse factors that no request could say."""
        why = wrong_factors(self.scaling_factor, self.shift_factor)
        if self.scaling_factor is not None and self.protocol == "v1":
            why = "protocol v1 has no word for scaling_factor; leave it out: its servers scale by their own"
        if why is not None:
            raise PydanticCustomError("contradiction", "{why}", {"why": why})
        return self

    @property
    def shown_url(self) -> str:
        """The URL as it may be shown: without user, password and query."""
        parts = urlsplit(self.url)
        return SplitResult(parts.scheme, _place(parts), parts.path, "", "").geturl()

    @property
    def shown_name(self) -> str:
        """The name, or host and port."""
        return self.name or _place(urlsplit(self.url))

    @property
    def is_safe(self) -> bool:
        """Whether what is sent can be read on no network: https, or this machine; or the operator said so."""
        parts = urlsplit(self.url)
        return parts.scheme == "https" or self.allow_http or _is_loopback(parts.hostname or "")


class EndpointState(BaseModel):
    """How one endpoint does, as the worker that asks it tells in its description (`endpoints`)."""

    # Infinity is a number to json, and none in JSON.
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    vae: str
    name: str
    #: Without user, password and query.
    url: str
    state: Circuit
    #: Until when, Unix seconds, it is left alone since it said so (429, 503 with Retry-After); 0 where it did not.
    resting_until: float = 0.0
    in_flight: int = 0
    concurrency: int = 1
    #: Requests so far that gave a picture, and those that did not for the endpoint's sake.
    succeeded: int = 0
    failed: int = 0
    #: Of those, what is counted of the last hundred requests: failed / all.
    error_rate: float = 0.0
    #: Of the last hundred pictures; None while there is none.
    latency_p50_seconds: float | None = None
    latency_p95_seconds: float | None = None
    #: The last trouble, in one line without secrets; '' where there was none.
    last_error: str = ""


def wrong_factors(scaling_factor: float | None, shift_factor: float | None) -> str | None:
    """Why nothing can be scaled by these; None where it can, or there are none."""
    if scaling_factor == 0:
        return "scaling_factor is 0; expected the number that latents are divided by"
    if scaling_factor is None and shift_factor is not None:
        return "shift_factor comes without scaling_factor; expected both, or neither"
    return None


def read_endpoints(description: dict[str, Any]) -> list[EndpointState]:
    """The endpoints in a worker's description; those that another release wrote otherwise are left out."""
    found = []
    listed = description.get("endpoints")
    for raw in listed if isinstance(listed, list) else []:
        try:
            found.append(EndpointState.model_validate(raw))
        except ValidationError:
            continue
    return found


def _place(parts: SplitResult) -> str:
    host = parts.hostname or ""
    shown = f"[{host}]" if ":" in host else host
    return shown + (f":{parts.port}" if parts.port else "")


def _is_loopback(host: str) -> bool:
    if host.lower() in LOOPBACK_NAMES:
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
