"""Settings: one frozen object, read from `VAEFARM_*` by entry points only."""

import re
from typing import Annotated, Self

from pydantic import AfterValidator, AliasChoices, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from .errors import ConfigurationError
from .logs import LogFormat
from .store_url import read_store_url


def _checked_store(url: str) -> str:
    """The URL of a store, without what another Redis' may hold. Raises InvalidStore, which shows no password."""
    read_store_url(url)
    return "redis://" if url.startswith("redis:") else url


#: Where a store is; nothing in it is secret.
StoreName = Annotated[str, AfterValidator(_checked_store)]


class EnvironmentSettings(BaseSettings):
    """Settings of which each is read from `VAEFARM_` and its name in capitals."""

    # A compose file gives a variable that its operator left out as an empty one.
    model_config = SettingsConfigDict(
        env_prefix="VAEFARM_", frozen=True, extra="ignore", populate_by_name=True, env_ignore_empty=True
    )

    @classmethod
    def from_env(cls, **overrides: object) -> Self:
        """Read the environment; `overrides` that are not None win.

        Raises:
            ConfigurationError: a variable does not hold what it should; names variable and expectation.
        """
        try:
            return cls(**{name: value for name, value in overrides.items() if value is not None})
        except ValidationError as error:
            first = error.errors()[0]
            place = "_".join(str(part) for part in first["loc"]).upper()
            variable = place if place.startswith("VAEFARM_") else f"VAEFARM_{place}"
            given = first["input"]
            # An address may hold a password, also where none is wanted.
            shown = masked(given) if isinstance(given, str) else given
            raise ConfigurationError(f"{variable}={shown!r}: {first['msg']}") from error


class Settings(EnvironmentSettings):
    """What flags do not set. Each field is read from `VAEFARM_` and its name in capitals."""

    redis_url: SecretStr = SecretStr("redis://localhost:6379/0")
    """Where the queue is: redis://, rediss:// or unix://, with redis-py's options (ssl_ca_certs ...) as its query; its
    password is never printed."""
    redis_wait: Annotated[float, Field(ge=0)] = 60.0
    """Seconds for which a worker, gateway or reaper that starts waits for Redis; then it ends."""
    url: SecretStr | None = None
    """A gateway's address, https://HOST: producers reach the farm over it, and need no Redis."""
    key: SecretStr | None = None
    """The key for that gateway, unless the address holds it; it is never printed."""
    trust_env: bool = False
    """Whether a gateway is reached through the proxy that HTTPS_PROXY or HTTP_PROXY names."""
    store: Annotated[StoreName, Field(validation_alias=AliasChoices("VAEFARM_STORE", "VAEFARM_BLOBS"))] = "redis://"
    """Where latents and pictures above `store_threshold` lie: `file:///DIR`, `s3://BUCKET/PREFIX`, or `redis://` as the
    others. VAEFARM_BLOBS was its name."""
    store_threshold: Annotated[
        int, Field(ge=0, validation_alias=AliasChoices("VAEFARM_STORE_THRESHOLD", "VAEFARM_BLOB_THRESHOLD"))
    ] = 64 * 1024
    """Bytes above which a blob goes outside of Redis, where `store` names a place there. VAEFARM_BLOB_THRESHOLD was its
    name."""
    catalogue: str | None = None
    """A TOML file that adds VAEs to the built-in catalogue, or points its entries at local folders."""
    submit_timeout: Annotated[float, Field(gt=0)] = 30.0
    """Seconds for which a submit is repeated while Redis is away."""
    lease_seconds: Annotated[float, Field(ge=1)] = 6.0
    """Seconds after which the jobs of a silent worker go to another."""
    max_attempts: Annotated[int, Field(ge=1)] = 3
    """Decodes that a job is given before it has failed."""
    decode_timeout: Annotated[float, Field(gt=0)] = 300.0
    """Seconds after which a decode counts as hung, unless twenty times its estimate is more."""
    drain_seconds: Annotated[float, Field(ge=0)] = 30.0
    """Seconds that a stopping worker may take to finish what is on the device; the rest is handed back."""
    batch_pixels: Annotated[int, Field(ge=1)] | None = None
    """Output pixels of the largest batch; what the device's memory holds unless given."""
    batch_window: Annotated[float, Field(ge=0, le=60)] = 0.0
    """Seconds that an idle device waits for a batch to fill."""
    encode_threads: Annotated[int, Field(ge=1, le=64)] | None = None
    """Threads that write PNG, JPEG and WebP while the device decodes; by the machine's processors unless given."""
    embed_metadata: bool = True
    """Whether a worker writes jobs' metadata into their files; a job may keep its own out."""
    exact: bool = False
    """Whether a worker decodes and encodes every job as a reproducible one."""
    tiling: bool = False
    """Whether what the device has no room for may be decoded in tiles, which changes it visibly."""
    budget_bytes: Annotated[int, Field(ge=1)] | None = None
    """Bytes of Redis that latents and pictures may take; 60 % of its maxmemory, else 2 GiB, unless given."""
    max_queued_jobs: Annotated[int, Field(ge=1)] = 1_000_000
    """Jobs that may wait or be in hand at a time."""
    after_decode: str | None = None
    """Entry points of the group `vaefarm.after_decode`, separated by commas, that each picture goes through."""
    allow_eviction: bool = False
    """Whether a Redis whose maxmemory-policy evicts is taken, though it deletes acknowledged jobs."""
    spool: str | None = None
    """A folder in which submits wait while Redis is away."""
    log_format: LogFormat = LogFormat.TEXT
    """How workers, gateways and reapers log: text, or json: one object a line."""

    def at(self, url: str, key: str | None = None) -> "Settings":
        """These settings with the farm at another place: Redis, or with https:// or http:// a gateway.

        Raises ConfigurationError for a key with Redis, whose URL holds its password.
        """
        if url.lower().startswith(("https://", "http://")):
            return self.model_copy(update={"url": SecretStr(url), "key": SecretStr(key) if key else self.key})
        if key is not None:
            raise ConfigurationError("a key is for a gateway, https://HOST; Redis' password belongs into its URL")
        return self.model_copy(update={"redis_url": SecretStr(url), "url": None})


def masked(url: str) -> str:
    """A URL as it may be printed: its password, if any, replaced by `***`, also of a URL that cannot be read."""
    hidden = re.sub(r"^([a-zA-Z]+://)?([^:@/]*):.*@", r"\1\2:***@", url, flags=re.DOTALL)
    return re.sub(r"([?&][a-z_]*password=)[^&]*", r"\1***", hidden)
