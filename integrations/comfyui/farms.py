"""Which farm a node asks, and with which key: a workflow may name an address, and never a key.

ComfyUI saves every widget of a workflow in each picture that it writes, and people open the workflows of others. So a
key comes from this machine alone, and goes to no address but the one that it belongs to.
"""

import atexit
import os
import threading
import tomllib
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from vaefarm_producer import ConfigurationError, Farm
from vaefarm_shared.settings import Settings, masked

#: Beside the nodes: `url = "https://farm.example"` and `key = "..."`, for those who set no variables.
FILE: Final[Path] = Path(__file__).with_name("vaefarm.toml")

PORTS: Final[dict[str, int]] = {"http": 80, "https": 443}


class Farms:
    """One farm for each address and key, kept from one prompt to the next."""

    def __init__(self) -> None:
        self._farms: dict[tuple[str, str], Farm] = {}
        self._lock = threading.Lock()

    def at(self, url: str) -> Farm:
        """The farm of a node's `url`; without one, this machine's own.

        Raises:
            ConfigurationError: no farm is named anywhere, `url` holds a password, or a setting is not right.
        """
        settings = settings_for(url)
        place = (settings.url or settings.redis_url).get_secret_value()
        known = place, settings.key.get_secret_value() if settings.key else ""
        with self._lock:
            if known not in self._farms:
                self._farms[known] = Farm(settings=settings)
            return self._farms[known]

    def close(self) -> None:
        """Close connections and threads; jobs live on."""
        with self._lock:
            while self._farms:
                self._farms.popitem()[1].close()


FARMS: Final[Farms] = Farms()
atexit.register(FARMS.close)


def settings_for(url: str) -> Settings:
    """Settings of the farm at a node's `url`, with a key where this machine has one for it. Raises as `Farms.at`."""
    url = url.strip()
    own = own_settings()
    if not url:
        if own is None:
            raise ConfigurationError(
                'no farm is named: set VAEFARM_URL for ComfyUI\'s process, write url = "https://..." into'
                f" {FILE.name} beside the nodes, or put an address into the node"
            )
        return own
    if masked(url) != url:
        raise ConfigurationError(
            "the node's url holds a password, which ComfyUI saves in every picture: take it out, change that password,"
            f" and set VAEFARM_URL and VAEFARM_KEY, or {FILE.name} beside the nodes"
        )
    if own is not None and own.url is not None and address(own.url.get_secret_value()) == address(url):
        return own
    return Settings.from_env().model_copy(update={"key": None}).at(url)


def own_settings() -> Settings | None:
    """What this machine says: its variables, else the file beside the nodes. Raises ConfigurationError."""
    settings = Settings.from_env()
    if settings.url is not None:
        # With http:// or https:// the same again; VAEFARM_URL may be Redis' address here as well.
        return settings.at(settings.url.get_secret_value())
    if os.environ.get("VAEFARM_REDIS_URL"):
        return settings
    if not FILE.exists():
        return None
    try:
        told = tomllib.loads(FILE.read_text("utf-8"))
    except (OSError, ValueError) as error:
        # The error of a line that is no TOML does not quote it.
        raise ConfigurationError(f"{FILE.name} beside the nodes cannot be read: {error}") from None
    if not isinstance(told.get("url"), str) or not isinstance(told.get("key", ""), str):
        raise ConfigurationError(
            f'{FILE.name} beside the nodes must say url = "https://..." and, for a gateway with keys, key = "..."'
        )
    return settings.model_copy(update={"key": None}).at(told["url"], told.get("key"))


def address(url: str) -> tuple[str, str, int | None, str]:
    """Scheme, host, port and path of a URL, however it is written. Raises ConfigurationError."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ConfigurationError(f"{masked(url)!r} is no address; expected https://HOST, or redis://HOST") from None
    return parts.scheme, parts.hostname or "", port or PORTS.get(parts.scheme), parts.path.rstrip("/")
