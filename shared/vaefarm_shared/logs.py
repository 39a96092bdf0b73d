"""Logging, configured by entry points only."""

import logging

#: Third parties that log each request or each job at INFO.
CHATTY = ("rq", "httpx", "urllib3", "filelock", "diffusers", "transformers")


def configure_logging(verbose: bool = False) -> None:
    """Log to standard error: INFO, or DEBUG when `verbose`."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
