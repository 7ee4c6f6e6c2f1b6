"""A feed, and real Envoys on it."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.dataplane.compile.envoys import FedEnvoy
from tests.dataplane.compile.feed import FeedServer

EnvoyFactory = Callable[[str], FedEnvoy]


@pytest.fixture(scope="module")
def envoys() -> Iterator[EnvoyFactory]:
    """``envoy = envoys(name)``: a started Envoy that lives as long as the module's tests."""
    with ExitStack() as stack:
        # Short, because a Unix socket's path may have no more than 107 bytes.
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hostmesh-")))
        server = stack.enter_context(FeedServer(directory / "feed"))

        def start(name: str) -> FedEnvoy:
            envoy = FedEnvoy(name, directory, server.socket, server.reports)
            server.feeds[name] = envoy.feed
            stack.callback(envoy.close)
            envoy.start()
            return envoy

        yield start


@pytest.fixture(scope="module")
def own_address() -> Callable[[], str]:
    """Loopback addresses that nobody else uses, so that every port on them is free."""

    def one() -> str:
        return f"127.{random.randint(16, 250)}.{random.randint(1, 250)}.{random.randint(2, 250)}"

    return one
