"""How many threads torch computes with."""

import logging
import os

import torch

from .. import host_processors

logger = logging.getLogger(__name__)


def use_quota() -> None:
    """Once as a process starts: no more threads than its cgroups' quota; OMP_NUM_THREADS decides where it is set.

    In a container torch sees the whole machine. Threads beyond the quota use it up together, and then all of them stand
    still in the middle of a layer.
    """
    if os.environ.get("OMP_NUM_THREADS"):
        logger.info("torch computes with %d threads, by OMP_NUM_THREADS", torch.get_num_threads())
        return
    usable = host_processors.usable()
    if usable < torch.get_num_threads():
        torch.set_num_threads(usable)
    logger.info("torch computes with %d threads", torch.get_num_threads())
