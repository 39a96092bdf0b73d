"""Logging, configured by entry points only.

A line about a job names it as `extra={"job_id": ...}`, one about several as `extra={"job_ids": [...]}`: as JSON these
are fields of their own, whatever the message says.
"""

import logging
from enum import StrEnum

#: Third parties that log each request or each job at INFO; botocore logs what it signs with at DEBUG.
CHATTY = (
    "rq",
    "httpx",
    "urllib3",
    "filelock",
    "diffusers",
    "transformers",
    "botocore",
    "aiobotocore",
    "s3fs",
    "fsspec",
)


class LogFormat(StrEnum):
    """How lines are written."""

    TEXT = "text"
    JSON = "json"


def configure_logging(verbose: bool = False, log_format: LogFormat = LogFormat.TEXT) -> None:
    """Log to standard error: INFO, or DEBUG when `verbose`."""
    handler = logging.StreamHandler()
    handler.setFormatter(formatter(log_format))
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler])
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)


def formatter(log_format: LogFormat) -> logging.Formatter:
    """One line of text; or one JSON object a line, with a traceback inside of it: time (ISO 8601, UTC), level, logger,
    message, and the fields that the line was given."""
    if log_format is LogFormat.TEXT:
        return logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    # Here and not above: few log so.
    from pythonjsonlogger.json import JsonFormatter

    return JsonFormatter(
        "{levelname}{name}{message}",
        style="{",
        rename_fields={"levelname": "level", "name": "logger"},
        timestamp="time",
    )
