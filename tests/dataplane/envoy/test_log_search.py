from __future__ import annotations

from pathlib import Path

import pytest

from dataplane.envoy import log_search
from dataplane.envoy.access_log import older
from dataplane.envoy.log_search import find
from schemas.errors import NotFound
from schemas.questions import MAX_ENTRIES, MAX_ENTRY_BYTES


def entry(request_id: str, number: int = 0) -> str:
    return f'{{"n":{number},"request_id":"{request_id}","path":"/{number}"}}'


@pytest.mark.parametrize("chunk", [1, 7, 64, 1 << 20])
def test_found_wherever_a_chunk_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    log = tmp_path / "access.log"
    lines = [entry(f"id-{number % 5}", number) for number in range(20)]
    older(log).write_text("\n".join(lines[:9]) + "\n")
    log.write_text("\n".join(lines[9:]) + "\n" + entry("id-1", 99)[:-3])  # the last one is being written
    monkeypatch.setattr(log_search, "_CHUNK", max(chunk, len(max(lines)) + 2))
    found = find(log, "id-1")
    assert found.lines == tuple(line for line in lines if '"id-1"' in line)
    assert [path for path, _ in found.files] == [older(log), log]
    assert find(log, "id-").lines == ()


def test_bounded(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    long = entry("again")[:-1] + ',"x":"' + "x" * MAX_ENTRY_BYTES + '"}'
    log.write_text("".join(f"{entry('again', number)}\n" for number in range(100)) + long + "\n")
    found = find(log, "again").lines
    assert found == tuple(entry("again", number) for number in range(100 - MAX_ENTRIES, 100))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no file that can be read again"):
        find(tmp_path / "access.log", "x")
    with pytest.raises(NotFound):
        find(Path("/dev/null"), "x")
