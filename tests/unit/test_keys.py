"""Keys: what a signature covers, and which texts are peer ids."""

import pytest

from p2pagent.keys import Ed25519Keys, Keys, is_peer_id, peer_id
from p2pagent.sim.keys import SimKeys

SEED = bytes(range(32))
PEER = "12D3KooWA4Xop1JaT3MHxwYMkCepYsv4iPVopMXwCz5iHYdBfeSB"
"""Of SEED, as libp2p itself writes it."""

each_kind = pytest.mark.parametrize(
    ("ours", "theirs"), [(Ed25519Keys(SEED), Ed25519Keys(bytes(32))), (SimKeys(1), SimKeys(2))], ids=["ed25519", "sim"]
)


def test_a_seed_always_gives_the_same_peer():
    assert Ed25519Keys(SEED).peer == PEER


def test_the_peer_id_is_the_one_that_libp2p_derives():
    from libp2p.crypto.ed25519 import create_new_key_pair
    from libp2p.peer.id import ID

    assert str(ID.from_pubkey(create_new_key_pair(SEED).public_key)) == PEER


@each_kind
def test_signatures_hold_for_exactly_what_was_signed(ours: Keys, theirs: Keys):
    signature = ours.sign("p2pagent/quote/1", b"body")
    assert len(signature) == 64
    assert theirs.verify(ours.peer, "p2pagent/quote/1", b"body", signature)
    for peer, domain, body, shown in [
        (theirs.peer, "p2pagent/quote/1", b"body", signature),
        (ours.peer, "p2pagent/receipt/1", b"body", signature),
        (ours.peer, "", b"body", signature),
        (ours.peer, "p2pagent/quote/1", b"bodY", signature),
        (ours.peer, "p2pagent/quote/1", b"", signature),
        (ours.peer, "p2pagent/quote/1", b"body", signature[:-1]),
        (ours.peer, "p2pagent/quote/1", b"body", signature + b"\0"),
        (ours.peer, "p2pagent/quote/1", b"body", b""),
        (ours.peer, "p2pagent/quote/1", b"body", bytes(64)),
    ]:
        assert not theirs.verify(peer, domain, body, shown)


def test_a_domain_does_not_run_into_the_body():
    keys = Ed25519Keys(SEED)
    assert not keys.verify(keys.peer, "p2pagent/quote/", b"1body", keys.sign("p2pagent/quote/1", b"body"))


def test_a_key_of_small_order_signs_nothing():
    # With the neutral element as key, R = the neutral element and s = 0 would "sign" any message.
    neutral = b"\x01" + bytes(31)
    assert not Ed25519Keys(SEED).verify(peer_id(neutral), "p2pagent/quote/1", b"body", neutral + bytes(32))


@pytest.mark.parametrize("text", [PEER, SimKeys(0).peer, peer_id(bytes(32)), peer_id(b"\xff" * 32)])
def test_peer_ids(text):
    assert is_peer_id(text)
    assert len(text) == 52
    assert text.startswith("12D3KooW")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1" * 52,
        "12D3KooW",
        PEER[:-1],
        PEER + "1",
        "1" + PEER,
        PEER[:-1] + "0",
        PEER[:-1] + "é",
        PEER[:-1] + "\ud800",
        PEER + " ",
        PEER + "\n",
        " " + PEER,
        PEER.lower(),
        "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
        "16Uiu2HAmVkKntsECaYfefR1V2yCR79CegLATuTPE6B9TxgxBiiiA",
    ],
    ids=repr,
)
def test_what_is_no_peer_id_verifies_nothing(text):
    keys = Ed25519Keys(SEED)
    assert not is_peer_id(text)
    assert not keys.verify(text, "p2pagent/quote/1", b"body", keys.sign("p2pagent/quote/1", b"body"))
