"""What travels between peers: every field of it bounded, so that nothing behind has to ask how long or how large.

Frozen and positional; `wire.py` turns bytes into these and back. They are also the source of the JSON Schemas in
`protocols/`. Signed things travel as the very bytes that were signed (`body`). Hub clearing's are in `hub_messages.py`.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

ARRAY_LENGTH_MAX = 1024
TOKENS_MAX = 1 << 24
TURNS_MAX = 256
TEXT_CHARACTERS_MAX = 1 << 18
SEED_MAX = 1 << 31
RECORD_BYTES_MAX = 2048
"""A signed record, envelope included: gossip of it stays one small packet."""

CellName = Annotated[str, Meta(min_length=1, max_length=24, pattern="^/[01]*([.][01]*)?$")]
"""A cell of the tree of prototypes: see `routing/hubs.py`."""

Ident = Annotated[bytes, Meta(min_length=16, max_length=16)]
Digest256 = Annotated[bytes, Meta(min_length=32, max_length=32)]
Signature = Annotated[bytes, Meta(min_length=64, max_length=64)]
Peer = Annotated[str, Meta(min_length=52, max_length=52, pattern="^12D3KooW")]
Name = Annotated[str, Meta(min_length=1, max_length=64)]
Tokens = Annotated[int, Meta(ge=0, le=TOKENS_MAX)]
Milliseconds = Annotated[int, Meta(ge=0, le=1 << 31)]
UnixMilliseconds = Annotated[int, Meta(ge=0, le=1 << 53)]
Money = Annotated[int, Meta(ge=0, le=1 << 53)]
Rate = Annotated[int, Meta(ge=0, le=1 << 32)]
Count = Annotated[int, Meta(ge=0, le=1 << 16)]
Total = Annotated[int, Meta(ge=0, le=1 << 53)]
SheetRef = Annotated[bytes, Meta(max_length=32)]
"""The SHA-256 of the sheet that a slot price comes from; empty where there is no slot price."""
Text = Annotated[str, Meta(max_length=TEXT_CHARACTERS_MAX)]


class Message(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Base of all that travels: positional, closed, immutable."""


class RateCard(Message, frozen=True):
    """What an agent charges, in microcredits per token of each kind."""

    prompt: Rate
    cached: Rate
    output: Rate


class AgentAdvert(Message, frozen=True):
    """One agent in a record. `capability` holds its measured accuracy per prototype, 0 to 255."""

    name: Name
    model: Annotated[str, Meta(max_length=64)]
    capability: Annotated[bytes, Meta(max_length=256)]
    rates: RateCard
    context_tokens: Tokens
    slots: Count


class Record(Message, frozen=True):
    """What a peer tells the network about itself; it holds as long as heartbeats name it.

    Of two records of one peer the one with the larger `(incarnation, sequence)` holds.
    """

    peer: Peer
    network: Name
    space: Name
    incarnation: UnixMilliseconds
    sequence: UnixMilliseconds
    addresses: Annotated[tuple[Annotated[str, Meta(max_length=160)], ...], Meta(max_length=8)]
    agents: Annotated[tuple[AgentAdvert, ...], Meta(max_length=8)]

    @property
    def version(self) -> tuple[int, int]:
        """What orders the records of one peer."""
        return (self.incarnation, self.sequence)


class Quote(Message, frozen=True):
    """A seller's binding offer for one call, good until `expires_ms` after it was made.

    `price_cap_microcredits` is the most that the receipt may claim: no prompt token cached, every output token used.
    """

    conversation: Ident
    buyer: Peer
    agent: Name
    free_slots: Count
    queued: Count
    ttft_ms: Milliseconds
    tpot_us: Milliseconds
    cached_tokens: Tokens
    rates: RateCard
    sheet: SheetRef
    slot_price_microcredits: Money
    price_cap_microcredits: Money
    expires_ms: Milliseconds


class Receipt(Message, frozen=True):
    """What was delivered and what is owed for it. Signed by the seller, then by the buyer; then both ledgers move."""

    conversation: Ident
    buyer: Peer
    seller: Peer
    agent: Name
    prompt_tokens: Tokens
    cached_tokens: Tokens
    output_tokens: Tokens
    rates: RateCard
    sheet: SheetRef
    slot_price_microcredits: Money
    price_microcredits: Money
    answer_sha256: Digest256
    issued_ms: UnixMilliseconds


class Refund(Message, frozen=True):
    """The seller gives back what a receipt moved, all of it. Its signature suffices: it is the seller's loss alone."""

    receipt_id: Digest256
    buyer: Peer
    seller: Peer
    price_microcredits: Money
    issued_ms: UnixMilliseconds


class Turn(Message, frozen=True):
    """One turn of the conversation that is to be answered."""

    role: Literal["system", "user", "assistant"]
    content: Text


class Call(Message, frozen=True, tag="call"):
    """A buyer asks for a quote. The prompt stays at home: only its quantised embedding and its length travel."""

    conversation: Ident
    agent: Name
    space: Name
    embedding: Annotated[bytes, Meta(max_length=1024)]
    prompt_tokens: Tokens
    max_tokens: Tokens
    deadline_ms: Milliseconds


class SignedQuote(Message, frozen=True, tag="quote"):
    """A `Quote` under the seller's signature."""

    body: Annotated[bytes, Meta(max_length=1024)]
    signature: Signature


class Refuse(Message, frozen=True, tag="refuse"):
    """A seller will not quote."""

    conversation: Ident
    reason: Literal["busy", "credit", "space", "agent", "length"]


class Award(Message, frozen=True, tag="award"):
    """The quote is taken; here is the prompt."""

    conversation: Ident
    turns: Annotated[tuple[Turn, ...], Meta(min_length=1, max_length=TURNS_MAX)]
    temperature_milli: Annotated[int, Meta(ge=0, le=10_000)]
    seed: Annotated[int, Meta(ge=0, le=SEED_MAX)]


class Release(Message, frozen=True, tag="release"):
    """The buyer no longer wants this conversation: a hold ends, an answer under way stops."""

    conversation: Ident


class Chunk(Message, frozen=True, tag="chunk"):
    """The next piece of the answer."""

    conversation: Ident
    index: Tokens
    text: Text


class Final(Message, frozen=True, tag="final"):
    """The answer is complete; `receipt` under the seller's signature says what is owed."""

    conversation: Ident
    finish_reason: Literal["stop", "length"]
    receipt: Annotated[bytes, Meta(max_length=1024)]
    signature: Signature


class Fail(Message, frozen=True, tag="fail"):
    """The seller breaks off; nothing is owed."""

    conversation: Ident
    reason: Literal["engine", "embedding", "expired", "busy", "length"]


class Settle(Message, frozen=True, tag="settle"):
    """The receipt with both signatures, sent until acknowledged."""

    receipt: Annotated[bytes, Meta(max_length=1024)]
    seller_signature: Signature
    buyer_signature: Signature


class Settled(Message, frozen=True, tag="settled"):
    """The seller has booked the receipt."""

    receipt_id: Digest256


class Dispute(Message, frozen=True, tag="dispute"):
    """The buyer contests a receipt that both have booked; sent at every meeting until it is refunded."""

    receipt_id: Digest256
    reason: Annotated[str, Meta(max_length=256)]


class SignedRefund(Message, frozen=True, tag="refund"):
    """A `Refund` under the seller's signature."""

    body: Annotated[bytes, Meta(max_length=1024)]
    signature: Signature


class SignedRecord(Message, frozen=True):
    """A `Record` under its peer's signature."""

    body: Annotated[bytes, Meta(max_length=RECORD_BYTES_MAX)]
    signature: Signature


class Load(Message, frozen=True):
    """How busy one agent is: answers at work and waiting at this moment, and counters since the incarnation began.

    Counters, so that two heartbeats tell what happened between them, however many were lost.
    """

    running: Count
    waiting: Count
    arrived: Total
    served: Total
    busy_ms: Total


class Heartbeat(Message, frozen=True):
    """A sign of life, good from `issued_ms` for `lease_ms`; 0 means that the peer leaves.

    It names the record that it goes with by its version; `loads` are in the order of that record's agents. Of two
    heartbeats of one peer the later one holds. `refuted` counts the suspicions that this incarnation has answered.
    """

    peer: Peer
    incarnation: UnixMilliseconds
    sequence: UnixMilliseconds
    refuted: Total
    issued_ms: UnixMilliseconds
    lease_ms: Milliseconds
    loads: Annotated[tuple[Load, ...], Meta(max_length=8)]

    @property
    def version(self) -> tuple[int, int]:
        """Of the record that it goes with."""
        return (self.incarnation, self.sequence)


class SignedHeartbeat(Message, frozen=True):
    """A `Heartbeat` under its peer's signature."""

    body: Annotated[bytes, Meta(max_length=512)]
    signature: Signature


class Suspicion(Message, frozen=True):
    """`accuser` got no answer from `accused`, neither itself nor through others.

    A heartbeat of a later incarnation, or with a larger `refuted`, says that `accused` has read this and lives.
    """

    accuser: Peer
    accused: Peer
    incarnation: UnixMilliseconds
    refuted: Total


class SignedSuspicion(Message, frozen=True):
    """A `Suspicion` under its accuser's signature."""

    body: Annotated[bytes, Meta(max_length=256)]
    signature: Signature


class News(Message, frozen=True):
    """What rides on every ping and its answer: who was heard, who is suspected."""

    heartbeats: Annotated[tuple[SignedHeartbeat, ...], Meta(max_length=32)]
    suspicions: Annotated[tuple[SignedSuspicion, ...], Meta(max_length=16)]


class Ping(Message, frozen=True, tag="ping"):
    """Are you there? `number` comes back in the answer."""

    number: Count
    news: News


class Ack(Message, frozen=True, tag="ack"):
    """I am, or the one is whom you asked me to ping; then `news` is mine."""

    number: Count
    news: News


class Relay(Message, frozen=True, tag="relay"):
    """Ping `target` for me: I got no answer."""

    number: Count
    target: Peer


class Nack(Message, frozen=True, tag="nack"):
    """The target of your relay does not answer me either; but I am here."""

    number: Count


class Pull(Message, frozen=True, tag="pull"):
    """Send me the records of these peers."""

    peers: Annotated[tuple[Peer, ...], Meta(min_length=1, max_length=64)]


class Known(Message, frozen=True):
    """A peer's record, with a heartbeat that goes with it."""

    record: SignedRecord
    heartbeat: SignedHeartbeat


class Delta(Message, frozen=True, tag="delta"):
    """Peers that the other side lacks."""

    peers: Annotated[tuple[Known, ...], Meta(max_length=64)]


class Look(Message, frozen=True, tag="look"):
    """Who is in this cell?"""

    cell: CellName


class Sight(Message, frozen=True, tag="sight"):
    """Who is in the cell, as far as the sender knows: the last heartbeat of each; and which cell the sender follows."""

    cell: CellName
    followed: CellName
    heartbeats: Annotated[tuple[SignedHeartbeat, ...], Meta(max_length=256)]
