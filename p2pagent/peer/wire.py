"""The wire: the only place where bytes become messages, and where what is wrong with them is the sender's fault.

A frame is one msgpack array `[tag, fields...]`. msgpack's Unpacker bounds every length before anything is built (and
builds tuples, which cost a flood of empty arrays nothing); msgspec checks the result against the frozen structs of
`messages.py` and its neighbours for gossip and hub.

Rule 1: `decode` and `opened` raise `RemoteError` and nothing else, whatever the bytes.
Rule 2: every field is bounded there, so that nothing behind this module has to ask how long or how large.
Rule 3: a value has one encoding; any other is refused, so that no signed thing exists in two forms.
"""

from hashlib import sha256
from typing import TypeVar

import msgpack
import msgspec

from p2pagent.errors import RemoteError
from p2pagent.keys import Keys
from p2pagent.peer.gossip_messages import Ack, Delta, Heartbeat, Look, Nack, Ping, Pull, Record, Relay, Sight, Suspicion
from p2pagent.peer.hub_messages import (
    Acknowledgement,
    Bid,
    Book,
    Claim,
    Commit,
    Decline,
    Fetch,
    Offer,
    Proof,
    Reveal,
    Sheet,
    SignedAcknowledgement,
    SignedBook,
    SignedCommit,
    SignedOffer,
    SignedSheet,
    Solicit,
)
from p2pagent.peer.messages import (
    ARRAY_LENGTH_MAX,
    Award,
    Call,
    Chunk,
    Dispute,
    Fail,
    Final,
    Holds,
    Message,
    Quote,
    Receipt,
    Refund,
    Refuse,
    Release,
    Seek,
    Settle,
    Settled,
    SignedQuote,
    SignedRefund,
)
from p2pagent.types import PeerId

QUERY_PROTOCOL = "/p2pagent/query/1"
GOSSIP_PROTOCOL = "/p2pagent/gossip/1"
HUB_PROTOCOL = "/p2pagent/hub/1"

FRAME_BYTES_MAX = 1 << 20

QueryMessage = (
    Call
    | Seek
    | Holds
    | SignedQuote
    | Refuse
    | Award
    | Release
    | Chunk
    | Final
    | Fail
    | Settle
    | Settled
    | Dispute
    | SignedRefund
)
GossipMessage = Ping | Ack | Relay | Nack | Pull | Delta | Look | Sight
HubMessage = (
    SignedCommit
    | Solicit
    | SignedOffer
    | SignedAcknowledgement
    | Decline
    | SignedBook
    | Reveal
    | SignedSheet
    | Claim
    | Fetch
    | Proof
)
WireMessage = QueryMessage | GossipMessage | HubMessage

PROTOCOL_MESSAGES: dict[str, type] = {
    QUERY_PROTOCOL: QueryMessage,  # type: ignore[dict-item]
    GOSSIP_PROTOCOL: GossipMessage,  # type: ignore[dict-item]
    HUB_PROTOCOL: HubMessage,  # type: ignore[dict-item]
}
PROTOCOL_BODIES: dict[str, tuple[type[Message], ...]] = {
    QUERY_PROTOCOL: (Quote, Receipt, Refund),
    GOSSIP_PROTOCOL: (Record, Heartbeat, Suspicion),
    HUB_PROTOCOL: (Commit, Offer, Acknowledgement, Book, Sheet, Bid),
}
"""What travels as bytes inside messages. Each but the bid is signed, under the domain below."""

SIGNED_DOMAINS: dict[type, str] = {
    Record: "p2pagent/record/1",
    Heartbeat: "p2pagent/heartbeat/1",
    Suspicion: "p2pagent/suspicion/1",
    Quote: "p2pagent/quote/1",
    Receipt: "p2pagent/receipt/1",
    Refund: "p2pagent/refund/1",
    Commit: "p2pagent/commit/1",
    Offer: "p2pagent/offer/1",
    Acknowledgement: "p2pagent/ack/1",
    Book: "p2pagent/book/1",
    Sheet: "p2pagent/sheet/1",
}

_S = TypeVar("_S", bound=Message)


def protocol_of(message: WireMessage) -> str:
    """The protocol id under which `message` travels."""
    if isinstance(message, GossipMessage):
        return GOSSIP_PROTOCOL
    return HUB_PROTOCOL if isinstance(message, HubMessage) else QUERY_PROTOCOL


def encode(message: Message) -> bytes:
    """The one canonical encoding of `message`: a msgpack array, integers in their shortest form."""
    return msgpack.packb(msgspec.to_builtins(message, builtin_types=(bytes,)))  # type: ignore[no-any-return]


def decode(protocol: str, data: bytes) -> WireMessage:
    """The message of `protocol` in `data`.

    Raises:
        RemoteError: not exactly one well-formed message of that protocol.
    """
    return parsed(data, PROTOCOL_MESSAGES[protocol])


def sealed(value: Message, keys: Keys) -> tuple[bytes, bytes]:
    """`value` as bytes, and this peer's signature over them."""
    body = encode(value)
    return body, keys.sign(SIGNED_DOMAINS[type(value)], body)


def opened(kind: type[_S], body: bytes, signature: bytes, signer: PeerId | None, keys: Keys) -> _S:
    """The signed value of `kind` in `body`; records and heartbeats name their own signer, so `signer` is None for them.

    Raises:
        RemoteError: malformed, or not signed by `signer`.
    """
    value = parsed(body, kind)
    check_signature(
        value, PeerId(value.peer) if isinstance(value, Record | Heartbeat) else signer, body, signature, keys
    )
    return value


def check_signature(value: Message, signer: PeerId | None, body: bytes, signature: bytes, keys: Keys) -> None:
    """Accept that `signer` signed `value`, whose bytes are `body`: for who has parsed it to see who that should be.

    Raises:
        RemoteError: it has not.
    """
    if signer is None or not keys.verify(signer, SIGNED_DOMAINS[type(value)], body, signature):
        raise RemoteError(f"{type(value).__name__.lower()} is not signed by {signer}")


def receipt_id(body: bytes) -> bytes:
    """What names a receipt: the SHA-256 of its signed bytes."""
    return sha256(body).digest()


def parsed(data: bytes, kind: type[_S]) -> _S:
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
        value: _S = msgspec.convert(tree, kind, builtin_types=(bytes,))
    except (msgpack.UnpackException, msgspec.ValidationError, ValueError) as error:
        raise RemoteError(f"malformed message: {str(error) or type(error).__name__}") from error
    if encode(value) != data:
        raise RemoteError("not the canonical encoding")
    return value
