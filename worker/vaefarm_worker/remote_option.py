"""`--remote`: which endpoints a worker asks."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from vaefarm_shared.catalogue import Catalogue
from vaefarm_shared.endpoints import EndpointEntry
from vaefarm_shared.errors import ConfigurationError

if TYPE_CHECKING:
    from .remote.remote_decoder import RemoteVae

#: The variable whose value is sent as bearer token to the addresses that --remote gives.
TOKEN_ENV: Final[str] = "VAEFARM_REMOTE_TOKEN"

#: What separates several in one variable: a comma, since addresses may hold one, only before another ID= or ID.
SEPARATOR: Final = re.compile(r",(?=[A-Za-z0-9_-]+=|[A-Za-z_][A-Za-z0-9_-]*(?:,|$))")


def remote_vaes(catalogue: Catalogue, options: Sequence[str], *, allow_http: bool = False) -> "list[RemoteVae]":
    """The VAEs and endpoints that `VAE=URL` and `VAE` name; the latter is for the catalogue's endpoints.

    Args:
        allow_http: Whether http:// is taken for other machines than this one.

    Raises:
        UnknownVae: the catalogue has no such VAE.
        ConfigurationError: no URL, http:// where it is not allowed, or a VAE without endpoints in the catalogue.
    """
    found: dict[str, list[EndpointEntry]] = {}
    for option in (one.strip() for text in options for one in SEPARATOR.split(text)):
        vae, given, url = option.partition("=")
        entry = catalogue[vae]
        if given:
            found.setdefault(vae, []).append(endpoint_of(vae, url, allow_http))
        elif entry.endpoints:
            found.setdefault(vae, []).extend(
                one.model_copy(update={"allow_http": one.allow_http or allow_http}) for one in entry.endpoints
            )
        else:
            raise ConfigurationError(
                f"--remote {vae}: the catalogue has no endpoints of it; expected --remote {vae}=https://HOST/PATH, or"
                f" [[vaes.{vae}.endpoints]] with `url` in the catalogue"
            )
    for vae, endpoints in found.items():
        for one in endpoints:
            if not one.is_safe:
                raise ConfigurationError(
                    f"endpoint {one.shown_url} of VAE {vae!r} would be sent latents and tokens unencrypted; expected"
                    " https://, or http:// to this machine; --allow-http takes it all the same"
                )
    if not found:
        return []
    # Here and not above: a worker without endpoints needs no HTTP.
    from .remote.remote_decoder import RemoteVae

    return [RemoteVae(catalogue[vae], told_apart(endpoints)) for vae, endpoints in found.items()]


def told_apart(endpoints: Sequence[EndpointEntry]) -> tuple[EndpointEntry, ...]:
    """The endpoints of one VAE, each once; the second of a name is called so too: records and figures go by it."""
    names: Counter[str] = Counter()
    found = []
    for one in dict.fromkeys(endpoints):
        names[one.shown_name] += 1
        count = names[one.shown_name]
        found.append(one if count == 1 else one.model_copy(update={"name": f"{one.shown_name}-{count}"}))
    return tuple(found)


def endpoint_of(vae: str, url: str, allow_http: bool) -> EndpointEntry:
    """The endpoint at an address that the command line gives."""
    try:
        token_env = TOKEN_ENV if os.environ.get(TOKEN_ENV) else None
        return EndpointEntry(url=url, token_env=token_env, allow_http=allow_http)
    except ValidationError as error:
        # The address may hold a password: it is not repeated.
        raise ConfigurationError(f"--remote {vae}=...: {error.errors()[0]['msg']}") from None
