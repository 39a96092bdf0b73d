"""A storm: workers killed and put to sleep at random under load, replies lost, Redis restarted, paused and cut off.

`python -m tests.chaos.storm`, or `make chaos`. Its last line says what was lost; it exits 1 if anything was. The
environment sets CHAOS_SEED, CHAOS_KILLS (500), CHAOS_WORKERS (4), CHAOS_SECONDS (780: no more kills after that).
"""

import os
import random
import signal
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import RedisServer, redis_servers

from vaefarm_shared.connection import AWAY
from vaefarm_shared.errors import FarmError
from vaefarm_shared.settings import Settings

from .arena import Arena
from .crew import Member
from .faults import Action, Fault
from .onlooker import Onlooker
from .recovery import Recovery

#: Jobs that wait for a worker at most.
BACKLOG = 300

#: Seconds in which everything must have ended once the storm is over.
CALM_SECONDS = 120.0


@dataclass(frozen=True)
class Plan:
    """How hard it blows."""

    seed: int
    kills: int
    workers: int
    seconds: float

    @classmethod
    def from_env(cls) -> "Plan":
        def number(name: str, default: str) -> int:
            return int(os.environ.get(f"CHAOS_{name}", default))

        return cls(number("SEED", "1"), number("KILLS", "500"), number("WORKERS", "4"), number("SECONDS", "780"))


class Storm:
    """Blows on an arena until enough workers were killed."""

    def __init__(self, plan: Plan, arena: Arena, server: RedisServer, recovery: Recovery) -> None:
        self._plan = plan
        self._arena = arena
        self._server = server
        self._recovery = recovery
        self._random = random.Random(plan.seed)
        self._over = threading.Event()
        self._counted: set[str] = set()
        self._asleep: dict[Member, float] = {}

    @property
    def kills(self) -> int:
        return len(self._counted)

    def blow(self) -> None:
        """Do harm until there was enough of it."""
        threads = [threading.Thread(target=run) for run in (self._produce, self._count)]
        for thread in threads:
            thread.start()
        ends = time.monotonic() + self._plan.seconds
        try:
            while self.kills < self._plan.kills and time.monotonic() < ends:
                self._tend()
                self._harm()
                time.sleep(self._random.uniform(0.0, 0.2))
        finally:
            self._wake(float("inf"))
            self._over.set()
            for thread in threads:
                thread.join()

    def calm(self) -> None:
        """Replace every worker by one that nothing happens to."""
        for member in self._living():
            member.kill()
        self._arena.crew.tend(size=2)

    def _produce(self) -> None:
        """Keep a backlog; what nobody acknowledged is submitted anew."""
        number = 0
        while not self._over.is_set():
            try:
                if len(self._arena.oracle.unended()) > BACKLOG:
                    self._over.wait(0.2)
                    continue
                self._arena.oracle.submit(range(number, number + 10))
            except (*AWAY, FarmError) as error:
                print(f"submit {number}: {error}", flush=True)
                self._over.wait(0.2)
            else:
                number += 10

    def _count(self) -> None:
        """Notice deaths as they happen."""
        while not self._over.wait(0.02):
            for member in list(self._arena.crew.members):
                if member.was_killed and member.name not in self._counted:
                    self._recovery.note_death()
                    self._counted.add(member.name)
                    if self.kills % 50 == 0:
                        print(f"{self.kills} killed, {len(self._arena.oracle.orders)} jobs so far", flush=True)

    def _tend(self) -> None:
        """Wake who slept enough, and start others in place of the dead."""
        self._wake(time.monotonic())
        while len(self._living()) < self._plan.workers:
            self._start()

    def _start(self) -> None:
        """A worker that dies, sleeps or is cut off at some command, and loses a reply now and then."""
        chance = self._random
        actions: list[Action] = ["kill", "kill-host", "cut"]
        action = chance.choices(actions, [8, 2, 1])[0]
        fault = Fault(action, chance.choice(["before", "after"]), chance.randint(1, 80))
        arguments = ["--seed", str(chance.randrange(1 << 30)), "--seconds", str(chance.choice([0.0, 0.01, 0.05]))]
        self._arena.crew.start(*arguments, "--cut-rate", "0.002", fault=fault)

    def _harm(self) -> None:
        """One thing from outside; most often nothing, or the death of somebody."""
        what = self._random.random()
        living = [member for member in self._living() if member not in self._asleep]
        if what < 0.15 and living:
            self._random.choice(living).kill()
        elif what < 0.18 and living:
            self._sleep(self._random.choice(living))
        elif what < 0.19:
            self._arena.connection.client_kill_filter(_type=self._random.choice(["normal", "pubsub"]), skipme=True)
        elif what < 0.193:
            self._recovery.pause(4 + 2 * self._arena.settings.lease_seconds)
            self._arena.connection.client_pause(self._random.randint(100, 4000))
        elif what < 0.196:
            self._restart_redis()

    def _sleep(self, member: Member) -> None:
        member.signal(signal.SIGSTOP)
        self._recovery.exempt()
        self._asleep[member] = time.monotonic() + self._random.uniform(0.1, 2 * self._arena.settings.lease_seconds)

    def _wake(self, now: float) -> None:
        for member, until in list(self._asleep.items()):
            if until <= now:
                del self._asleep[member]
                member.signal(signal.SIGCONT)

    def _restart_redis(self) -> None:
        self._recovery.pause(4 + 2 * self._arena.settings.lease_seconds)
        self._server.stop()
        time.sleep(self._random.uniform(0.0, 2.0))
        self._server.start()

    def _living(self) -> list[Member]:
        return [member for member in self._arena.crew.members if member.is_alive]


def main() -> int:
    """Run one storm; 0 when nothing was lost, published twice, wrong or left behind."""
    plan = Plan.from_env()
    print(
        f"seed {plan.seed}, {plan.kills} kills of {plan.workers} workers, {plan.seconds:.0f} seconds at most",
        flush=True,
    )
    with tempfile.TemporaryDirectory(prefix="vaefarm-chaos-") as folder:
        options = ("--appendonly", "yes", "--appendfsync", "always")
        server = RedisServer(next(iter(redis_servers().values())), Path(folder), options)
        server.start()
        settings = Settings.from_env(submit_timeout=30.0, max_attempts=20).at(server.url)
        arena = Arena(settings, Path(folder, "workers"))
        recovery = Recovery(server.url)
        try:
            return run(Storm(plan, arena, server, recovery), arena, recovery, server.url)
        finally:
            recovery.close()
            arena.close()
            server.stop()


def run(storm: Storm, arena: Arena, recovery: Recovery, url: str) -> int:
    """Blow, calm down, judge, and say so."""
    with Onlooker(url, pause_seconds=2.0) as onlooker:
        storm.blow()
        storm.calm()
        verdict = arena.oracle.verdict(CALM_SECONDS)
    for found in (verdict.lost, verdict.published_twice, verdict.wrong, verdict.left_behind):
        for line in found[:20]:
            print(line)
    print(f"{storm.kills} workers killed; `rq info` ran {onlooker.looks} times", flush=True)
    lost = len(verdict.lost) + len(verdict.wrong) + len(verdict.left_behind)
    print(
        f"{verdict.jobs} jobs, {lost} lost, {len(verdict.published_twice)} published twice,"
        f" worst recovery {recovery.worst_seconds:.1f} s",
        flush=True,
    )
    return int(lost > 0 or bool(verdict.published_twice))


if __name__ == "__main__":
    sys.exit(main())
