"""What each part of a farm may do in Redis: commands, keys and channels, as rules of a Redis ACL.

The commands of a script are read out of its text, so a script that calls another command changes the rules with it.
The others are named here: a life of jobs under these users, after which Redis' ACL LOG must be empty, tells whether
one is missing (`tests/guarded/test_life.py`).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from . import keys, rq_bridge
from .scripts import script

#: Patterns of the keys of a farm, ours and RQ's.
KEYS: Final[tuple[str, ...]] = (f"{keys.PREFIX}*", f"{rq_bridge.KEY_PREFIX}:*")

#: What every client sends: to live, to choose a database, for transactions and scripts.
EVERY: Final = "ping select multi exec discard watch unwatch evalsha script|load"

#: What RQ's own code sends to queue jobs that waited for another, and to clean its registries.
OF_RQ: Final = "exists hexists hget hgetall hset persist rpush sadd smembers srem zadd zrange zrangebyscore zrem"

#: What the reaper sends, and so whoever reaps.
REAPING: Final = f"{OF_RQ} hmget info lrange mget srandmember time"

#: What every five minutes one of all does: it walks over records to repair the budget.
TIDYING: Final = "del expire get scan set xrange xrevrange zremrangebyscore"

CALL: Final = re.compile(r"redis\.p?call\('([A-Z]+)'")


@dataclass(frozen=True)
class Role:
    """One part of a farm, as a user of Redis."""

    name: str
    #: Who uses it.
    says: str
    #: Names of the scripts of `lua/` that it runs.
    scripts: tuple[str, ...]
    #: Commands that it sends itself, between blanks.
    sends: str
    #: Kinds of channels on which it publishes, or to which it listens.
    channels: tuple[str, ...]

    @cached_property
    def commands(self) -> tuple[str, ...]:
        """Every command that it may run, by name; `script|load` is a subcommand."""
        called = (name.lower() for one in self.scripts for name in CALL.findall(script(one).text))
        return tuple(sorted({*EVERY.split(), *self.sends.split(), *called}))

    def rules(self) -> str:
        """As a line of a Redis ACL says it, for Redis 6.2 and newer."""
        channels = (f"&{keys.PREFIX}{kind}:*" for kind in self.channels)
        return " ".join(
            (*(f"~{one}" for one in KEYS), "resetchannels", *channels, "-@all", *(f"+{one}" for one in self.commands))
        )


REAPER_SCRIPTS: Final = ("probe", "reap", "expire_kept", "settle", "strand")
TIDY_SCRIPTS: Final = ("repair", "correct_inflight", "forget_workers")
WORKER_SCRIPTS: Final = ("adopt", "begin", "claim", "give_back", "renew", "renew_device", "take_device")
PRODUCER_SCRIPTS: Final = (
    "cancel",
    "discard",
    "drop_preview",
    "put_preview",
    "retry",
    "standing",
    "statuses",
    "submit",
)
WEBHOOK_SCRIPTS: Final = ("answer_webhook", "claim_webhooks")

#: What producers, gateways and operators send: for records, queues, blobs, pauses, devices, and one subscription.
PRODUCING: Final = (
    "get getrange hdel hgetall hmget hsetnx hvals llen lrange mget pttl publish smembers sadd srem subscribe"
    " unsubscribe xrange xread xrevrange zcard zcount zrange zscan zremrangebyrank"
)

#: What the scripts call by which a gateway counts requests (library `limits`, its sliding window).
COUNTING: Final = "exists get incrby pttl rename set"

#: What a gateway keeps of how the farm stood, for charts.
SAMPLING: Final = "expire set xadd xrange"

ROLES: Final[tuple[Role, ...]] = (
    Role(
        "operator",
        "who runs `vaefarm doctor`, `status`, `failed`, `pause`, `devices` and the like",
        (*PRODUCER_SCRIPTS, *REAPER_SCRIPTS),
        f"{PRODUCING} {REAPING} {TIDYING} config|get",
        ("doorbell", "done", "wake"),
    ),
    Role(
        "gateway",
        "gateways, and producers that reach Redis themselves",
        (*PRODUCER_SCRIPTS, *REAPER_SCRIPTS, *TIDY_SCRIPTS, *WEBHOOK_SCRIPTS),
        f"{PRODUCING} {REAPING} {TIDYING} {COUNTING} {SAMPLING}",
        ("doorbell", "done", "wake"),
    ),
    Role(
        "worker",
        "`vaefarm worker`",
        (*WORKER_SCRIPTS, *REAPER_SCRIPTS, *TIDY_SCRIPTS),
        f"{REAPING} {TIDYING} client|setname client|info getrange hsetnx hvals publish subscribe zcard zremrangebyrank",
        ("doorbell", "done", "wake"),
    ),
    Role("reaper", "`vaefarm reap`", REAPER_SCRIPTS, REAPING, ("doorbell", "done")),
)


def role(name: str) -> Role:
    """The role of that name. Raises KeyError."""
    return {one.name: one for one in ROLES}[name]


def names(roles: Iterable[Role] = ROLES) -> str:
    """The names of roles, for people."""
    return ", ".join(one.name for one in roles)
