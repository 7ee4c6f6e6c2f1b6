"""What a service tells systemd, for trio: readiness, status, watchdog; without systemd's library."""

from .notify import EXTEND_EVERY_SECONDS, EXTEND_SECONDS, Notifier

__all__ = ["EXTEND_EVERY_SECONDS", "EXTEND_SECONDS", "Notifier"]
