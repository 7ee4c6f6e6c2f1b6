"""The configuration of each example state, as files that a change of the compiler shows up in."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from envoy.config.cluster.v3 import cluster_pb2

from dataplane.compile.resources import CLUSTER
from tests.golden.readable import readable
from tests.states.build import CREDENTIALS, State, compiled, mesh_of
from tests.states.examples import STATES

HERE = Path(__file__).parent
WHOLE = ("federation", "on-demand", "passed-on", "shop", "telemetry", "telemetry-http")
_MAKE = "if that is what it should be: make golden, and read the diff"


def files_of(state: State) -> dict[str, str]:
    mesh = mesh_of(state.values)
    compiler = compiled(state.workload, mesh, learnt=state.learnt)
    problems = [*mesh.problems(), *compiler.problems()]
    return readable(compiler.resources().values(), problems, whole=state.name in WHOLE)


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
def test_state(state: State, update_golden: bool) -> None:
    made, folder = files_of(state), HERE / state.name
    if update_golden:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name, text in made.items():
            (folder / name).write_text(text)
    kept = {path.name: path.read_text() for path in sorted(folder.glob("*"))} if folder.is_dir() else {}
    assert made.keys() == kept.keys(), f"{folder.name}: other files; {_MAKE}"
    for name, text in made.items():
        assert text.splitlines() == kept[name].splitlines(), f"{folder.name}/{name}: {_MAKE}"


def test_no_cluster_has_a_limit_that_nobody_asked_for() -> None:
    """Where a cluster says nothing, Envoy takes 1,024."""
    silent, seen = [], set()
    for state in STATES:
        for one in compiled(state.workload, mesh_of(state.values), learnt=state.learnt).resources().values():
            if one.key.type_url == CLUSTER:
                said = cluster_pb2.Cluster.FromString(one.body).circuit_breakers.thresholds
                limits = {field.name for each in said for field, _ in each.ListFields()}
                seen.add(one.key.name)
                if not limits >= {"max_connections", "max_pending_requests", "max_requests"}:
                    silent.append(f"{state.name}: {one.key.name}")
    assert not silent, "`clusters.unlimited` makes them"
    assert {"outbound|passthrough", "outbound|payments.shop|80", "app|http", "cart.front"} <= seen


def test_no_orphans(update_golden: bool) -> None:
    """A folder of a state that is no more tells about nothing."""
    known = {state.name for state in STATES} | {"__pycache__"}
    orphans = [path for path in HERE.iterdir() if path.is_dir() and path.name not in known]
    if update_golden:
        for path in orphans:
            shutil.rmtree(path)
        orphans = []
    assert not orphans, f"no state is named {[path.name for path in orphans]}; {_MAKE}"


def test_no_private_key_is_shown() -> None:
    """The files are what the compiler makes: the test above."""
    for path in HERE.rglob("*"):
        if path.is_file():
            assert CREDENTIALS.key_pem not in path.read_bytes(), path
