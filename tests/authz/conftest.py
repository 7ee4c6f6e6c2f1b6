"""A feed, and real Envoys on it."""

from tests.dataplane.compile.conftest import envoys, own_address

__all__ = ["envoys", "own_address"]
