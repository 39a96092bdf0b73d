"""How often, how long and how patiently endpoints are asked: every wait and count of this package in one place."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Pacing:
    """Seconds, unless a name says otherwise. The defaults are for endpoints on other continents."""

    #: Times that one request is tried before its job counts as one that no endpoint gives a picture of.
    tries: int = 4
    #: Between tries: a random part of the first wait, of twice as much after each try, and of the longest at most.
    first_backoff: float = 0.2
    longest_backoff: float = 5.0
    #: How long a job that was tried waits for an endpoint that said when it can be asked again.
    longest_wait_for_rest: float = 10.0
    #: Failures behind one another that open a circuit.
    failures_to_open: int = 3
    #: From a circuit's opening to the first known latent, and the most that it becomes by doubling.
    first_probe: float = 1.0
    longest_probe: float = 60.0
    #: How long an endpoint rests that says 429 and not until when.
    unnamed_rest: float = 1.0
    #: The most that is made of any Retry-After.
    longest_rest: float = 3600.0
    #: Time in which what is remembered of a latency falls to 1/e.
    latency_decay: float = 30.0
    #: Latencies that must be known before any request counts as slow.
    latencies_to_hedge: int = 20
    #: Requests of which one may be sent twice.
    requests_per_hedge: int = 20
