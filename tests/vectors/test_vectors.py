"""The vectors in protocols/vectors, both ways: they are the contract with every other implementation."""

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from p2pagent.config import Preferences
from p2pagent.errors import RemoteError
from p2pagent.keys import Ed25519Keys
from p2pagent.market import pricing
from p2pagent.net.frames import FrameSplitter, encode_frame
from p2pagent.peer import (
    auctioneer,
    awards,
    calling,
    cells,
    contests,
    detector,
    directory,
    doubts,
    epochs,
    hearsay,
    herald,
    hub,
    hub_messages,
    lookout,
    membership,
    offers,
    query,
    rumours,
    scout,
    seller,
    sheets,
    stall,
    talk,
    terms,
)
from p2pagent.peer.gossip_messages import RECORD_BYTES_MAX, AgentAdvert, Known, Load, News
from p2pagent.peer.hub_messages import Bid, Gain, Grant, Lot, Statement, Want
from p2pagent.peer.proofs import verdict
from p2pagent.peer.wire import (
    FRAME_BYTES_MAX,
    GOSSIP_PROTOCOL,
    HUB_PROTOCOL,
    PROTOCOL_BODIES,
    PROTOCOL_MESSAGES,
    QUERY_PROTOCOL,
    SIGNED_DOMAINS,
    decode,
    encode,
    opened,
    parsed,
    sealed,
)
from p2pagent.routing import game, hubs, qos
from p2pagent.routing.prototypes import SAME_PROMPT_COSINE

ROOT = Path(__file__).resolve().parents[2]
PROTOCOLS = {"query": QUERY_PROTOCOL, "gossip": GOSSIP_PROTOCOL, "hub": HUB_PROTOCOL}
KINDS = {domain: kind for kind, domain in SIGNED_DOMAINS.items()}


def vectors(name: str, *, valid: bool) -> list[object]:
    listed = json.loads((ROOT / "protocols" / "vectors" / f"{name}.json").read_text("utf-8"))
    return [pytest.param(v, id=v["name"]) for v in listed if ("value" in v) == valid]


def messages(*, valid: bool) -> list[object]:
    return [
        pytest.param(protocol, *found.values, id=f"{name} {found.id}")
        for name, protocol in PROTOCOLS.items()
        for found in vectors(name, valid=valid)
    ]


@pytest.mark.parametrize(("protocol", "vector"), messages(valid=True))
def test_message(protocol, vector):
    message = msgspec.convert(vector["value"], PROTOCOL_MESSAGES[protocol])
    assert encode(message).hex() == vector["hex"]
    assert decode(protocol, bytes.fromhex(vector["hex"])) == message


@pytest.mark.parametrize(("protocol", "vector"), messages(valid=False))
def test_message_refused(protocol, vector):
    with pytest.raises(RemoteError) as caught:
        decode(protocol, bytes.fromhex(vector["hex"]))
    assert vector["error"] in str(caught.value)


@pytest.mark.parametrize("vector", vectors("signed", valid=True))
def test_signed(vector):
    keys = Ed25519Keys(bytes.fromhex(vector["seed"]))
    kind = KINDS[vector["domain"]]
    value = msgspec.convert(vector["value"], kind)
    body, signature = bytes.fromhex(vector["hex"]), bytes.fromhex(vector["signature"])
    assert keys.peer == vector["signer"]
    assert sealed(value, keys) == (body, signature)
    assert opened(kind, body, signature, keys.peer, keys) == value


@pytest.mark.parametrize("vector", vectors("signed", valid=False))
def test_signed_refused(vector):
    keys = Ed25519Keys(bytes.fromhex(vector["seed"]))
    body, signature = bytes.fromhex(vector["hex"]), bytes.fromhex(vector["signature"])
    with pytest.raises(RemoteError) as caught:
        opened(KINDS[vector["domain"]], body, signature, vector["signer"], keys)
    assert vector["error"] in str(caught.value)


@pytest.mark.parametrize("vector", vectors("bid", valid=True))
def test_bid(vector):
    bid = msgspec.convert(vector["value"], Bid)
    assert encode(bid).hex() == vector["hex"]
    assert parsed(bytes.fromhex(vector["hex"]), Bid) == bid


@pytest.mark.parametrize("vector", vectors("bid", valid=False))
def test_bid_refused(vector):
    with pytest.raises(RemoteError) as caught:
        parsed(bytes.fromhex(vector["hex"]), Bid)
    assert vector["error"] in str(caught.value)


@pytest.mark.parametrize("vector", vectors("proof", valid=True))
def test_proof(vector):
    found = verdict(decode(HUB_PROTOCOL, bytes.fromhex(vector["hex"])), Ed25519Keys(bytes(32)))
    assert msgspec.to_builtins(found) == vector["value"]


@pytest.mark.parametrize("vector", vectors("proof", valid=False))
def test_proof_of_nothing(vector):
    with pytest.raises(RemoteError) as caught:
        verdict(decode(HUB_PROTOCOL, bytes.fromhex(vector["hex"])), Ed25519Keys(bytes(32)))
    assert vector["error"] in str(caught.value)


@pytest.mark.parametrize("vector", vectors("framing", valid=True))
def test_stream(vector):
    payloads = [bytes.fromhex(payload) for payload in vector["value"]]
    assert b"".join(map(encode_frame, payloads)).hex() == vector["hex"]
    assert list(FrameSplitter(FRAME_BYTES_MAX).feed(bytes.fromhex(vector["hex"]))) == payloads


@pytest.mark.parametrize("vector", vectors("framing", valid=False))
def test_stream_refused(vector):
    with pytest.raises(RemoteError) as caught:
        list(FrameSplitter(FRAME_BYTES_MAX).feed(bytes.fromhex(vector["hex"])))
    assert vector["error"] in str(caught.value)


def test_every_message_and_every_signed_body_has_a_vector():
    for name, protocol in PROTOCOLS.items():
        shown = {found.values[0]["value"][0] for found in vectors(name, valid=True)}
        assert shown == {kind.__struct_config__.tag for kind in PROTOCOL_MESSAGES[protocol].__args__}
    assert {found.values[0]["domain"] for found in vectors("signed", valid=True)} == set(KINDS)


@pytest.mark.parametrize(("page", "protocol"), PROTOCOLS.items())
def test_the_page_names_every_message_and_field(page, protocol):
    text = (ROOT / "protocols" / f"{page}.md").read_text("utf-8")
    inside = {GOSSIP_PROTOCOL: [AgentAdvert, Known, Load, News], HUB_PROTOCOL: [Lot, Want, Gain, Grant, Statement]}.get(
        protocol, []
    )
    for kind in [*PROTOCOL_MESSAGES[protocol].__args__, *PROTOCOL_BODIES[protocol], *inside]:
        assert kind.__struct_config__.tag is None or f"`{kind.__struct_config__.tag}`" in text
        assert [name for name in kind.__struct_fields__ if f"`{name}`" not in text] == []


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("README", f"{FRAME_BYTES_MAX:,} bytes of payload"),
        ("query", f"quotes are waited for | {terms.QUOTES_MS:,} ms"),
        ("query", f"holds | {terms.QUOTE_MS:,} ms (a buyer accepts up to {terms.QUOTE_MS_MAX:,})"),
        ("query", f"`ttft_high_ms`, those {awards.PREDICTED_MS_MAX:,} ms at most"),
        ("query", f"next sign | {awards.PROGRESS_MS:,} ms"),
        ("query", f"{game.PROBES_MAX} at most; {calling.ROUNDS_MAX} |"),
        ("query", f"{calling.LATE_MS} ms, or as long again"),
        ("query", f"is asked nothing | for {scout.BARRED_MS:,} ms, if"),
        ("query", f"another has stood for {awards.FELL_MS:,} ms more"),
        ("query", f"anew, if the buyer's own timer was {awards.STALLED_MS:,} ms late"),
        ("query", f"{qos.WAIT_MS_MAX:,} is for ever"),
        ("query", f"{seller.SALES_MAX:,} sales in all, {seller.SALES_PER_BUYER_MAX} with this buyer"),
        ("query", f"{stall.QUEUE_PER_SLOT_MAX} waiting per slot"),
        ("query", f"wait for each other | {calling.GATHER_MS} ms"),
        ("query", f"A peer with {directory.FAULTS_MAX} faults is shunned"),
        ("query", f"more than {seller.PROMPT_BYTES_PER_TOKEN_MAX} bytes per called token"),
        ("query", f"more than {query.ANSWER_BYTES_PER_TOKEN_MAX} bytes per token"),
        ("query", f"a cosine of {SAME_PROMPT_COSINE} "),
        ("query", f"allowance | {Preferences().newcomer_credit_microcredits:,} microcredits"),
        ("gossip", f"bin ≤ {RECORD_BYTES_MAX:,} "),
        ("gossip", f"within {herald.RECORD_BODY_BYTES_MAX:,} bytes"),
        ("gossip", f"every {herald.BEAT_MS_PER_MEMBER} ms per member"),
        ("gossip", f"than every {herald.BEAT_MS_MIN // 1000} s nor more rarely than"),
        ("gossip", f"every {herald.BEAT_MS_MAX // 1000} s, so that"),
        ("gossip", f"lease | {herald.LEASE_MS // 1000} s:"),
        ("gossip", f"every {lookout.LOOK_MS // 1000} s until one answers, and at new connections"),
        ("gossip", f"{talk.REQUEST_BURST} each at once, one more every {talk.REQUEST_REFILL_MS // 1000} s"),
        ("gossip", f"{doubts.ACCUSE_BURST} at once, one more every {doubts.ACCUSE_REFILL_MS // 1000} s"),
        ("gossip", f"{doubts.DOUBT_BURST} at once, one more every {doubts.DOUBT_REFILL_MS // 1000} s"),
        ("gossip", f"{hearsay.HEARSAY_BURST} at once, one more every {hearsay.HEARSAY_REFILL_MS} ms"),
        ("gossip", f"more than {hearsay.STRANGERS_MAX}: anybody can invent peers"),
        ("gossip", f"pinged every {membership.RETRY_MS // 1000} s"),
        ("gossip", f"most every {lookout.EXPLORE_MS // 1000} s, if it knows"),
        ("gossip", f"widened again for | {lookout.WIDEN_MS // 1000} s"),
        ("gossip", f"turn; answer | {detector.TICK_MS:,} ms; {detector.ACK_MS} ms"),
        ("gossip", f"asks {detector.RELAYS} others"),
        ("gossip", f"up to {detector.HEALTH_MAX + 1} times as long"),
        ("gossip", f"{detector.SUSPICION_MAX_MULTIPLE} * {detector.SUSPICION_MULTIPLE} * log10(members)"),
        ("gossip", f"ordinary ones {rumours.TELLINGS} times"),
        ("gossip", f"{rumours.TELLINGS_PER_DOUBLING} times per doubling"),
        ("gossip", f"more than {cells.FOLLOWED_MAX} members"),
        ("gossip", f"{cells.LONELY} it looks"),
        ("gossip", f"skew tolerated | {directory.CLOCK_SKEW_MS // 1000} s"),
        ("gossip", f"cut to {directory.LEASE_MS_MAX // 1000} s"),
        ("gossip", f"peers held | {directory.PEERS_MAX:,}"),
        ("hub", f"floor(unix ms / {epochs.EPOCH_MS:,})"),
        ("hub", f"{epochs.EPOCH_MS:,} ms; {epochs.EPOCH_SKEW} epochs"),
        ("hub", f"at {epochs.GATHER_MS} ms if all have answered, at {epochs.BOOK_MS} ms in any case"),
        ("hub", f"bids are waited for | {epochs.REVEAL_MS} ms"),
        ("hub", f"a grant waits for its claim | {epochs.GRANT_MS:,} ms"),
        ("hub", f"auctioneers a seller heeds | {epochs.DRAWN}"),
        ("hub", f"clearings at once per auctioneer | {auctioneer.AUCTIONS_MAX}"),
        ("hub", f"all known peers of the hub (up to {epochs.WIDE_HUB_AGENTS_MAX})"),
        ("hub", f"agents known in a hub before it splits | {hubs.HUB_AGENTS_MAX}"),
        ("hub", f"up to {hubs.HASH_BITS_MAX} bits follow"),
        ("hub", f"epochs that a query bids in | {contests.CONTESTS_MAX}"),
        ("hub", f"sheets at hand | {sheets.SHEETS_MAX}"),
        ("hub", f"fetched by one peer | {hub.FETCH_BURST} at once, one more every {hub.FETCH_REFILL_MS:,} ms"),
        ("hub", f"heard from one peer | {hub.PROOF_BURST} at once, one more every {hub.PROOF_REFILL_MS // 1000} s"),
        ("hub", f"an unopened commit | {offers.UNREVEALED_MICROCREDITS:,} microcredits"),
        ("hub", f"A buyer allows {sheets.CLOCK_MS:,} ms for the clocks"),
        ("hub", f"halves every {pricing.HALF_LIFE_MS:,} ms"),
        ("hub", f"is 0 from {pricing.HALVINGS} half-lives on"),
        ("hub", f"bin ≤ {hub_messages.BOOK_BYTES_MAX:,} "),
        ("hub", f"bin ≤ {hub_messages.BID_BYTES_MAX:,} "),
        ("hub", f"bin ≤ {hub_messages.SHEET_BYTES_MAX:,} "),
        ("hub", f"≤ {hub_messages.LOTS_MAX} of `[agent, slots, wait_ms]`"),
        ("hub", f"`slots` 1 to {hub_messages.SLOTS_PER_LOT_MAX}"),
        ("hub", f"1 to {hub_messages.WANTS_MAX} wants"),
        ("hub", f"1 to {hub_messages.GAINS_MAX} of `[agent, gain_microcredits]`"),
        (
            "hub",
            f"{hub_messages.BOOK_LOTS_MAX:,} lots, {hub_messages.SLOTS_MAX:,} slots, "
            f"{hub_messages.QUERIES_MAX:,} queries and {hub_messages.BIDS_BYTES_MAX:,} bytes of bids",
        ),
    ],
)
def test_the_page_states_the_limit_that_the_code_keeps(page, text):
    assert text in " ".join((ROOT / "protocols" / f"{page}.md").read_text("utf-8").split())


def test_the_files_are_what_the_code_encodes():
    script = ROOT / "scripts" / "make_vectors"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
