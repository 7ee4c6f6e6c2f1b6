"""A test run that leaves a process behind fails, names it and ends it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

_REPOSITORY = Path(__file__).resolve().parents[2]

_LEAKS_A_GRANDCHILD = """
import subprocess
def test_leaks():
    # the shell ends at once; its child is an orphan then
    subprocess.run(["/bin/sh", "-c", "exec 1>&- 2>&-; sleep 1234 & echo $! > pid"], check=True)
"""


def test_an_orphan_fails_the_run_and_is_ended(tmp_path: Path) -> None:
    done = _run(tmp_path, _LEAKS_A_GRANDCHILD)
    pid = (tmp_path / "pid").read_text().strip()
    assert done.returncode == 1
    assert f"pid {pid}: sleep 1234" in done.stdout
    assert done.stdout.strip().splitlines()[-1].startswith("1 passed, 1 error")
    assert not Path(f"/proc/{pid}").exists()


def test_a_clean_run_passes(tmp_path: Path) -> None:
    done = _run(tmp_path, "def test_clean():\n    pass\n")
    assert done.returncode == 0
    assert "left these processes" not in done.stdout


def _run(directory: Path, text: str) -> subprocess.CompletedProcess[str]:
    (directory / "test_one.py").write_text(text)
    (directory / "conftest.py").write_text("from tests.conftest import *\n")
    (directory / "pytest.ini").write_text("[pytest]\n")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "."],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(_REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
