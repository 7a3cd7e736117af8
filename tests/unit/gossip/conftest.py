"""A fixture of the gossip tests."""

import pytest

from tests.scenario import make_advert
from tests.strangers import make_peer


@pytest.fixture
def peer(space):
    return make_peer(space, make_advert("agent", {0: 0.9}))
