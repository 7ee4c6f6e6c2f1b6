"""Log lines of a replica: one event a line on standard error, ``message key=value …`` or JSON; never a secret.

systemd's journal adds time, host and unit; elsewhere the time is in front, and in JSON it is a field.
"""

import datetime
import json
import logging
import re
import sys
from collections.abc import Mapping

# What somebody may put where it does not belong, such as a token for its id: the secret part is blotted out wherever
# it turns up. Join and login tokens; private keys in PEM; JWTs.
_SECRETS = (
    (re.compile(r"(m[jl]t1\.[^.\s]{1,64}\.)[^\s'\",;)]+"), r"\1[redacted]"),
    (
        re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
        "[redacted]",
    ),
    (re.compile(r"(eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.)[A-Za-z0-9_-]+"), r"\1[redacted]"),
)

# One of these is in whatever they match, and in hardly anything else: the patterns cost more than all else of a line.
_SIGNS = ("t1.", "-----BEGIN ", "eyJ")

# Values with one of these are quoted.
_DELIMITERS = frozenset(' ="\\')

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
        words = [_plain(redacted(record.getMessage())), *(f"{key}={_quoted(value)}" for key, value in fields.items())]
        if record.exc_info:
            words.append(f"exception={json.dumps(redacted(self.formatException(record.exc_info)))}")
        return head + " ".join(words)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ``time`` (RFC 3339, UTC), ``level``, ``logger``, ``message`` and the event's fields."""

    def format(self, record: logging.LogRecord) -> str:
        fields: Mapping[str, object] = getattr(record, "fields", {})
        line: dict[str, object] = {
            "time": datetime.datetime.fromtimestamp(record.created, datetime.UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redacted(record.getMessage()),
        }
        # A field never takes the place of what every line has.
        line.update({key if key not in line else f"{key}_": _as_json(value) for key, value in fields.items()})
        if record.exc_info:
            line["exception"] = redacted(self.formatException(record.exc_info))
        return json.dumps(line)


def set_up(*, journal: bool, level: int = logging.INFO, as_json: bool = False) -> None:
    """Once a process, from `main`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else KeyValueFormatter(journal=journal))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # Asked of the system for each record, and in no line of ours (see "Optimization" of Python's logging HOWTO).
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def event(logger: logging.Logger, level: int, message: str, **fields: object) -> None:
    """One event. Fields that are None are left out, and secrets blotted out."""
    given = {key: _safe(value) for key, value in fields.items() if value is not None}
    logger.log(level, message, extra={"fields": given})


def redacted(text: str) -> str:
    """`text` without the secret part of whatever looks like a token or a private key."""
    if not any(sign in text for sign in _SIGNS):
        return text
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


def _safe(value: object) -> object:
    return value if isinstance(value, bool | int | float) else redacted(str(value))


def _as_json(value: object) -> object:
    return value if isinstance(value, bool | int | float) else str(value)


def _plain(text: str) -> str:
    """One line, whatever a peer put into it."""
    return text if text.isprintable() else json.dumps(text)[1:-1]


def _quoted(value: object) -> str:
    text = str(value)
    return text if text and text.isprintable() and _DELIMITERS.isdisjoint(text) else json.dumps(text)
