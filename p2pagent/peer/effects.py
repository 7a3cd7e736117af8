"""What a peer wants done. Frozen values; one that will be answered carries the id under which the answer comes back."""

from msgspec import Struct

from p2pagent.peer.events import Delivery, Notice, Rating, Timer
from p2pagent.peer.hub_messages import SignedSheet
from p2pagent.peer.messages import Dispute, SignedRefund
from p2pagent.peer.updates import Update
from p2pagent.peer.wire import WireMessage
from p2pagent.routing.marks import Prefix
from p2pagent.types import AgentRef, ChatMessage, PeerId, Sampling


class Send(Struct, frozen=True):
    """Send `message` to `peer`; if that fails, `Unsent` comes back."""

    peer: PeerId
    message: WireMessage


class SetTimer(Struct, frozen=True):
    """Fire `timer` at `at_ms`."""

    at_ms: int
    timer: Timer


class Generate(Struct, frozen=True):
    """Have the engine of `agent` answer `turns`; events about it name `job`. `prefix` are marks of these turns."""

    job: bytes
    agent: str
    turns: tuple[ChatMessage, ...]
    sampling: Sampling
    cache_salt: str
    priority: int
    domain: bytes = b""
    prefix: tuple[Prefix, ...] = ()


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


class Recount(Struct, frozen=True):
    """Count the tokens of `text`, a receipt's answer, by its agent's tokeniser; `Recounted` follows."""

    receipt_id: bytes
    seller: PeerId
    tokeniser: bytes
    claimed_tokens: int
    text: str


class RaiseDispute(Struct, frozen=True):
    """Keep a dispute that we raise ourselves; `Disputed` follows unless the receipt is in dispute or refunded."""

    seller: PeerId
    dispute: Dispute


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
    update: Update


Effect = (
    Send
    | SetTimer
    | Generate
    | Abort
    | Post
    | PostRefund
    | RecordDispute
    | Recount
    | RaiseDispute
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
