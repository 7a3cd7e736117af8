"""What happens to a peer (events) and what it wants done (effects). All frozen values.

Both drivers, the daemon's and the simulator's, speak exactly these: `Peer.handle(event, now_ms) -> list[Effect]`.
An effect that will be answered carries the id under which the answer comes back.
"""

from typing import Literal

from msgspec import Struct

from p2pagent.peer.hub_messages import SignedSheet
from p2pagent.peer.messages import AgentAdvert, Dispute, SignedRefund
from p2pagent.peer.wire import WireMessage
from p2pagent.routing.prototypes import Relevance
from p2pagent.types import AgentRef, ChatMessage, Microcredits, PeerId, PrivacyClass, Sampling, Usage


class Policy(Struct, frozen=True):
    """What one answer is worth to the user, and how far its prompt may travel."""

    value_microcredits: Microcredits
    delay_microcredits_per_s: Microcredits
    price_max_microcredits: Microcredits
    privacy: PrivacyClass = "any"
    raw: bool = False
    """Pass pieces on at once, at the cost of a partial-result error should the agent go away after the first."""


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
    """The user asks. `prompt_tokens` is counted by the local tokeniser; those of one `batch` are cleared together.

    An answer is good if it equals `expect`, as `peer/outcomes.py` compares them; where that is empty the user judges.
    """

    query: str
    turns: tuple[ChatMessage, ...]
    sampling: Sampling
    prompt_tokens: int
    policy: Policy
    batch: str = ""
    expect: str = ""


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


class TimerFired(Struct, frozen=True):
    """A moment asked for by `SetTimer` has come."""

    timer: "Timer"


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


class Disputed(Struct, frozen=True):
    """The user disputes a receipt of `seller`; the ledger has the dispute."""

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
    | TimerFired
    | Generated
    | GenerationEnded
    | GenerationFailed
    | Posted
    | Disputed
    | DisputeRecorded
    | RefundPosted
    | Rated
    | ProvidersFound
    | Leave
    | Notice
)

# --- effects --------------------------------------------------------------------------------------------------------


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


class Send(Struct, frozen=True):
    """Send `message` to `peer`; if that fails, `Unsent` comes back."""

    peer: PeerId
    message: WireMessage


class SetTimer(Struct, frozen=True):
    """Fire `timer` at `at_ms`."""

    at_ms: int
    timer: Timer


class Generate(Struct, frozen=True):
    """Have the engine of `agent` answer `turns`; events about it name `job`."""

    job: bytes
    agent: str
    turns: tuple[ChatMessage, ...]
    sampling: Sampling
    cache_salt: str
    priority: int


class Abort(Struct, frozen=True):
    """Stop `job`; no event about it is wanted."""

    job: bytes


class Post(Struct, frozen=True):
    """Book a receipt that both sides signed; `Posted` follows."""

    receipt_id: bytes
    receipt: bytes
    seller_signature: bytes
    buyer_signature: bytes


class PostRefund(Struct, frozen=True):
    """Book a refund whose signature holds, if it fits a receipt in the ledger; `RefundPosted` follows."""

    refund: SignedRefund


class RecordDispute(Struct, frozen=True):
    """Keep what `buyer` disputes if the ledger holds that receipt as a sale to it; `DisputeRecorded` follows."""

    buyer: PeerId
    dispute: Dispute
    raised_ms: int


class RefundAcknowledged(Struct, frozen=True):
    """The buyer has booked the refund too: it need not be sent again."""

    receipt_id: bytes


class Archive(Struct, frozen=True):
    """Keep a checked sheet, so that the owner can be shown why a price was what it was."""

    sheet_id: bytes
    sheet: SignedSheet


class Remember(Struct, frozen=True):
    """Keep beside a receipt of ours what its user needs to judge it, and the rating if it was judged at once."""

    receipt_id: bytes
    delivery: Delivery
    rating: Rating | None


class Learned(Struct, frozen=True):
    """Keep what is known of the answers of `agent` to questions in `space`, in place of what was."""

    agent: AgentRef
    space: str
    experience: bytes


class Acknowledged(Struct, frozen=True):
    """The seller has booked the receipt too: it need not be sent again."""

    receipt_id: bytes


class Find(Struct, frozen=True):
    """Look in the DHT for peers that provide `cell`; `ProvidersFound` follows, empty if nobody or too late."""

    query: str
    cell: str


class Provide(Struct, frozen=True):
    """Tell the DHT that we serve these cells."""

    cells: tuple[str, ...]


class Learn(Struct, frozen=True):
    """Remember where `peer` is reached, and dial it ahead of need."""

    peer: PeerId
    addresses: tuple[str, ...]


class Blame(Struct, frozen=True):
    """`peer` broke the protocol; counted against it."""

    peer: PeerId
    fault: str


class Shun(Struct, frozen=True):
    """Break off contact with `peer`: it has broken the protocol too often."""

    peer: PeerId


class Tell(Struct, frozen=True):
    """Tell the user how the query goes."""

    query: str
    update: "Update"


Effect = (
    Send
    | SetTimer
    | Generate
    | Abort
    | Post
    | PostRefund
    | RecordDispute
    | RefundAcknowledged
    | Archive
    | Remember
    | Learned
    | Acknowledged
    | Find
    | Provide
    | Learn
    | Blame
    | Shun
    | Tell
    | Notice
)

# --- what the user is told ------------------------------------------------------------------------------------------


class Candidate(Struct, frozen=True):
    """One agent as the buyer saw it. Quality is a probability; `worth` is what choosing it is expected to gain.

    What it has quoted is in its worth, the wait and the slot's price; of who has not quoted, what was believed of both.
    """

    agent: AgentRef
    model: str
    quality: float
    uncertainty: float
    expected_cost_microcredits: Microcredits
    worth_microcredits: Microcredits
    outcome: Literal["not called", "called", "refused", "quoted", "awarded", "failed"]
    price_cap_microcredits: Microcredits | None = None
    slot_price_microcredits: Microcredits | None = None
    ttft_ms: int | None = None
    free_slots: int | None = None
    reason: str = ""
    outcomes: int = 0
    """Answers of this agent that were judged here."""
    wait_ms: int | None = None
    """What was believed of the wait for a slot before anybody was asked; None where that was of no interest."""
    toll_microcredits: Microcredits | None = None
    """What an answer there would have made others wait, beyond the slot's price: in its worth, but not paid."""
    chance: float | None = None
    """Probability with which this one was drawn first among those that could be asked; the own agent always is."""


class Text(Struct, frozen=True, tag="text"):
    """The next piece of the answer."""

    text: str


class Restarted(Struct, frozen=True, tag="restarted"):
    """The agent went away in mid-answer; what came so far is void and the answer starts again elsewhere."""

    lost: AgentRef
    reason: str


class Answered(Struct, frozen=True, tag="answered"):
    """The whole answer, who gave it, at what price, and why that agent.

    Attributes:
        how: who made the price: nobody for the own agent, the seller's signed card and quote, a hub's clearing.
        prompt_microcredits: per prompt token that was computed; so for `cached_` and `output_microcredits`.
        sheet: id of the sheet that the slot price comes from, in hex; empty without one.
        good: whether it is what was expected; None where only the user can tell.
    """

    text: str
    agent: AgentRef
    model: str
    delegated: bool
    usage: Usage
    how: Literal["own", "posted", "cleared"]
    price_microcredits: Microcredits
    prompt_microcredits: Microcredits
    cached_microcredits: Microcredits
    output_microcredits: Microcredits
    slot_price_microcredits: Microcredits
    sheet: str
    receipt_id: str
    finish_reason: Literal["stop", "length"]
    ttft_ms: int
    total_ms: int
    restarts: int
    candidates: tuple[Candidate, ...]
    why: str
    good: bool | None = None


class Unanswered(Struct, frozen=True, tag="unanswered"):
    """No answer: nobody could, or the user's raw stream broke off after `partial` pieces."""

    reason: str
    partial: bool
    candidates: tuple[Candidate, ...]


Update = Text | Restarted | Answered | Unanswered
