"""``pytest tests/golden --update-golden`` writes the golden files anew and deletes those that nothing makes."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files anew; then read the diff")


@pytest.fixture(scope="session")
def update_golden(request: pytest.FixtureRequest) -> bool:
    # Unknown to a run that began in another folder: then nothing is written.
    return bool(request.config.getoption("--update-golden", default=False))
