"""What the database keeps of answers that were judged and of what was learned from them, in SQL. Blocking."""

import sqlite3
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from p2pagent.peer.effects import Learned
from p2pagent.peer.events import Delivery, Rated, Rating
from p2pagent.types import AgentRef, PeerId

DELIVERIES_MAX = 4096
"""Receipts that can still be rated, the newest."""

AGENTS_MAX = 4096
"""Agents of whose answers something is remembered, those that were learned of last."""

_DELIVERY = "SELECT delivery, good, rated_ms FROM deliveries WHERE receipt_id = ?"
_FORGET = "DELETE FROM {0} WHERE rowid <= (SELECT rowid FROM {0} ORDER BY rowid DESC LIMIT 1 OFFSET ?)"


class Judged(Struct, frozen=True):
    """An answer that was bought, and its rating if it has one."""

    delivery: Delivery
    rating: Rating | None


def keep_delivery(connection: sqlite3.Connection, receipt_id: bytes, delivery: Delivery, rating: Rating | None) -> None:
    """Keep what is needed to rate a receipt."""
    row = (receipt_id, msgspec.msgpack.encode(delivery), *_columns(rating))
    connection.execute("INSERT INTO deliveries VALUES (?, ?, ?, ?) ON CONFLICT (receipt_id) DO NOTHING", row)
    connection.execute(_FORGET.format("deliveries"), (DELIVERIES_MAX,))


def judged(connection: sqlite3.Connection, receipt_id: bytes) -> Judged | None:
    """What is kept of a receipt's answer; None if that is nothing, or in the words of another version."""
    row = connection.execute(_DELIVERY, (receipt_id,)).fetchone()
    if row is None:
        return None
    body, good, rated_ms = row
    try:
        delivery = msgspec.msgpack.decode(body, type=Delivery)
    except msgspec.DecodeError:
        return None
    return Judged(delivery, None if good is None else Rating(bool(good), rated_ms))


def rate(connection: sqlite3.Connection, receipt_id: bytes, rating: Rating) -> Rated | None:
    """Rate a receipt, in place of an earlier rating that said the contrary; None if what that needs is not kept."""
    known = judged(connection, receipt_id)
    if known is None:
        return None
    if known.rating is None or known.rating.good != rating.good:
        change = "UPDATE deliveries SET good = ?, rated_ms = ? WHERE receipt_id = ?"
        connection.execute(change, (*_columns(rating), receipt_id))
    return Rated(known.delivery, rating, known.rating)


def save_experience(connection: sqlite3.Connection, learned: Sequence[Learned]) -> None:
    """Keep what is known of these agents, in place of what was."""
    rows = [(each.agent.peer, each.agent.name, each.space, each.experience) for each in learned]
    # REPLACE gives the row a new, highest rowid: rowid order is the order of writing.
    connection.executemany("REPLACE INTO experience VALUES (?, ?, ?, ?)", rows)
    connection.execute(_FORGET.format("experience"), (AGENTS_MAX,))


def load_experience(connection: sqlite3.Connection) -> dict[str, dict[AgentRef, bytes]]:
    """What is known of agents, by the name of the space."""
    known: dict[str, dict[AgentRef, bytes]] = {}
    for peer, agent, space, value in connection.execute(
        "SELECT peer, agent, space, value FROM experience ORDER BY rowid"
    ):
        known.setdefault(space, {})[AgentRef(PeerId(peer), agent)] = value
    return known


def _columns(rating: Rating | None) -> tuple[int | None, int | None]:
    return (None, None) if rating is None else (rating.good, rating.at_ms)
