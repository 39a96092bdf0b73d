"""Which transport a farm is reached by."""

from pathlib import Path

from vaefarm_shared.errors import ConfigurationError
from vaefarm_shared.settings import Settings

from .redis_transport import RedisTransport
from .transport import Transport


def open_transport(settings: Settings, spool: str | None) -> Transport:
    """The transport over a gateway where there is an address of one, else over Redis, with a spool where there is a
    folder for it. Raises ConfigurationError."""
    if settings.url is not None:
        if spool is not None:
            raise ConfigurationError("a spool is for farms over Redis; leave VAEFARM_SPOOL out, or VAEFARM_URL")
        # Here and not above: who has Redis starts sooner without it.
        from .http_transport import HttpTransport

        return HttpTransport(settings)
    if spool is None:
        return RedisTransport(settings)
    # Here and not above: it needs file locks and forks, which Windows has not.
    from .spooling_transport import SpoolingTransport

    return SpoolingTransport(settings, Path(spool))
