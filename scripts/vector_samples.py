"""One sample of everything that travels, with fixed keys: the valid half of the vectors."""

from hashlib import sha256

import msgspec

from p2pagent.keys import Ed25519Keys
from p2pagent.peer.gossip_messages import (
    Ack,
    AgentAdvert,
    Delta,
    Heartbeat,
    Known,
    Load,
    Look,
    Nack,
    News,
    Ping,
    Pull,
    Record,
    Relay,
    Sight,
    SignedHeartbeat,
    SignedRecord,
    SignedSuspicion,
    Suspicion,
)
from p2pagent.peer.messages import (
    Award,
    Call,
    Chunk,
    Dispute,
    Fail,
    Final,
    Holds,
    Mark,
    Message,
    Quote,
    RateCard,
    Receipt,
    Refund,
    Refuse,
    Release,
    Seek,
    Settle,
    Settled,
    SignedQuote,
    SignedRefund,
    Turn,
)
from p2pagent.peer.wire import encode, receipt_id, sealed

SEEDS = {"seller": bytes(range(32)), "buyer": bytes(range(32, 64)), "stranger": bytes(range(64, 96))}
SELLER, BUYER, STRANGER = (Ed25519Keys(seed) for seed in SEEDS.values())
CONVERSATION = bytes.fromhex("c0ffee00000000000000000000000001")
RATES = RateCard(prompt=10, cached=1, output=40)
ANSWER = "Grüße, 85"
TOKENISER = bytes.fromhex("c2357c4dffe2ce3e")
START_MS = 1_800_000_000_000

RECORD = Record(
    peer=SELLER.peer,
    network="main",
    space="hash-charwb3to5-4096-256/1@0123456789abcdef",
    incarnation=START_MS,
    sequence=7,
    addresses=("/ip4/192.0.2.7/tcp/4101", "/ip6/2001:db8::7/tcp/4101"),
    agents=(AgentAdvert("sums", "add", bytes([255, 128, 0]), RATES, 4096, 4, bytes([130, 250]), 21_792, TOKENISER),),
    earlier="hash-charwb3to5-4096-256/1@fedcba9876543210",
)
HEARTBEAT = Heartbeat(
    peer=SELLER.peer,
    incarnation=START_MS,
    sequence=7,
    refuted=1,
    issued_ms=START_MS + 210_000,
    lease_ms=120_000,
    loads=(Load(running=3, waiting=1, arrived=41, served=37, busy_ms=52_000, computed_tokens=9_120),),
)
GOODBYE = msgspec.structs.replace(HEARTBEAT, issued_ms=START_MS + 215_000, lease_ms=0, loads=())
BUSIEST = Heartbeat(SELLER.peer, *[1 << 53] * 4, 1 << 31, (Load(*[1 << 16] * 2, *[1 << 53] * 4),) * 8)
SUSPICION = Suspicion(accuser=BUYER.peer, accused=SELLER.peer, incarnation=START_MS, refuted=1)
LARGEST = Record(
    peer=SELLER.peer,
    network="n" * 64,
    space="s" * 64,
    incarnation=1 << 53,
    sequence=1 << 53,
    addresses=(),
    agents=(
        AgentAdvert(
            "a", "m" * 64, bytes(256), RateCard(*[1 << 32] * 3), 1 << 24, 1 << 16, bytes(256), 1 << 24, bytes(8)
        ),
    ),
    earlier="e" * 64,
)
QUOTE = Quote(
    conversation=CONVERSATION,
    buyer=BUYER.peer,
    agent="sums",
    free_slots=3,
    queued=0,
    wait_ms=0,
    ttft_ms=120,
    ttft_high_ms=190,
    tpot_us=8_000,
    cached_tokens=0,
    evicted_microcredits=256,
    rates=RATES,
    sheet=b"",
    slot_price_microcredits=0,
    price_cap_microcredits=10 * 24 + 40 * 64,
    expires_ms=5_000,
)
RECEIPT = Receipt(
    conversation=CONVERSATION,
    buyer=BUYER.peer,
    seller=SELLER.peer,
    agent="sums",
    prompt_tokens=24,
    cached_tokens=8,
    output_tokens=5,
    rates=RATES,
    sheet=b"",
    slot_price_microcredits=0,
    price_microcredits=10 * 16 + 1 * 8 + 40 * 5,
    answer_sha256=sha256(ANSWER.encode()).digest(),
    issued_ms=START_MS + 220_000,
)
DEARER_QUOTE = msgspec.structs.replace(
    QUOTE,
    sheet=sha256(b"a clearing sheet").digest(),
    slot_price_microcredits=120,
    price_cap_microcredits=QUOTE.price_cap_microcredits + 120,
)
DEARER_RECEIPT = msgspec.structs.replace(
    RECEIPT,
    sheet=DEARER_QUOTE.sheet,
    slot_price_microcredits=120,
    price_microcredits=RECEIPT.price_microcredits + 120,
)
SIGNED_RECORD = SignedRecord(*sealed(RECORD, SELLER))
BEAT = SignedHeartbeat(*sealed(HEARTBEAT, SELLER))
NEWS = News((BEAT, SignedHeartbeat(*sealed(GOODBYE, SELLER))), (SignedSuspicion(*sealed(SUSPICION, BUYER)),))
RECEIPT_BODY, SELLER_SIGNATURE = sealed(RECEIPT, SELLER)
BUYER_SIGNATURE = sealed(RECEIPT, BUYER)[1]
REFUND = Refund(
    receipt_id(RECEIPT_BODY), BUYER.peer, SELLER.peer, RECEIPT.price_microcredits, RECEIPT.issued_ms + 60_000
)
MARKS = Mark(bytes.fromhex("00112233445566ff"), 0), Mark(bytes.fromhex("8899aabbccddeeff"), 19)
SIGNATURE = bytes(range(64))
"""For what is refused before any signature is looked at."""

CALL = Call(CONVERSATION, "sums", RECORD.space, bytes([127, 0, 129]), 24, 64, 2_000, bytes(range(16)), MARKS)
AWARD = Award(CONVERSATION, (Turn("system", ""), Turn("user", "What is 47 plus 38?")), 700, 4711)
CHUNK = Chunk(CONVERSATION, 0, ANSWER)
DISPUTE = Dispute(REFUND.receipt_id, "half of the answer is missing")
LOOK = Look("/0110.01")

QUERY_VALID: dict[str, Message] = {
    "call": CALL,
    "call: everything at its upper bound": Call(
        b"\xff" * 16,
        "a" * 64,
        "s" * 64,
        bytes(1024),
        *[1 << 24] * 2,
        1 << 31,
        bytes(16),
        (Mark(bytes(8), 1 << 24),) * 32,
    ),
    "call: everything at its lower bound": Call(bytes(16), "a", "s", b"", 0, 0, 0, b"", ()),
    "call: without marks": msgspec.structs.replace(CALL, domain=b"", prefix=()),
    "call: a name of 64 characters in 256 bytes": msgspec.structs.replace(CALL, agent="\N{SEEDLING}" * 64),
    "quote": SignedQuote(*sealed(QUOTE, SELLER)),
    "quote: with the price of a slot": SignedQuote(*sealed(DEARER_QUOTE, SELLER)),
    "seek": Seek(CONVERSATION, "sums", CALL.domain, CALL.prefix, 24),
    "seek: from who shows no domain": Seek(CONVERSATION, "sums", b"", (), 0),
    "holds": Holds(CONVERSATION, 16),
    "refuse": Refuse(CONVERSATION, "credit"),
    "refuse: too late for the buyer": Refuse(CONVERSATION, "late"),
    "refuse: enough with this buyer": Refuse(CONVERSATION, "enough"),
    "award": AWARD,
    "award: everything at its upper bound": Award(CONVERSATION, (Turn("assistant", ""),) * 256, 2_000, 1 << 31),
    "release": Release(CONVERSATION),
    "chunk": CHUNK,
    "chunk: a piece without text": Chunk(CONVERSATION, 1 << 24, ""),
    "final": Final(CONVERSATION, "stop", RECEIPT_BODY, SELLER_SIGNATURE),
    "fail": Fail(CONVERSATION, "engine"),
    "settle": Settle(RECEIPT_BODY, SELLER_SIGNATURE, BUYER_SIGNATURE),
    "settled": Settled(receipt_id(RECEIPT_BODY)),
    "dispute": DISPUTE,
    "dispute: no reason given": Dispute(bytes(32), ""),
    "dispute: a reason of 256 characters in 1,024 bytes": Dispute(bytes(32), "\N{SEEDLING}" * 256),
    "refund": SignedRefund(*sealed(REFUND, SELLER)),
}
GOSSIP_VALID: dict[str, Message] = {
    "ping": Ping(4711, NEWS),
    "ping: no news": Ping(0, News((), ())),
    "ping: bodies of any bytes, looked at only when they are opened": Ping(
        1 << 16, News((SignedHeartbeat(b"", SIGNATURE),) * 32, (SignedSuspicion(b"", SIGNATURE),) * 16)
    ),
    "ack": Ack(4711, NEWS),
    "relay": Relay(4712, SELLER.peer),
    "nack": Nack(4712),
    "pull": Pull((SELLER.peer, BUYER.peer)),
    "delta": Delta((Known(SIGNED_RECORD, BEAT),)),
    "delta: nothing": Delta(()),
    "look": LOOK,
    "look: everything": Look("/"),
    "look: half of a space of one prototype": Look("/.1"),
    "sight": Sight("/0110", "/0110.01", (BEAT,)),
    "sight: nobody": Sight("/", "/", ()),
}


def packed(*items: object) -> bytes:
    """A msgpack array of anything, whether or not it is a message."""
    return msgspec.msgpack.encode(items)


def with_field(message: Message, index: int, value: object) -> bytes:
    """`message` with its field `index`, the tag being 0, replaced by anything."""
    items = list(msgspec.to_builtins(message, builtin_types=(bytes,)))
    items[index] = value
    return packed(*items)


def without_last(message: Message) -> bytes:
    return packed(*msgspec.to_builtins(message, builtin_types=(bytes,))[:-1])


RELEASE = encode(Release(CONVERSATION))
CHUNK_BYTES = encode(CHUNK)
RELEASE_HEAD = packed("release", b"")[:-2]
"""Up to where the conversation id begins."""
