"""Fixtures that all tests share."""

from random import Random

import pytest

from p2pagent.routing.prototypes import Space
from tests.scenario import make_space


@pytest.fixture(scope="session")
def space() -> Space:
    """One prototype per subject of the scenario."""
    return make_space()


@pytest.fixture
def rng() -> Random:
    """Seeded."""
    return Random(4711)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Golden traces are rewritten on demand."""
    parser.addoption("--rewrite", action="store_true", help="write the golden traces anew")
