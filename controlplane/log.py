"""Log lines of a replica: one event a line on standard error, ``message key=value …``; never a secret.

systemd's journal adds time, host and unit; elsewhere the time is in front.
"""

import json
import logging
import sys
from collections.abc import Mapping

_PRIORITY = {logging.CRITICAL: 2, logging.ERROR: 3, logging.WARNING: 4, logging.INFO: 6, logging.DEBUG: 7}


class KeyValueFormatter(logging.Formatter):
    """`journal`: a syslog priority in front (sd-daemon(3)), instead of time and level."""

    def __init__(self, *, journal: bool) -> None:
        super().__init__()
        self._journal = journal
        self.default_msec_format = "%s.%03d"

    def format(self, record: logging.LogRecord) -> str:
        head = (
            f"<{_PRIORITY.get(record.levelno, 6)}>"
            if self._journal
            else f"{self.formatTime(record)} {record.levelname.lower()} "
        )
        fields: Mapping[str, object] = getattr(record, "fields", {})
        words = [_plain(record.getMessage()), *(f"{key}={_quoted(value)}" for key, value in fields.items())]
        if record.exc_info:
            words.append(f"exception={json.dumps(self.formatException(record.exc_info))}")
        return head + " ".join(words)


def set_up(*, journal: bool, level: int = logging.INFO) -> None:
    """Once a process, from `main`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(KeyValueFormatter(journal=journal))
    logging.basicConfig(level=level, handlers=[handler], force=True)


def event(logger: logging.Logger, level: int, message: str, **fields: object) -> None:
    """One event. Fields that are None are left out."""
    logger.log(level, message, extra={"fields": {key: value for key, value in fields.items() if value is not None}})


def _plain(text: str) -> str:
    """One line, whatever a peer put into it."""
    return text if text.isprintable() else json.dumps(text)[1:-1]


def _quoted(value: object) -> str:
    text = str(value)
    return text if text and text.isprintable() and not set(text) & set(' ="\\') else json.dumps(text)
