"""Who is let in: by the host that was called, the page that calls, the key or signed URL, and the key's rate.

In that order, and before any byte of a body is read.
"""

import base64
import binascii
import logging
from contextlib import nullcontext
from typing import Final

from aiohttp import web

from vaefarm_shared.errors import ConfigurationError, Unauthorized
from vaefarm_shared.job_ids import check_job_id

from .access import ADMIN, NOBODY, PRINCIPAL, SIGNED, Principal, need_admin
from .cors import ALLOWED_ORIGIN, add_cors_headers, options_answer
from .desk import desk_of
from .hosts import Hosts, is_loopback, name_of
from .key_cookie import key_in_cookie
from .key_ring import KeyRing
from .problems import Handler
from .rates import Rates
from .routes import Route, route_of, wants_page
from .settings import GatewaySettings
from .signing import TOKEN, signer_of

logger = logging.getLogger(__name__)

#: The setting `exposed_on` of a gateway that is called by those alone whom something in front of it lets in.
GUARDED: Final[str] = "guarded"


class Gate:
    """What is known of those who may call."""

    def __init__(self, bound: str, settings: GatewaySettings) -> None:
        """`bound`: the host that the gateway listens on.

        Raises:
            ConfigurationError: keys, hosts or origins are not what they should be, or others than this machine could
                connect without a key.
        """
        self.hosts = Hosts(bound, settings)
        self.ring = None if settings.keys is None else KeyRing(settings.keys)
        self.rates = Rates()
        public = None if settings.public_url is None else name_of(settings.public_url.partition("://")[2].split("/")[0])
        reached = [settings.exposed_on or bound, *([public] if public else [])]
        far = [name for name in reached if not is_loopback(name)]
        if self.ring is None and far and settings.exposed_on != GUARDED:
            raise ConfigurationError(
                f"{far[0]} can be called by others than this machine, which needs keys: `vaefarm keys add NAME --file"
                " keys.toml`, then VAEFARM_KEYS=keys.toml"
            )
        if self.ring is None and not is_loopback(bound):
            logger.warning("there are no keys: whoever reaches this gateway is an admin of the farm")


#: Where an application keeps its gate.
GATE: Final = web.AppKey("gate", Gate)


@web.middleware
async def admit(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let a request in, with its principal, or raise Forbidden, Unauthorized, TooManyRequests or FarmUnavailable."""
    gate = request.config_dict[GATE]
    gate.hosts.check_host(request)
    origin = gate.hosts.check_origin(request)
    if origin is not None:
        request[ALLOWED_ORIGIN] = origin
    if (answer := options_answer(request)) is not None:
        return answer
    if request.match_info.http_exception is not None:
        # 404 and 405: there is nothing behind it that a key would open.
        return await handler(request)
    route = route_of(request)
    if route is not None and (route.access == "open" or (route.access == "landing" and not wants_page(request))):
        request[PRINCIPAL] = NOBODY
        return await handler(request)
    if route is None or route.access != "admin":
        # Operators' answers have no signed URLs: figures are shown also while Redis is away.
        await signer_of(request).learn(desk_of(request))
    key = None if gate.ring is None else key_of(request)
    request[PRINCIPAL] = principal = identify(gate, route, request, key)
    if route is None or route.access == "admin":
        need_admin(request)
    await gate.rates.count(desk_of(request), principal)
    with nullcontext() if gate.ring is None or key is None else gate.ring.request(key):
        return await handler(request)


def identify(gate: Gate, route: Route | None, request: web.Request, key: str | None) -> Principal:
    """Who calls. Raises Unauthorized for no key or a wrong one, Forbidden for a signed URL that is not for this."""
    if key is not None and gate.ring is not None:
        if (found := gate.ring.find(key)) is None:
            raise Unauthorized("this key is none of this gateway's; `vaefarm keys add NAME` makes keys")
        return found
    if route is not None and route.access == "signed" and TOKEN in request.query:
        job_id = check_job_id(request.match_info["job_id"])
        signer_of(request).check(route.purpose, job_id, request.query[TOKEN])
        return SIGNED
    if gate.ring is None:
        return ADMIN
    raise Unauthorized("a key is needed: `Authorization: Bearer KEY`, or https://vaefarm:KEY@... as the address")


def key_of(request: web.Request) -> str | None:
    """The key that a request carries, of Bearer, of Basic, whose user may be anyone, or a page's cookie. Raises
    Unauthorized."""
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    match scheme.lower():
        case "":
            return key_in_cookie(request)
        case "bearer":
            return given.strip()
        case "basic":
            try:
                user, colon, password = base64.b64decode(given.strip(), validate=True).decode().partition(":")
            except (binascii.Error, UnicodeDecodeError) as error:
                raise Unauthorized("Authorization: Basic is followed by no base64 of `user:KEY`") from error
            del user, colon
            return password
    raise Unauthorized("Authorization is of no kind that is known; expected Bearer or Basic")


async def add_origin_headers(request: web.Request, answer: web.StreamResponse) -> None:
    """CORS headers, where the operator allows any origin."""
    if request.config_dict[GATE].hosts.any_origins:
        add_cors_headers(request, answer)
