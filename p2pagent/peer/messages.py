"""What travels between peers: every field of it bounded, so that nothing behind has to ask how long or how large.

Frozen and positional; `wire.py` turns bytes into these and back. They are also the source of the JSON Schemas in
`protocols/`. Signed things travel as the very bytes that were signed (`body`). Here are the words that
all share and the query protocol's; gossip's are in `gossip_messages.py`, hub clearing's in `hub_messages.py`.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from p2pagent.routing.marks import DOMAIN_BYTES, MARKS_MAX, TAG_BYTES
from p2pagent.types import ChatMessage

ARRAY_LENGTH_MAX = 1024
TOKENS_MAX = 1 << 24
TURNS_MAX = 256
TEXT_CHARACTERS_MAX = 1 << 18
SEED_MAX = 1 << 31

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


class Quote(Message, frozen=True):
    """A seller's binding offer for one call, good until `expires_ms` after it was made.

    What it predicts binds nobody: of a slot after `wait_ms`, a first token after `ttft_ms` and hardly ever later than
    `ttft_high_ms`, all counted from the quote, and another one each `tpot_us`.
    Nor does `evicted_microcredits`, what others are expected to pay anew for what leaves the cache; nobody is paid it.
    At least `cached_tokens` of the prompt will be charged as cached. `price_cap_microcredits` is the most that the
    receipt may claim: no other prompt token cached, every output token used.
    """

    conversation: Ident
    buyer: Peer
    agent: Name
    free_slots: Count
    queued: Count
    wait_ms: Milliseconds
    ttft_ms: Milliseconds
    ttft_high_ms: Milliseconds
    tpot_us: Milliseconds
    cached_tokens: Tokens
    evicted_microcredits: Money
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


class Mark(Message, frozen=True):
    """A prefix of the prompt: a name that says nothing of it but whether two are the same, and its length."""

    tag: Annotated[bytes, Meta(min_length=TAG_BYTES, max_length=TAG_BYTES)]
    end_bytes: Tokens


class Call(Message, frozen=True, tag="call"):
    """A buyer asks for a quote. The prompt stays at home: its quantised embedding, its length and marks of it travel.

    `domain` names those who may use each other's caches; a buyer that shows none is one by itself.
    """

    conversation: Ident
    agent: Name
    space: Name
    embedding: Annotated[bytes, Meta(max_length=1024)]
    prompt_tokens: Tokens
    max_tokens: Tokens
    deadline_ms: Milliseconds
    domain: Annotated[bytes, Meta(max_length=DOMAIN_BYTES)] = b""
    prefix: Annotated[tuple[Mark, ...], Meta(max_length=MARKS_MAX)] = ()


class Seek(Message, frozen=True, tag="seek"):
    """A buyer asks how much of a prompt is in a cache, long before it would call: marks and domain as in a `Call`."""

    conversation: Ident
    agent: Name
    domain: Annotated[bytes, Meta(max_length=DOMAIN_BYTES)]
    prefix: Annotated[tuple[Mark, ...], Meta(max_length=MARKS_MAX)]
    prompt_tokens: Tokens


class Holds(Message, frozen=True, tag="holds"):
    """So many tokens of the prompt that was sought are in the cache now."""

    conversation: Ident
    cached_tokens: Tokens


class SignedQuote(Message, frozen=True, tag="quote"):
    """A `Quote` under the seller's signature."""

    body: Annotated[bytes, Meta(max_length=1024)]
    signature: Signature


class Refuse(Message, frozen=True, tag="refuse"):
    """A seller will not quote."""

    conversation: Ident
    reason: Literal["busy", "late", "enough", "credit", "space", "agent", "length"]


class Award(Message, frozen=True, tag="award"):
    """The quote is taken; here is the prompt."""

    conversation: Ident
    turns: Annotated[tuple[Turn, ...], Meta(min_length=1, max_length=TURNS_MAX)]
    temperature_milli: Annotated[int, Meta(ge=0, le=2_000)]
    seed: Annotated[int, Meta(ge=0, le=SEED_MAX)]

    @property
    def prompt(self) -> tuple[ChatMessage, ...]:
        """As engines take it."""
        return tuple(ChatMessage(turn.role, turn.content) for turn in self.turns)


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
    reason: Literal["engine", "embedding", "marks", "expired", "busy", "length"]


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
