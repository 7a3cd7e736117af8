"""The owner's part in hub clearing: seal one bid for all that waits, open it once the book stands, read the sheet.

Rule 1: every query that is contested ends in exactly one `Cleared`, an epoch after its commit at the latest.
Rule 2: one commit for a hub and epoch; queries that come later wait for the next epoch.
"""

from collections import defaultdict
from random import Random

from msgspec import Struct, field

from p2pagent.keys import Keys
from p2pagent.peer.effects import Blame, Effect, Send, SetTimer
from p2pagent.peer.epochs import EPOCH_MS, Cast, epoch_at
from p2pagent.peer.events import Cleared, Contest, Timer
from p2pagent.peer.hub_messages import (
    BID_BYTES_MAX,
    GAINS_MAX,
    WANTS_MAX,
    Acknowledgement,
    Bid,
    Clearing,
    Commit,
    Decline,
    Gain,
    Proof,
    Reveal,
    SignedAcknowledgement,
    SignedCommit,
    Statement,
    Want,
)
from p2pagent.peer.sheet import BookView, agent_tag, body_id
from p2pagent.peer.sheets import Held
from p2pagent.peer.wire import encode, sealed
from p2pagent.routing.hubs import Hub
from p2pagent.types import PeerId

DELAY_MAX = 1 << 32
"""What a bid can say that a second costs."""


class Bidding(Struct):
    """One owner's part in one clearing. `queries` are those of the bid's wants, in order."""

    hub: str
    epoch: int
    auctioneer: PeerId
    bid: bytes
    commit_id: bytes
    conversations: tuple[bytes, ...]
    queries: list[str]
    acknowledged: dict[str, Statement] = field(default_factory=dict)
    revealed: bool = False


class Bidder:
    """All clearings that this device's queries are in."""

    def __init__(self, keys: Keys, cast: Cast, rng: Random) -> None:
        self._keys = keys
        self._cast = cast
        self._rng = rng
        self._waiting: dict[str, Contest] = {}
        self._scheduled_ms = 0
        self._biddings: dict[tuple[str, int], Bidding] = {}
        self._last: dict[str, int] = {}

    def bids(self, clearing: Clearing) -> bool:
        """Whether a bid of ours is in this clearing."""
        return self._in(clearing) is not None

    def on_contest(self, contest: Contest, now_ms: int) -> list[Effect]:
        """Take a query in; those of the same moment go into one bid."""
        self._waiting[contest.query] = contest
        return self._schedule(now_ms, now_ms)

    def on_withdraw(self, query: str) -> list[Effect]:
        """A query needs no clearing any more. What it is granted all the same is left to lapse."""
        self._waiting.pop(query, None)
        for bidding in self._biddings.values():
            bidding.queries = ["" if q == query else q for q in bidding.queries]
        return []

    def on_bid_timer(self, now_ms: int) -> list[Effect]:
        """Commit to a bid in each hub that queries wait for."""
        if self._scheduled_ms > now_ms:
            return []
        self._scheduled_ms = 0
        epoch = epoch_at(now_ms)
        effects: list[Effect] = []
        hubs: dict[str, Hub] = {}
        wanting: dict[str, list[Contest]] = defaultdict(list)
        for contest in self._waiting.values():
            hub = self._cast.hub(contest.prototype, contest.attempt, epoch, now_ms)
            hubs[hub.name] = hub
            wanting[hub.name].append(contest)
        for name, contests in wanting.items():
            if self._last.get(name, -1) < epoch:
                effects += self._commit(hubs[name], epoch, contests[:WANTS_MAX], now_ms)
        if self._waiting:
            effects += self._schedule((epoch + 1) * EPOCH_MS, now_ms)
        return effects

    def on_decline(self, auctioneer: PeerId, decline: Decline) -> list[Effect]:
        """The auctioneer will not have our commit."""
        bidding = self._in((decline.hub, decline.epoch, auctioneer))
        if bidding is None:
            return []
        empty = decline.reason == "empty"
        reason = "nobody of the hub had a slot" if empty else f"the auctioneer declined ({decline.reason})"
        return self._void(bidding, reason, again=empty or decline.reason == "late")

    def on_acknowledgement(self, ack: Acknowledgement, signed: SignedAcknowledgement) -> list[Effect]:
        """Keep what the auctioneer owes us a place for."""
        bidding = self._in(ack.clearing)
        if bidding is None:
            return []
        if ack.sha256 == (bidding.commit_id if ack.what == "commit" else body_id(bidding.bid)):
            bidding.acknowledged[ack.what] = Statement("ack", signed.body, signed.signature)
        return []

    def on_book(self, view: BookView, statement: Statement) -> list[Effect]:
        """Open our bid if we are in the book."""
        bidding = self._in(view.book.clearing)
        if bidding is None:
            return []
        if all(commit.bid_sha256 != body_id(bidding.bid) for commit in view.commits):
            return self._left_out(bidding, statement)
        bidding.revealed = True
        return [Send(bidding.auctioneer, Reveal(bidding.bid))]

    def on_sheet(self, held: Held) -> list[Effect]:
        """Read what our queries got, at what toll."""
        view = held.view
        bidding = self._in(view.book.book.clearing)
        if bidding is None:
            return []
        statement = Statement("sheet", held.signed.body, held.signed.signature)
        own = next((n for n, c in enumerate(view.book.commits) if c.bid_sha256 == body_id(bidding.bid)), None)
        if own is None:
            return self._left_out(bidding, statement)
        if view.bids[own] is None:
            acknowledged = bidding.acknowledged.get("bid")
            denied: Effect = Blame(bidding.auctioneer, "left our bid out without acknowledging it")
            if acknowledged is not None:
                denied = Send(self._keys.peer, Proof((acknowledged, statement)))
            return [denied, *self._void(bidding, "was left out of the sheet")]
        grants = {grant.want: grant for grant in view.sheet.grants if grant.bid == own}
        effects: list[Effect] = []
        for number, query in enumerate(bidding.queries):
            if not query:
                continue
            grant = grants.get(number)
            if grant is None:
                effects.append(Cleared(query, reason="others valued the slots more", again=True))
                continue
            lot = view.book.lots[grant.lot]
            conversation = bidding.conversations[number]
            effects.append(Cleared(query, lot.agent, conversation, view.sheet_id, grant.toll_microcredits, lot.wait_ms))
        del self._biddings[bidding.hub, bidding.epoch]
        return effects

    def on_void(self, clearing: Clearing, reason: str) -> list[Effect]:
        """This clearing cannot be trusted."""
        bidding = self._in(clearing)
        return [] if bidding is None else self._void(bidding, reason)

    @property
    def auctioneers(self) -> set[PeerId]:
        """Who clears what we bid for now."""
        return {bidding.auctioneer for bidding in self._biddings.values()}

    def on_auctioneer_gone(self, auctioneer: PeerId) -> list[Effect]:
        """Contact with an auctioneer was lost."""
        lost = [b for b in self._biddings.values() if b.auctioneer == auctioneer]
        return [effect for bidding in lost for effect in self._void(bidding, "the auctioneer went away")]

    def on_deadline(self, hub: str, epoch: int) -> list[Effect]:
        """No sheet came: the queries go on without one."""
        bidding = self._biddings.get((hub, epoch))
        if bidding is None:
            return []
        if not bidding.acknowledged:
            fault = "did not acknowledge our commit"
        elif bidding.revealed:
            fault = "signed a book and brought no sheet"
        else:
            fault = "acknowledged our commit and brought no book"
        return [Blame(bidding.auctioneer, fault), *self._void(bidding, "no sheet came in time")]

    def _in(self, clearing: Clearing) -> Bidding | None:
        hub, epoch, auctioneer = clearing
        bidding = self._biddings.get((hub, epoch))
        return bidding if bidding is not None and bidding.auctioneer == auctioneer else None

    def _schedule(self, at_ms: int, now_ms: int) -> list[Effect]:
        if now_ms < self._scheduled_ms <= at_ms:
            return []
        self._scheduled_ms = at_ms
        return [SetTimer(at_ms, Timer("bid"))]

    def _commit(self, hub: Hub, epoch: int, contests: list[Contest], now_ms: int) -> list[Effect]:
        members = set(hub.agents)
        effects: list[Effect] = []
        wants: list[Want] = []
        queries: list[str] = []
        for contest in contests:
            best = sorted(
                ((gain, agent) for agent, gain in contest.gains if agent in members and gain > 0), reverse=True
            )
            if not best:
                del self._waiting[contest.query]
                effects.append(Cleared(contest.query, reason="nobody of its hub is worth it"))
                continue
            # Whoever has two agents of one tag, found by trial, must not spoil the bids of others.
            gains = sorted({agent_tag(agent): gain for gain, agent in reversed(best[:GAINS_MAX])}.items())
            delay = min(contest.delay_microcredits_per_s, DELAY_MAX)
            wants.append(Want(self._rng.randbytes(16), delay, tuple(Gain(*pair) for pair in gains)))
            queries.append(contest.query)
        auctioneers = self._cast.auctioneers(hub.name, epoch, now_ms)
        if not wants or not auctioneers:
            return effects
        nonce = self._rng.randbytes(16)
        while len(bid := encode(Bid(hub.name, epoch, self._keys.peer, nonce, tuple(wants)))) > BID_BYTES_MAX:
            wants.pop()  # what does not fit waits for the next epoch
            queries.pop()
        for query in queries:
            del self._waiting[query]
        self._last[hub.name] = epoch
        commit = Commit(hub.name, epoch, auctioneers[0], self._keys.peer, body_id(bid), len(bid), len(wants))
        signed = SignedCommit(*sealed(commit, self._keys))
        conversations = tuple(want.conversation for want in wants)
        bidding = Bidding(hub.name, epoch, auctioneers[0], bid, body_id(signed.body), conversations, queries)
        self._biddings[hub.name, epoch] = bidding
        deadline = SetTimer(now_ms + EPOCH_MS, Timer("cleared", hub.name.encode(), epoch))
        return [*effects, Send(bidding.auctioneer, signed), deadline]

    def _left_out(self, bidding: Bidding, statement: Statement) -> list[Effect]:
        """Our commit is not in the book: a lie if it was acknowledged, else it may have come when that was closed."""
        acknowledged = bidding.acknowledged.get("commit")
        if acknowledged is None:
            return self._void(bidding, "came too late for the book", again=True)
        proof = Send(self._keys.peer, Proof((acknowledged, statement)))
        return [proof, *self._void(bidding, "was left out of the book")]

    def _void(self, bidding: Bidding, reason: str, *, again: bool = False) -> list[Effect]:
        del self._biddings[bidding.hub, bidding.epoch]
        return [Cleared(query, reason=reason, again=again) for query in bidding.queries if query]
