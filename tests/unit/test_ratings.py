"""Ratings and what was learned from them, in the store."""

import sqlite3
from pathlib import Path

import pytest

from p2pagent import ratings
from p2pagent.archive import read_named
from p2pagent.database import _MIGRATIONS
from p2pagent.peer.effects import Learned
from p2pagent.peer.events import Delivery, Rated, Rating
from p2pagent.ratings import Judged
from p2pagent.routing.prototypes import Relevance
from p2pagent.store import open_store
from p2pagent.types import AgentRef
from tests.booked import BOUGHT, ME, OTHER, tamper

AGENT = AgentRef(OTHER.peer, "agent")
DELIVERY = Delivery(AGENT, "space", Relevance((3, 1), (0.75, 0.25), 0.5), 0.625)
RECEIPT = BOUGHT.receipt_id


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


async def test_the_last_word_counts_and_the_one_before_it_is_given_back(path: Path) -> None:
    first, same, other = Rating(True, 5), Rating(True, 6), Rating(False, 7)
    async with open_store(path, ME.peer) as store:
        await store.post(BOUGHT.body, BOUGHT.seller_signature, BOUGHT.buyer_signature)
        assert (await store.find(RECEIPT.hex())).good is None
        assert await store.rate(RECEIPT, first) is None
        await store.remember(RECEIPT, DELIVERY, None)
        assert await store.rate(RECEIPT, first) == Rated(DELIVERY, first, None)
        assert await store.rate(RECEIPT, same) == Rated(DELIVERY, same, first)
        assert await store.rate(RECEIPT, other) == Rated(DELIVERY, other, first)
        assert (await store.find(RECEIPT.hex())).good is False
        await store.remember(RECEIPT, DELIVERY, None)
    assert read_named(path, RECEIPT.hex()).judged == {RECEIPT: Judged(DELIVERY, other)}


async def test_what_was_judged_at_once_can_be_rated_otherwise(path: Path) -> None:
    async with open_store(path, ME.peer) as store:
        await store.remember(RECEIPT, DELIVERY, Rating(False, 5))
        assert await store.rate(RECEIPT, Rating(True, 9)) == Rated(DELIVERY, Rating(True, 9), Rating(False, 5))


async def test_of_what_another_version_has_written_nothing_is_known(path: Path) -> None:
    async with open_store(path, ME.peer) as store:
        await store.remember(RECEIPT, DELIVERY, None)
        tamper(path, "UPDATE deliveries SET delivery = x'93010203'")
        assert await store.rate(RECEIPT, Rating(True, 9)) is None


async def test_the_newest_receipts_can_be_rated(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ratings, "DELIVERIES_MAX", 3)
    idents = [bytes([number]) * 32 for number in range(5)]
    async with open_store(path, ME.peer) as store:
        for ident in idents:
            await store.remember(ident, DELIVERY, None)
        kept = [await store.rate(ident, Rating(True, 1)) is not None for ident in idents]
    assert kept == [False, False, True, True, True]


async def test_experience_is_kept_by_agent_and_space_and_the_latest_holds(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ratings, "AGENTS_MAX", 3)
    agents = [AgentRef(OTHER.peer, f"agent {number}") for number in range(4)]
    async with open_store(path, ME.peer) as store:
        assert await store.load_experience() == {}
        await store.save_experience([Learned(agents[0], "one", b"old"), Learned(agents[0], "two", b"two")])
        await store.save_experience([Learned(agents[1], "one", b"b")])
        await store.save_experience([Learned(agents[0], "one", b"new")])
    async with open_store(path, ME.peer) as store:
        known = await store.load_experience()
        assert known == {"one": {agents[1]: b"b", agents[0]: b"new"}, "two": {agents[0]: b"two"}}
        await store.save_experience([Learned(agents[2], "one", b"c"), Learned(agents[3], "one", b"d")])
        known = await store.load_experience()
        assert {space: list(of) for space, of in known.items()} == {"one": [agents[0], agents[2], agents[3]]}


async def test_an_older_store_learns_to_keep_ratings(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(f"{_MIGRATIONS[0]} {_MIGRATIONS[1]} PRAGMA user_version = 2;")
    connection.close()
    async with open_store(path, ME.peer) as store:
        await store.post(BOUGHT.body, BOUGHT.seller_signature, BOUGHT.buyer_signature)
        await store.remember(RECEIPT, DELIVERY, None)
        assert await store.rate(RECEIPT, Rating(True, 1)) == Rated(DELIVERY, Rating(True, 1), None)
