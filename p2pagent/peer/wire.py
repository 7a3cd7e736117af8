"""The wire: the only place where bytes become messages, and where what is wrong with them is the sender's fault.

A frame is one msgpack array `[tag, fields...]`. msgpack's Unpacker bounds every length before anything is built (and
builds tuples, which cost a flood of empty arrays nothing); msgspec checks the result against the frozen structs below,
which are also the source of the JSON Schemas in `protocols/`. Signed things travel as the very bytes that were signed
(`body`).

Rule 1: `decode` and `opened` raise `RemoteError` and nothing else, whatever the bytes.
Rule 2: every field is bounded here, so that nothing behind this module has to ask how long or how large.
Rule 3: a value has one encoding; any other is refused, so that no signed thing exists in two forms.
"""

from hashlib import sha256
from typing import Annotated, Literal, TypeVar

import msgpack
import msgspec
from msgspec import Meta, Struct

from p2pagent.errors import RemoteError
from p2pagent.keys import Keys
from p2pagent.types import PeerId

QUERY_PROTOCOL = "/p2pagent/query/1"
GOSSIP_PROTOCOL = "/p2pagent/gossip/1"

FRAME_BYTES_MAX = 1 << 20
ARRAY_LENGTH_MAX = 1024
TOKENS_MAX = 1 << 24
TURNS_MAX = 256
TEXT_CHARACTERS_MAX = 1 << 18
SEED_MAX = 1 << 31
RECORD_BYTES_MAX = 2048
"""A signed record, envelope included: gossip of it stays one small packet."""

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
    """What a peer tells the network about itself; it lives from `issued_ms` for `lease_ms`, 0 meaning that it leaves.

    Of two records of one peer the one with the larger `(incarnation, sequence)` holds.
    """

    peer: Peer
    network: Name
    space: Name
    incarnation: UnixMilliseconds
    sequence: UnixMilliseconds
    issued_ms: UnixMilliseconds
    lease_ms: Milliseconds
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
    slot_price_microcredits: Money
    price_microcredits: Money
    answer_sha256: Digest256
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


class SignedRecord(Message, frozen=True, tag="record"):
    """A `Record` under its peer's signature."""

    body: Annotated[bytes, Meta(max_length=RECORD_BYTES_MAX)]
    signature: Signature


class Summary(Message, frozen=True):
    """Which version of a peer's record the sender holds."""

    peer: Peer
    incarnation: UnixMilliseconds
    sequence: UnixMilliseconds


class Digest(Message, frozen=True, tag="digest"):
    """All that the sender knows, by version; the receiver sends back what is newer, and asks in return if `pull`."""

    entries: Annotated[tuple[Summary, ...], Meta(max_length=ARRAY_LENGTH_MAX)]
    pull: bool


class Delta(Message, frozen=True, tag="delta"):
    """Records that the other side lacks."""

    records: Annotated[tuple[SignedRecord, ...], Meta(max_length=64)]


QueryMessage = Call | SignedQuote | Refuse | Award | Release | Chunk | Final | Fail | Settle | Settled
GossipMessage = SignedRecord | Digest | Delta
WireMessage = QueryMessage | GossipMessage

PROTOCOL_MESSAGES: dict[str, type] = {QUERY_PROTOCOL: QueryMessage, GOSSIP_PROTOCOL: GossipMessage}  # type: ignore[dict-item]
SIGNED_DOMAINS: dict[type, str] = {
    Record: "p2pagent/record/1",
    Quote: "p2pagent/quote/1",
    Receipt: "p2pagent/receipt/1",
}

_S = TypeVar("_S", Record, Quote, Receipt)


def protocol_of(message: WireMessage) -> str:
    """The protocol id under which `message` travels."""
    return GOSSIP_PROTOCOL if isinstance(message, GossipMessage) else QUERY_PROTOCOL


def encode(message: Message) -> bytes:
    """The one canonical encoding of `message`: a msgpack array, integers in their shortest form."""
    return msgpack.packb(msgspec.to_builtins(message, builtin_types=(bytes,)))  # type: ignore[no-any-return]


def decode(protocol: str, data: bytes) -> WireMessage:
    """The message of `protocol` in `data`.

    Raises:
        RemoteError: not exactly one well-formed message of that protocol.
    """
    return parsed(data, PROTOCOL_MESSAGES[protocol])  # type: ignore[return-value]


def sealed(value: Record | Quote | Receipt, keys: Keys) -> tuple[bytes, bytes]:
    """`value` as bytes, and this peer's signature over them."""
    body = encode(value)
    return body, keys.sign(SIGNED_DOMAINS[type(value)], body)


def opened(kind: type[_S], body: bytes, signature: bytes, signer: PeerId | None, keys: Keys) -> _S:
    """The signed value of `kind` in `body`; a record names its own signer, so `signer` is None for it.

    Raises:
        RemoteError: malformed, or not signed by `signer`.
    """
    value: _S = parsed(body, kind)  # type: ignore[assignment]
    who = PeerId(value.peer) if isinstance(value, Record) else signer
    if who is None or not keys.verify(who, SIGNED_DOMAINS[kind], body, signature):
        raise RemoteError(f"{kind.__name__.lower()} is not signed by {who}")
    return value


def receipt_id(body: bytes) -> bytes:
    """What names a receipt: the SHA-256 of its signed bytes."""
    return sha256(body).digest()


def parsed(data: bytes, kind: type) -> object:
    """The value of `kind` in `data`, no signature checked.

    Raises:
        RemoteError: not exactly one well-formed value of that kind.
    """
    if len(data) > FRAME_BYTES_MAX:
        raise RemoteError(f"frame of {len(data)} bytes exceeds {FRAME_BYTES_MAX}")
    unpacker = msgpack.Unpacker(
        use_list=False,
        max_buffer_size=FRAME_BYTES_MAX,
        max_array_len=ARRAY_LENGTH_MAX,
        max_map_len=0,
        max_ext_len=0,
    )
    try:
        unpacker.feed(data)
        tree = unpacker.unpack()
        if unpacker.tell() != len(data):
            raise RemoteError("bytes after the message")
        value: Message = msgspec.convert(tree, kind, builtin_types=(bytes,))
    except (msgpack.UnpackException, msgspec.ValidationError, ValueError) as error:
        raise RemoteError(f"malformed message: {str(error) or type(error).__name__}") from error
    if encode(value) != data:
        raise RemoteError("not the canonical encoding")
    return value
