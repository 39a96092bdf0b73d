"""The routes of the farm as a whole: batches, queues, workers, VAEs, and what operators do."""

from vaefarm_shared.overview import Overview

from . import batches, farm_overview, operating, overview
from .models import (
    BatchAnswer,
    BatchQuery,
    ChangedAnswer,
    DevicesAnswer,
    DevicesQuery,
    EndpointsAnswer,
    ListQuery,
    QueuedQuery,
    QueuesAnswer,
    VaeAnswer,
    VaesAnswer,
    WorkersAnswer,
)
from .routes import Route

#: Many jobs at once, the farm's state, and what operators do.
FARM_ROUTES = [
    Route("POST", "/v1/batches", batches.post_batch, "Queue many jobs; each has its own verdict.", query=BatchQuery,
          bodies=("multipart/form-data",), status=202, answer=BatchAnswer),
    Route("GET", "/v1/overview", farm_overview.get_overview, "How the farm stands.", answer=Overview),
    Route("GET", "/v1/queues", overview.get_queues, "How many jobs wait.", answer=QueuesAnswer),
    Route("GET", "/v1/workers", overview.get_workers, "The living workers.", answer=WorkersAnswer),
    Route("GET", "/v1/endpoints", operating.get_endpoints, "The remote endpoints that workers ask.", access="admin",
          answer=EndpointsAnswer),
    Route("GET", "/v1/vaes", overview.get_vaes, "The VAEs of the farm.", answer=VaesAnswer),
    Route("GET", "/v1/vaes/{vae}", overview.get_vae, "One VAE.", answer=VaeAnswer),
    Route("PUT", "/v1/vaes/{vae}/pause", operating.pause_vae, "Let no worker take a VAE's jobs.", access="admin",
          answer=ChangedAnswer),
    Route("DELETE", "/v1/vaes/{vae}/pause", operating.resume_vae, "Let workers take a VAE's jobs.", access="admin",
          answer=ChangedAnswer),
    Route("GET", "/v1/failed", operating.get_failed, "The failed jobs, one a line.", access="admin", query=ListQuery,
          content_types=(operating.LINES,)),
    Route("GET", "/v1/queued", operating.get_queued, "A VAE's waiting jobs, one a line.", access="admin",
          query=QueuedQuery, content_types=(operating.LINES,)),
    Route("GET", "/v1/devices", operating.get_devices, "Devices in use, failing or quarantined.", access="admin",
          query=DevicesQuery, answer=DevicesAnswer),
    Route("DELETE", "/v1/devices/{device_id}", operating.release_device, "Let a quarantined device be used again.",
          access="admin", answer=ChangedAnswer),
]  # fmt: skip
