"""An arena: a farm of its own in one database of a Redis, with its crew and its oracle."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from vaefarm_producer import Farm
from vaefarm_shared.connection import connect
from vaefarm_shared.settings import Settings

from .crew import Crew
from .oracle import Oracle

#: Keys that tell of workers and not of jobs.
WORKERS_KEYS: Final[tuple[bytes, ...]] = (b"rq:worker", b"vaefarm:worker", b"vaefarm:contract")


class Arena:
    """Farm, crew and oracle over one database. Arenas of one server may be used at the same time."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        url = settings.redis_url.get_secret_value()
        folder.mkdir(parents=True, exist_ok=True)
        self.settings = settings
        self.connection = connect(url)
        self.farm = Farm(settings=settings)
        self.oracle = Oracle(self.farm, url)
        self.crew = Crew(settings, folder)

    def jobs_state(self) -> dict[bytes, bytes]:
        """Every key of every job with all that it holds, byte for byte."""
        names = [name for name in self.connection.scan_iter(count=1000) if not name.startswith(WORKERS_KEYS)]
        return {name: self.connection.dump(name) or b"" for name in names}

    def close(self) -> None:
        """End its processes and connections."""
        self.crew.close()
        self.oracle.close()
        self.farm.close()
        self.connection.close()


#: Makes an arena with the tests' settings, but for what is given.
MakeArena = Callable[..., Arena]
