"""What is written to disk is what comes back, or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from dataplane import lastgood
from tests.properties.sidecar import Sidecar, from_listings
from tests.states.build import State
from tests.states.examples import STATES


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.name)
def test_a_restart_changes_nothing_for_envoy(state: State, tmp_path: Path) -> None:
    """An unreadable policy goes on closing, though its value is not kept."""
    before = from_listings(state.workload, state.values)
    path = tmp_path / "last-good"
    lastgood.write_file(path, lastgood.dump(before.mesh, now=7))
    assert path.stat().st_mode & 0o777 == 0o600
    saved = lastgood.read_file(path)
    assert saved is not None
    assert (saved.revision, saved.epoch, saved.saved) == (before.mesh.revision, before.mesh.epoch, 7)
    mesh = lastgood.restore(saved)
    assert (mesh.values, mesh.unreadable_policies) == (before.mesh.values, before.mesh.unreadable_policies)
    assert Sidecar(state.workload, mesh).envoy == before.envoy


def test_what_is_damaged_is_no_last_good(tmp_path: Path) -> None:
    whole = lastgood.dump(from_listings(STATES[4].workload, STATES[4].values).mesh, now=7)
    assert lastgood.parse(whole) is not None
    for length in range(0, len(whole), 7):
        assert lastgood.parse(whole[:length]) is None
    assert lastgood.parse(whole.replace(b"\xa6format\x01", b"\xa6format\x02")) is None
    assert lastgood.read_file(tmp_path / "none") is None
