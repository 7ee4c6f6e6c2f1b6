"""The audit's events in the CA's life: one line each, whoever took the step. These names are all there are.

They are the message of a line under the logger ``mesh.audit``, beside the lines of the RPCs. Fields: ``caller`` (who;
for a rotation's own steps: who asked for it), ``peer`` (from where), ``revision``, ``keys``, ``forced_past``.
"""

import enum
import logging

from controlplane.log import event

logger = logging.getLogger("mesh.audit")


class CaEvent(enum.StrEnum):
    PREPARED = "CA key prepared"
    REQUESTED = "CA key requested"
    INSTALLED = "CA certificate installed"
    ACTIVATED = "CA key activated"
    RETIRED = "CA key given up"
    REMOVED = "CA key removed"
    RESEALED = "CA keys sealed anew"
    JWT_KEY_MADE = "CA JWT key made"
    LEAF_BOUND_RAISED = "CA leaf bound raised"
    ROTATION_STARTED = "CA rotation started"
    ROTATION_STOPPED = "CA rotation stopped"
    ROTATION_ENDED = "CA rotation ended"


def tell(what: CaEvent, level: int, *, who: str, where: str, revision: int, **fields: object) -> None:
    """One event that has happened. Fields that are None are left out."""
    event(logger, level, what.value, caller=who, peer=where, revision=revision, **fields)
