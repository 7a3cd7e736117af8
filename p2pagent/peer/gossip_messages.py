"""What travels between peers that keep each other known: records, heartbeats, suspicions, and what carries them."""

from typing import Annotated

from msgspec import Meta

from p2pagent.peer.messages import (
    Count,
    Message,
    Milliseconds,
    Name,
    Peer,
    RateCard,
    Signature,
    Tokens,
    UnixMilliseconds,
)

RECORD_BYTES_MAX = 2048
"""A signed record, envelope included: gossip of it stays one small packet."""

CellName = Annotated[str, Meta(min_length=1, max_length=24, pattern="^/[01]*([.][01]*)?$")]
"""A cell of the tree of prototypes: see `routing/hubs.py`."""

Total = Annotated[int, Meta(ge=0, le=1 << 53)]

Proof = tuple[int, int]
"""What a sign of life is worth against a suspicion: `(incarnation, refuted)`."""


class AgentAdvert(Message, frozen=True):
    """One agent in a record.

    `capability` holds its measured accuracy per prototype of the record's space, 0 to 255; `earlier` the same for the
    space before it, if the record names one. `cache_tokens` is the size of its prefix cache; of 0 nothing is known.
    `tokeniser` is the digest of that by which its tokens can be counted by whoever has it; empty if it names none.
    """

    name: Name
    model: Annotated[str, Meta(max_length=64)]
    capability: Annotated[bytes, Meta(max_length=256)]
    rates: RateCard
    context_tokens: Tokens
    slots: Count
    earlier: Annotated[bytes, Meta(max_length=256)] = b""
    cache_tokens: Tokens = 0
    tokeniser: Annotated[bytes, Meta(max_length=8)] = b""


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
    earlier: Annotated[str, Meta(max_length=64)] = ""
    """The space that came before `space`, while there may be peers that know no later one; or nothing."""

    @property
    def version(self) -> tuple[int, int]:
        """What orders the records of one peer."""
        return (self.incarnation, self.sequence)


class SignedRecord(Message, frozen=True):
    """A `Record` under its peer's signature."""

    body: Annotated[bytes, Meta(max_length=RECORD_BYTES_MAX)]
    signature: Signature


class Load(Message, frozen=True):
    """How busy one agent is: answers at work and waiting at this moment, and counters since the incarnation began.

    Counters, so that two heartbeats tell what happened between them, however many were lost. `computed_tokens` are
    those that went into the prefix cache, and may have pushed others out of it.
    """

    running: Count
    waiting: Count
    arrived: Total
    served: Total
    busy_ms: Total
    computed_tokens: Total = 0


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

    @property
    def proof(self) -> Proof:
        """What it is worth against suspicions."""
        return (self.incarnation, self.refuted)


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

    @property
    def proof(self) -> Proof:
        """What of the accused it doubts; what is worth more answers it."""
        return (self.incarnation, self.refuted)


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
