"""Where an endpoint is asked, as whom, and what of that is never shown."""

import base64
import os
import re
from collections.abc import Mapping
from typing import Final
from urllib.request import getproxies, proxy_bypass

from pydantic import SecretStr
from yarl import URL

from vaefarm_shared.endpoints import EndpointEntry
from vaefarm_shared.errors import ConfigurationError

#: Characters of a text of others that are shown.
SHOWN_CHARACTERS: Final[int] = 200

#: Characters from which on a user's name, or a value of the query, is taken for a secret.
SECRET_CHARACTERS: Final[int] = 4


class Address:
    """An endpoint's URL without user and password, the header that takes their place, and the proxy on the way."""

    def __init__(self, entry: EndpointEntry, *, trust_env: bool = False) -> None:
        """Read the token's variable.

        Raises:
            ConfigurationError: no URL, neither https nor this machine, a variable that is not set, or two ways to say
                who asks.
        """
        name = entry.shown_name
        try:
            url = URL(entry.url)
        except ValueError:
            raise ConfigurationError(f"endpoint {name}: its URL cannot be read; expected https://HOST/PATH") from None
        if not entry.is_safe:
            raise ConfigurationError(
                f"endpoint {name}: {entry.shown_url} is not https, so that anybody on the way reads latents and tokens;"
                " use https, or set allow_http = true"
            )
        self.url: Final[URL] = url.with_user(None)
        self._authorization = _authorization(name, url, entry.token_env)
        self._proxy = _proxy(url) if trust_env else None
        self._secrets = _secrets(url, self._authorization, self._proxy)

    def __repr__(self) -> str:
        return f"Address({self.url.with_query(None)})"

    @property
    def headers(self) -> Mapping[str, str]:
        """Who asks; empty where nobody is named."""
        found = {"Authorization": self._authorization.get_secret_value()} if self._authorization else {}
        return found if self.url.scheme == "https" else found | self._proxy_authorization

    @property
    def proxy(self) -> URL | None:
        """The proxy without user and password."""
        return self._proxy.with_user(None) if self._proxy else None

    @property
    def proxy_headers(self) -> Mapping[str, str]:
        """Who asks the proxy, for a tunnel alone: without TLS it reads the request's own headers."""
        return self._proxy_authorization if self.url.scheme == "https" else {}

    @property
    def _proxy_authorization(self) -> dict[str, str]:
        if self._proxy is None or self._proxy.user is None:
            return {}
        return {"Proxy-Authorization": _basic(self._proxy)}

    def clean(self, text: str) -> str:
        """A text of others in one line that is not long, without secrets."""
        for secret in self._secrets:
            text = text.replace(secret.get_secret_value(), "***")
        line = " ".join(re.sub(r"[^\x20-\x7e\xa0-\uffff]", " ", text).split())
        return line if len(line) <= SHOWN_CHARACTERS else line[: SHOWN_CHARACTERS - 1] + "…"


def _authorization(name: str, url: URL, token_env: str | None) -> SecretStr | None:
    if token_env is None:
        return SecretStr(_basic(url)) if url.user is not None or url.password is not None else None
    if url.user is not None or url.password is not None:
        raise ConfigurationError(f"endpoint {name}: a user in its URL and token_env; expected one of them")
    token = os.environ.get(token_env, "").strip()
    if not token:
        raise ConfigurationError(f"endpoint {name}: {token_env} is not set; export its token in that variable")
    if not re.fullmatch(r"[\x21-\x7e]+", token):
        raise ConfigurationError(f"endpoint {name}: {token_env} has characters that no token has; export it anew")
    return SecretStr(f"Bearer {token}")


def _proxy(url: URL) -> URL | None:
    # aiohttp's own reading of the environment reads ~/.netrc as well, and sends what it finds there.
    proxy = getproxies().get(url.scheme)
    if not proxy or proxy_bypass(url.host or ""):
        return None
    try:
        found = URL(proxy if "://" in proxy else f"http://{proxy}")
    except ValueError:
        found = URL()
    if not found.host:
        raise ConfigurationError(f"{url.scheme.upper()}_PROXY is no URL; expected http://HOST:PORT") from None
    return found


def _basic(url: URL) -> str:
    return "Basic " + base64.b64encode(f"{url.user or ''}:{url.password or ''}".encode()).decode()


def _secrets(url: URL, authorization: SecretStr | None, proxy: URL | None) -> list[SecretStr]:
    """The longest first: one may be part of another. Short names are no secrets, and parts of every text."""
    found = {url.raw_query_string, url.query_string}
    names = set(url.query.values())
    if authorization is not None:
        found.add(authorization.get_secret_value().partition(" ")[2])
    for part in (url, proxy):
        if part is not None:
            found |= {part.password or "", part.raw_password or ""}
            names |= {part.user or "", part.raw_user or ""}
    found |= {name for name in names if len(name) >= SECRET_CHARACTERS}
    return [SecretStr(secret) for secret in sorted(found - {""}, key=len, reverse=True)]
