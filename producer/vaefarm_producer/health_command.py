"""`vaefarm health`: whether the service of this machine or container does its work; for health checks of containers."""

import json
import socket
import urllib.error
import urllib.request
from typing import Annotated, Final, Literal

import redis as redis_py
import typer

from vaefarm_shared import keys
from vaefarm_shared.connection import connect, farm_errors
from vaefarm_shared.errors import FarmError
from vaefarm_shared.redis_policy import read_clock
from vaefarm_shared.settings import Settings
from vaefarm_shared.workers import read_workers

from .commands import RedisOption

Service = Literal["gateway", "worker", "reaper"]

#: Seconds that an answer may take: a check that waits for long says nothing.
ANSWER_SECONDS: Final[float] = 5.0

#: Seconds by which a lease may be over before nobody seems to look.
OVERDUE_SECONDS: Final[float] = 10.0

#: Addresses that mean every one of this machine.
ANY_ADDRESS: Final = ("0.0.0.0", "::", "")


def health(
    service: Annotated[Service, typer.Argument(help="Which one to ask.")],
    ready: Annotated[
        bool, typer.Option("--ready", help="Of a gateway: whether a worker serves, and not just that it lives.")
    ] = False,
    host: Annotated[str, typer.Option(help="Where the gateway listens.", envvar="VAEFARM_LISTEN_HOST")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the gateway.", envvar="VAEFARM_LISTEN_PORT")] = 8000,
    redis: RedisOption = None,
) -> None:
    """Say whether a service does its work, and exit 1 when it does not.

    A gateway is asked over HTTP. A worker of this host must have given a sign of life to Redis within half a minute. Of
    the reaper, that no job's lease is long over: whoever returned it, somebody looks.
    """
    if service == "gateway":
        said = ask_gateway("127.0.0.1" if host in ANY_ADDRESS else host, port, "ready" if ready else "health")
    else:
        settings = Settings.from_env(redis_url=redis)
        connection = connect(settings.redis_url.get_secret_value(), ANSWER_SECONDS)
        with connection, farm_errors(connection):
            said = find_worker(connection) if service == "worker" else find_overdue(connection)
    print(said)


def ask_gateway(host: str, port: int, route: str) -> str:
    """What a gateway answers. Raises FarmError unless it is well."""
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}/{route}"
    # A proxy of the environment is for other machines.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=ANSWER_SECONDS) as answer:
            return f"{url}: {answer.read(200).decode(errors='replace')}"
    except urllib.error.HTTPError as error:
        with error:
            raise FarmError(f"{url}: {error.code} {reason(error.read(2000))}") from error
    except OSError as error:
        raise FarmError(f"{url}: {getattr(error, 'reason', error)}") from error


def reason(body: bytes) -> str:
    """What a gateway's refusal says."""
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return ""


def find_worker(connection: redis_py.Redis) -> str:
    """The workers of this host. Raises FarmError where none gives signs of life."""
    here = socket.gethostname()
    names = [str(one["name"]) for one in read_workers(connection) if one.get("host") == here]
    if not names:
        raise FarmError(f"no worker of {here} has given a sign of life within {keys.WORKER_SECONDS} seconds")
    return f"{', '.join(names)} serves"


def find_overdue(connection: redis_py.Redis) -> str:
    """That no lease is long over. Raises FarmError where some are."""
    overdue = connection.zcount(keys.LEASES, "-inf", read_clock(connection) - OVERDUE_SECONDS)
    if overdue:
        raise FarmError(
            f"{overdue} leases are over for more than {OVERDUE_SECONDS:g} seconds: nobody returns those jobs"
        )
    return "no lease is overdue"
