"""What strangers send: calls, quotes, answers and records as an honest peer makes them, for tests to bend."""

from collections.abc import Sequence
from hashlib import sha256
from random import Random

import msgspec

from p2pagent.config import Preferences
from p2pagent.market.receipts import metered, price_cap
from p2pagent.peer.credit import Account
from p2pagent.peer.debts import Debt
from p2pagent.peer.effects import Effect, Send
from p2pagent.peer.events import AgentsChanged, Received
from p2pagent.peer.gossip_messages import (
    AgentAdvert,
    Delta,
    Load,
)
from p2pagent.peer.messages import Award, Call, Final, Quote, Receipt, SignedQuote, Turn
from p2pagent.peer.peer import Peer
from p2pagent.peer.wire import WireMessage, encode, sealed
from p2pagent.routing.prototypes import Space
from p2pagent.sim.keys import SimKeys
from p2pagent.types import PeerId, Usage
from tests.members import make_known, make_record
from tests.scenario import START_MS, SUBJECTS, make_advert

ME, ALICE, BOB, CAROL = (SimKeys(i) for i in range(4))


def ident(number: int) -> bytes:
    """A conversation id."""
    return number.to_bytes(16, "big")


def prompt(subject: int) -> str:
    """A question on `subject`."""
    return f"{SUBJECTS[subject]} abc"


def make_peer(
    space: Space,
    *adverts: AgentAdvert,
    preferences: Preferences | None = None,
    accounts: dict[PeerId, Account] | None = None,
    debts: list[Debt] | None = None,
) -> Peer:
    """The peer of `ME`, hosting these agents."""
    peer = Peer(ME, space, "test", preferences or Preferences(), Random(1), 1, accounts, debts)
    peer.handle(AgentsChanged(adverts, ("/ip4/127.0.0.1/tcp/4000",)), START_MS)
    return peer


def make_call(space: Space, number: int, subject: int = 0, **changes: object) -> Call:
    """A call for an answer on `subject`."""
    text = prompt(subject)
    call = Call(ident(number), "agent", space.name, space.embed(text), len(text), 64, 120_000)
    return msgspec.structs.replace(call, **changes)


def make_award(number: int, subject: int = 0) -> Award:
    """The award that goes with `make_call`."""
    return Award(ident(number), (Turn("user", prompt(subject)),), 0, 0)


def make_delta(keys: SimKeys, space: Space, *adverts: AgentAdvert, sequence: int = 1, lease_ms: int = 600_000) -> Delta:
    """By which a peer with these agents makes itself known."""
    described = make_record(keys, *adverts, space=space.name, sequence=sequence, addresses=("/ip4/127.0.0.1/tcp/4001",))
    loads = tuple(Load(0, 0, 0, 0, 0) for _ in adverts)
    return Delta((make_known(keys, described, lease_ms=lease_ms, loads=loads),))


def make_quote(keys: SimKeys, call: Call, buyer: PeerId = ME.peer, **changes: object) -> SignedQuote:
    """An offer that follows from `make_advert`'s rate card."""
    rates = make_advert("any", {}).rates
    quote = Quote(
        conversation=call.conversation,
        buyer=buyer,
        agent=call.agent,
        free_slots=1,
        queued=0,
        wait_ms=0,
        ttft_ms=50,
        ttft_high_ms=50,
        tpot_us=5_000,
        cached_tokens=0,
        evicted_microcredits=0,
        rates=rates,
        sheet=b"",
        slot_price_microcredits=0,
        price_cap_microcredits=price_cap(rates, call.prompt_tokens, call.max_tokens, 0),
        expires_ms=5_000,
    )
    if "cached_tokens" in changes and changes["cached_tokens"] <= call.prompt_tokens:
        cap = price_cap(rates, call.prompt_tokens, call.max_tokens, 0, changes["cached_tokens"])
        changes = {"price_cap_microcredits": cap, **changes}
    if "ttft_ms" in changes:
        changes = {"ttft_high_ms": changes["ttft_ms"], **changes}
    return SignedQuote(*sealed(msgspec.structs.replace(quote, **changes), keys))


def make_final(keys: SimKeys, call: Call, text: str, buyer: PeerId = ME.peer, **changes: object) -> Final:
    """The end of the answer `text`, with the receipt that it bears out."""
    rates = make_advert("any", {}).rates
    receipt = Receipt(
        conversation=call.conversation,
        buyer=buyer,
        seller=keys.peer,
        agent=call.agent,
        prompt_tokens=call.prompt_tokens,
        cached_tokens=0,
        output_tokens=len(text),
        rates=rates,
        sheet=b"",
        slot_price_microcredits=0,
        price_microcredits=metered(rates, Usage(call.prompt_tokens, 0, len(text))),
        answer_sha256=sha256(text.encode()).digest(),
        issued_ms=START_MS,
    )
    return Final(call.conversation, "stop", *sealed(msgspec.structs.replace(receipt, **changes), keys))


def receive(peer: Peer, sender: SimKeys, message: WireMessage, after_ms: int = 0) -> list[Effect]:
    """Let `message` come from `sender`, `after_ms` after the start."""
    return peer.handle(Received(sender.peer, message), START_MS + after_ms)


def sent(effects: list[Effect], to: SimKeys | None = None) -> list[WireMessage]:
    """The messages among `effects`, all or those to one peer; each is one that the wire would carry."""
    messages = [e.message for e in effects if isinstance(e, Send) and (to is None or e.peer == to.peer)]
    for message in messages:
        msgspec.convert(msgspec.msgpack.decode(encode(message)), type(message), strict=False)
    return messages


def three_best(
    utilities: Sequence[float],
    _unseen_s: Sequence[float],
    _utilisation: Sequence[float],
    _delay_cost_per_s: float,
    _rng: Random,
    floor: float,
    *,
    every: bool,
) -> list[int]:
    """In place of `game.choose`, for tests of what follows when three are asked."""
    del every
    better = [number for number, utility in enumerate(utilities) if utility > floor]
    return sorted(better, key=lambda number: -utilities[number])[:3]
