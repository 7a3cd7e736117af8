"""Fixtures of the buying state machine's tests."""

import pytest

from p2pagent.routing import exploration, game
from p2pagent.routing.prototypes import Space
from tests.marketplace import Market
from tests.strangers import three_best


@pytest.fixture(autouse=True)
def _three_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(game, "choose", three_best)
    monkeypatch.setattr(exploration, "TRIAL_SHARE", 0)


@pytest.fixture
def market(space: Space) -> Market:
    return Market(space)
