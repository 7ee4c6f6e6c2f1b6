"""Which of two revocation records of one identity is true. Pure; both planes hold to it."""

from schemas.records import Revocation


def newer(one: Revocation, than: Revocation | None) -> bool:
    """By serial; of two with one serial, the one that revokes."""
    return than is None or (one.serial, one.revoked) > (than.serial, than.revoked)
