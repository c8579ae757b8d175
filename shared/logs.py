"""Logs: one JSON object a line on standard error, with the request id, without biometrics."""

from __future__ import annotations

import logging
import logging.config
import sys
from typing import Any, Literal

import structlog
from structlog.typing import EventDict, Processor

from shared.errors import place_of
from shared.http.request_context import current_request_id

LogLevel = Literal["debug", "info", "warning", "error"]
_PLAIN = (str, int, float, bool, type(None))
# What ``place_of`` says, of events that come by Python's own log: from the protection, which programs may embed.
_PLACE = structlog.stdlib.ExtraAdder(allow=("exception", "at"))


def configure_logging(level: LogLevel = "info", service: str = "patronus") -> None:
    """Sends the logs of this process and its libraries through one formatter, as JSON."""

    def name_service(_logger: Any, _method: str, event: EventDict) -> EventDict:
        return {"service": service, **event}

    before: list[Processor] = [
        name_service,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        add_request_id,
        refuse_values,
    ]
    last: list[Processor] = [drop_exception_text, structlog.processors.JSONRenderer()]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[_PLACE, *before],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("httpx", "httpcore", "uvicorn.access", "alembic", "PIL"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # The form parser's warnings quote bytes of the upload.
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    # Our own events go to standard error themselves: by way of logging's handler each costs three times as much.
    structlog.configure(
        processors=[*before, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


def silence_logs() -> None:
    """Turns off the log of this process and of libraries: a command prints one sentence.

    ``configure_logging`` turns it on again.
    """
    logging.getLogger().handlers[:] = [logging.NullHandler()]
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL), cache_logger_on_first_use=False
    )


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A logger of events with members: ``log.info("gallery_created", templates=0)``."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def add_request_id(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Adds the id of the request being answered."""
    event.setdefault("request_id", current_request_id())
    return event


def refuse_values(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Keeps arrays, bytes and lists out of the log, so that no vector or picture gets there."""
    for name, value in event.items():
        if name.startswith("_") or name == "exc_info" or isinstance(value, _PLAIN):
            continue
        event[name] = f"[{type(value).__name__} not logged]"
    return event


def drop_exception_text(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Logs the place of an exception, without its text or the values of its frames."""
    info = event.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()
    error = info[1] if isinstance(info, tuple) else info
    return {**event, **place_of(error)} if isinstance(error, BaseException) else event
