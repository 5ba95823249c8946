"""How loops that outlive every failure report one, and how long they wait before they try again."""

from typing import Final

import structlog

from services.runtime.errors import CsrError

log = structlog.get_logger()

BACKOFF_SECONDS: Final = (0.1, 2.0)
"""First and longest pause after a failure; each is twice the one before, and nobody who waits cuts it short."""


def report(event: str, error: Exception, **context: object) -> None:
    """Log a failure that will be tried again; anything but a domain error is a bug and gets its traceback."""
    if isinstance(error, CsrError):
        log.warning(event, error=str(error), **context)
    else:
        log.error(event, exc_info=error, **context)
