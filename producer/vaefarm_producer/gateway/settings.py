"""What an operator sets of a gateway, besides what every process of the farm is told."""

from pathlib import Path
from typing import Annotated

from pydantic import Field, SecretStr

from vaefarm_shared.settings import EnvironmentSettings

#: Names separated by commas.
Names = str


class GatewaySettings(EnvironmentSettings):
    """What flags of `vaefarm gateway` do not set. Each field is read from `VAEFARM_` and its name in capitals."""

    keys: Path | None = None
    """A TOML file of API keys, as `vaefarm keys add` writes it; needed where others than this machine can connect."""
    default_vae: str | None = None
    """The VAE of `POST /`, and the one whose worker `/ready` looks for; that of any worker unless given."""
    exposed_on: str | None = None
    """Where callers come from, if not by the address that is listened on: the host's address on which a container's
    port is published, of which a loopback one needs no keys; or `guarded`: what stands in front lets nobody else in."""
    allowed_hosts: Names = ""
    """Names by which clients may call the gateway, besides addresses, localhost and the name it is bound to."""
    allowed_origins: Names = ""
    """Origins whose pages may call the gateway (CORS), such as https://app.example; none unless given."""
    webhook_hosts: Names = ""
    """Hosts to which webhooks may go, such as `example.com` or `*.example.com`; none unless given."""
    secret: SecretStr | None = None
    """What signs URLs and webhooks, the same for every gateway of a farm; kept in Redis unless given."""
    public_url: str | None = None
    """The gateway's address as clients see it, such as https://farm.example; as they called it unless given."""
    wait_seconds: Annotated[float, Field(gt=0, le=3600)] = 300.0
    """Seconds for which one request waits at most for its job."""
    url_seconds: Annotated[int, Field(ge=1, le=7 * 24 * 3600)] = 3600
    """Seconds for which a signed URL is good."""
    direct_url_seconds: Annotated[int, Field(ge=1, le=7 * 24 * 3600)] = 300
    """Seconds for which a direct link to something in S3 is good."""
    store_public_url: Annotated[str, Field(pattern=r"^https?://[A-Za-z0-9.:\[\]-]+/?$")] | None = None
    """S3's address as clients see it, such as https://s3.example; as the gateway does unless given."""
    max_body_bytes: Annotated[int, Field(ge=1024)] = 512 * 1024 * 1024
    """Bytes of the largest request."""
    body_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Seconds within which a request's body must arrive, and one more for each 64 KiB that have arrived."""
    bodies_bytes: Annotated[int, Field(ge=1024)] = 1024 * 1024 * 1024
    """Bytes of request bodies that are held at a time; beyond it a request is asked to come again."""
    hf_scales: bool = False
    """Whether raw bytes of the Hugging Face protocol that say nothing of scaling are scaled by the VAE's constants."""
    hf_result_seconds: Annotated[int, Field(ge=1)] = 600
    """Seconds for which what came of a job of that protocol is kept, and the latents of one that failed."""


def names(text: Names) -> tuple[str, ...]:
    """The names of a list with commas, in lower case."""
    return tuple(name.strip().lower() for name in text.split(",") if name.strip())
