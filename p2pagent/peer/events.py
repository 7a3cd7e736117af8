"""What happens to a peer, and what one part of it tells another. Frozen values.

Both drivers, the daemon's and the simulator's, speak exactly these and those of `effects.py`:
`Peer.handle(event, now_ms) -> list[Effect]`.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from msgspec import Struct

from p2pagent.peer.gossip_messages import AgentAdvert
from p2pagent.peer.messages import Dispute, SignedRefund
from p2pagent.peer.wire import WireMessage
from p2pagent.routing.prototypes import Relevance
from p2pagent.routing.qos import Sample
from p2pagent.routing.residency import Held
from p2pagent.types import AgentRef, ChatMessage, Microcredits, PeerId, PrivacyClass, Sampling, Usage


class Policy(Struct, frozen=True):
    """What one answer is worth to the user, and how far its prompt may travel."""

    value_microcredits: Microcredits
    delay_microcredits_per_s: Microcredits
    price_max_microcredits: Microcredits
    privacy: PrivacyClass = "any"
    raw: bool = False
    """Pass pieces on at once, at the cost of a partial-result error should the agent go away after the first."""
    only: AgentRef | None = None
    """The one agent to ask, whatever it is worth; None where anybody may answer."""

    def delay_microcredits(self, wait_ms: int) -> Microcredits:
        """What it costs to wait for so long."""
        return self.delay_microcredits_per_s * wait_ms // 1000


Outcome = Literal["new", "known", "missing", "unfounded"]
"""Of booking a refund: it is booked now, it was before, or it fits no receipt that the ledger holds."""


class Delivery(Struct, frozen=True):
    """An answer as it can be judged later: whose it is, where in `space` its question lay, what was expected of it."""

    agent: AgentRef
    space: str
    relevance: Relevance
    quality: float


class Rating(Struct, frozen=True):
    """Whether an answer was good, and when that was said."""

    good: bool
    at_ms: int


# --- events ---------------------------------------------------------------------------------------------------------


class Ask(Struct, frozen=True):
    """The user asks. Those of one `batch` are cleared together.

    An answer is good if it equals `expect`, as `peer/outcomes.py` compares them; where that is empty the user judges.

    Attributes:
        prompt_tokens: what the prompt is expected to have where the agent's tokeniser is not known.
        prompt_tokens_max: what it may have there at most; 0 if that is the same.
        counted: what it has, by the digest of the tokeniser.
    """

    query: str
    turns: tuple[ChatMessage, ...]
    sampling: Sampling
    prompt_tokens: int
    policy: Policy
    batch: str = ""
    expect: str = ""
    prompt_tokens_max: int = 0
    counted: Mapping[bytes, int] = {}

    @property
    def goes_on(self) -> bool:
        """Whether it goes on from what an agent has answered before."""
        return any(turn.role == "assistant" for turn in self.turns)

    def tokens_by(self, tokeniser: bytes) -> int:
        """What the prompt has by the tokeniser of this digest, or is expected to have."""
        return self.counted.get(tokeniser, self.prompt_tokens)

    def tokens_called(self, advert: AgentAdvert) -> int:
        """What the prompt has by an agent's tokeniser; where that is not known, the most that it may have there.

        So many tokens may be billed. An agent answers no prompt that fills its context, whatever its tokeniser.
        """
        if advert.tokeniser in self.counted:
            return self.counted[advert.tokeniser]
        return max(self.prompt_tokens, min(self.prompt_tokens_max, advert.context_tokens - 1))


class CancelAsk(Struct, frozen=True):
    """The user no longer wants the answer."""

    query: str


class Received(Struct, frozen=True):
    """A well-formed message from `peer`."""

    peer: PeerId
    message: WireMessage


class PeerUp(Struct, frozen=True):
    """A connection to `peer` stands: direct contact."""

    peer: PeerId


class PeerDown(Struct, frozen=True):
    """The connection to `peer` broke."""

    peer: PeerId


class PeerIdle(Struct, frozen=True):
    """The connection to `peer` was closed in good order, here or there: nobody needed it, or it shuts down."""

    peer: PeerId


class Unsent(Struct, frozen=True):
    """A message to `peer` did not leave, so conversations with it have a hole."""

    peer: PeerId


class Misbehaved(Struct, frozen=True):
    """What came from `peer` was no message at all."""

    peer: PeerId
    fault: str


class AgentsChanged(Struct, frozen=True):
    """The agents that this device hosts, measured and ready; and the addresses under which it is reached."""

    agents: tuple[AgentAdvert, ...]
    addresses: tuple[str, ...]
    measured: Mapping[str, Sequence[Sample]] = {}
    """How fast each was as it started, by name."""


class CacheChanged(Struct, frozen=True):
    """The engine of an agent says what its prefix cache holds; with None, that it does not tell any more."""

    agent: str
    held: Held | None


class Timer(Struct, frozen=True):
    """What a timer is about. One that no longer matters when it fires is ignored, so none is ever cancelled."""

    kind: Literal[
        "quotes",
        "clear",
        "progress",
        "hold",
        "tick",
        "probe",
        "relay",
        "remind",
        "book",
        "sheet",
        "bid",
        "cleared",
        "offer",
        "grant",
    ]
    ident: bytes = b""
    mark: int = 0


class TimerFired(Struct, frozen=True):
    """A moment asked for by `SetTimer` has come."""

    timer: Timer


class Generated(Struct, frozen=True):
    """The engine decoded a piece of the answer to `job`."""

    job: bytes
    text: str


class GenerationEnded(Struct, frozen=True):
    """The engine finished `job`."""

    job: bytes
    usage: Usage
    finish_reason: Literal["stop", "length"]


class GenerationFailed(Struct, frozen=True):
    """The engine could not finish `job`."""

    job: bytes
    reason: Literal["engine", "length"]


class Posted(Struct, frozen=True):
    """The ledger holds the receipt durably; `new` unless it did already."""

    receipt_id: bytes
    new: bool


class Recounted(Struct, frozen=True):
    """An answer of `seller`, who claims so many tokens for it, was counted; None where its tokeniser is not known."""

    receipt_id: bytes
    seller: PeerId
    claimed_tokens: int
    tokens: int | None


class Disputed(Struct, frozen=True):
    """We dispute a receipt of `seller`, our user or a recount; the ledger has the dispute."""

    seller: PeerId
    dispute: Dispute


class DisputeRecorded(Struct, frozen=True):
    """What `buyer` disputes was looked up, and kept if it bought it; `refund` if it was given back before."""

    buyer: PeerId
    refund: SignedRefund | None


class RefundPosted(Struct, frozen=True):
    """What the ledger made of a refund, ours or another's; unless unfounded it is durable there."""

    refund: SignedRefund
    outcome: Outcome


class Rated(Struct, frozen=True):
    """The user has judged an answer that it bought, and may have said the contrary `earlier`; the ledger has both."""

    delivery: Delivery
    rating: Rating
    earlier: Rating | None


class ProvidersFound(Struct, frozen=True):
    """Peers that the DHT names for `cell`, for the query that asked; for our own sake if that is empty."""

    query: str
    cell: str
    peers: tuple[PeerId, ...]


class Leave(Struct, frozen=True):
    """This device shuts down: say so."""


# --- notices: what one part of a peer tells another; they are effects that `Peer.handle` takes up itself ------------


class Contest(Struct, frozen=True):
    """The buyer wants `query` cleared in a hub. Gains are over what it would do otherwise."""

    query: str
    prototype: int
    attempt: int
    """How many clearings had no slot for it."""
    delay_microcredits_per_s: Microcredits
    gains: tuple[tuple[AgentRef, Microcredits], ...]


class Withdraw(Struct, frozen=True):
    """`query` needs no clearing any more."""

    query: str


class Cleared(Struct, frozen=True):
    """A hub has decided on `query`: `agent` serves it at this toll, or nobody, for `reason`."""

    query: str
    agent: AgentRef | None = None
    conversation: bytes = b""
    sheet: bytes = b""
    toll_microcredits: Microcredits = 0
    wait_ms: int = 0
    reason: str = ""
    again: bool = False
    """The clearing was fair, but had no slot for it: the next epoch's may."""


class SheetKnown(Struct, frozen=True):
    """A sheet was checked and is at hand."""

    sheet: bytes


Notice = Contest | Withdraw | Cleared | SheetKnown

Event = (
    Ask
    | CancelAsk
    | Received
    | PeerUp
    | PeerDown
    | PeerIdle
    | Unsent
    | Misbehaved
    | AgentsChanged
    | CacheChanged
    | TimerFired
    | Generated
    | GenerationEnded
    | GenerationFailed
    | Posted
    | Recounted
    | Disputed
    | DisputeRecorded
    | RefundPosted
    | Rated
    | ProvidersFound
    | Leave
    | Notice
)
