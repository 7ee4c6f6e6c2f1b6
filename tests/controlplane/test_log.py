from __future__ import annotations

import logging

from controlplane.log import KeyValueFormatter, event


def test_one_event_is_one_line(caplog) -> None:  # type: ignore[no-untyped-def]  # pytest's fixture
    with caplog.at_level(logging.INFO):
        event(logging.getLogger("x"), logging.INFO, "join refused", peer="ipv4:1:2", why='a\nb "c"', none=None, e="")
    line = KeyValueFormatter(journal=True).format(caplog.records[0])
    assert line == '<6>join refused peer=ipv4:1:2 why="a\\nb \\"c\\"" e=""'
