"""celery-batches: Celery tasks that are buffered in the worker and run together."""

# mypy: disable-error-code="import-not-found, import-untyped, untyped-decorator, misc"

from typing import Final

from celery_batches import Batches, SimpleRequest

from . import blobs, with_celery
from .with_celery import app

#: Jobs of one batch.
FLUSH_EVERY: Final = 64

#: Seconds after which a batch that is not full runs all the same.
FLUSH_INTERVAL: Final = 0.005

# Zero, or what multiplied is more than flush_every: else no batch would fill
# (https://celery-batches.readthedocs.io/en/latest/getting_started.html).
app.conf.worker_prefetch_multiplier = 0


@app.task(name="decode_batch", base=Batches, flush_every=FLUSH_EVERY, flush_interval=FLUSH_INTERVAL)
def decode_batch(requests: list[SimpleRequest]) -> None:
    """Jobs together; each has a result of its own."""
    blobs.work([request.args[0] for request in requests])
    for request in requests:
        app.backend.mark_as_done(request.id, None, request=request)


class Side(with_celery.Side):
    """Celery's, with this task."""

    task = decode_batch
