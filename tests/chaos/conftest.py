"""Options of `make chaos`."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--jobs", type=int, default=600, help="jobs to send")
    parser.addoption("--outage", type=float, default=10.0, help="seconds for which the S3 server stands still")
    parser.addoption("--seed", type=int, default=1, help="what is killed when")


@pytest.fixture
def options(request: pytest.FixtureRequest) -> pytest.Config:
    return request.config
