"""Fixtures that all tests share, and the check that nothing is left running."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Generator, Iterator
from typing import Any

import pytest
import trio

from deploy.etcd import EtcdBinary, find_etcd
from tests.support import leftovers
from tests.support.etcd_server import EtcdServer, remove_data_of_dead_runs, start_all

EtcdFactory = Callable[..., Awaitable[EtcdServer]]
EtcdClusterFactory = Callable[..., Awaitable[list[EtcdServer]]]

# Before all others, in this order: what waits for a mesh, then what computes for long. The one does not starve the
# other, and nobody waits for one of their files in the end.
SLOW_FOLDERS = (("e2e",), ("properties", "authz"))


@pytest.fixture(scope="session")
def etcd_binary() -> EtcdBinary:
    """The etcd of this test run, fetched when the machine has none."""
    remove_data_of_dead_runs()
    return find_etcd()


@pytest.fixture(scope="session")
def etcd_endpoint(etcd_binary: EtcdBinary) -> Iterator[str]:
    """``host:port`` of one plaintext etcd for the whole session. Write only below `etcd_prefix`; never stop it."""
    server = EtcdServer(etcd_binary)
    try:
        trio.run(server.start)
        yield server.endpoint
    finally:
        server.close()


@pytest.fixture
def etcd_prefix() -> str:
    """A key prefix of this test alone, for use with `etcd_endpoint`. Ends with a slash."""
    return f"/test/{secrets.token_hex(8)}/"


@pytest.fixture
def etcd_factory(etcd_binary: EtcdBinary) -> Iterator[EtcdFactory]:
    """``server = await etcd_factory(tls=…, extra=…)``: a started server of the test's own. Costs 125 MB each."""
    servers: list[EtcdServer] = []

    async def start(**options: Any) -> EtcdServer:
        servers.append(EtcdServer(etcd_binary, **options))
        await servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def etcd_cluster(etcd_binary: EtcdBinary) -> Iterator[EtcdClusterFactory]:
    """``servers = await etcd_cluster(3)``: the started members of one cluster; options as of `etcd_factory`."""
    servers: list[EtcdServer] = []

    async def start(size: int = 3, **options: Any) -> list[EtcdServer]:
        members = EtcdServer.members_of_cluster(etcd_binary, size, **options)
        servers.extend(members)
        await start_all(members)
        return members

    yield start
    for server in servers:
        server.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and any(name.startswith("etcd_") for name in getattr(item, "fixturenames", ())):
        for server in EtcdServer.running:
            if log := server.log_tail():
                report.sections.append((f"log of etcd {server.name} at {server.endpoint}", log))
    return report


def pytest_configure() -> None:
    leftovers.adopt_orphans()


@pytest.hookimpl(tryfirst=True)  # xdist's own hook, which reads the groups, comes after
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Workers take whole groups in this order: the slow ones first, and one mesh serves all who share it."""
    items.sort(key=lambda item: [not item.path.parent.name.startswith(folders) for folders in SLOW_FOLDERS])
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            shares = "shared_mesh" in getattr(item, "fixturenames", ())
            item.add_marker(pytest.mark.xdist_group("shared mesh" if shares else item.nodeid.partition("::")[0]))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Long texts make no name; keys and certificates would make another one in each worker."""
    return argname if isinstance(val, str | bytes) and len(val) >= 100 else None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(ids: list[str]) -> None:
    """Groups that don't apply only cost time, minutes of it: nobody would notice."""
    if any("@" not in one for one in ids):
        raise pytest.UsageError("this pytest-xdist can't group the tests of this pytest: see pyproject.toml")


_left_by_workers: list[str] = []


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    if left := getattr(node, "workeroutput", {}).get("left_running"):
        _left_by_workers.append(left)


@pytest.hookimpl(trylast=True)  # after the workers have ended
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process that outlives the tests is an error of the run, and is ended."""
    found = leftovers.running_descendants()
    leftovers.end(found)
    texts = [*_left_by_workers, *(["\n".join(map(str, found))] if found else [])]
    worker_output = getattr(session.config, "workeroutput", None)
    if worker_output is not None:
        worker_output["left_running"] = "\n".join(texts)
        return
    if not texts:
        return
    text = "\n".join(["tests left these processes running; they have been ended:", *texts])
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        where = ("tests/conftest.py", None, "processes left running")
        report = pytest.TestReport(where[2], where, {}, "failed", text, "teardown")
        reporter.stats.setdefault("error", []).append(report)
    session.exitstatus = pytest.ExitCode.TESTS_FAILED
