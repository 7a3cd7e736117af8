"""Records are taken in as far as they were asked for, and are whole."""

import msgspec

from p2pagent.peer.effects import Blame
from p2pagent.peer.gossip_messages import Delta, Heartbeat, Ping, Pull
from p2pagent.peer.wire import parsed
from tests.cell import introduce, known_to, only
from tests.members import make_known, make_record, news, sign_record
from tests.strangers import ALICE, BOB, CAROL, ME, receive, sent


def test_records_that_we_did_not_ask_for_are_not_even_checked(peer):
    stranger = make_known(BOB, make_record(BOB, space=peer.seller._space.name))
    forged = msgspec.structs.replace(stranger, record=msgspec.structs.replace(stranger.record, signature=bytes(64)))
    assert receive(peer, ALICE, Delta((stranger, forged) * 32)) == []
    assert known_to(peer) == set()


def test_a_forged_record_is_its_senders_fault_and_none_beside_it_is_kept(peer):
    good, bad = (make_known(keys, make_record(keys, space=peer.seller._space.name)) for keys in (ALICE, BOB))
    receive(peer, ALICE, Ping(1, news(bad.heartbeat)))
    bad = msgspec.structs.replace(bad, record=msgspec.structs.replace(bad.record, signature=bytes(64)))
    effects = receive(peer, ALICE, Delta((good, bad)))
    assert [e.peer for e in effects if isinstance(e, Blame)] == [ALICE.peer]
    assert known_to(peer) == set()


def test_a_record_goes_with_its_own_heartbeat_only(peer):
    record = sign_record(ALICE, make_record(ALICE, sequence=2, space=peer.seller._space.name))
    mixed = msgspec.structs.replace(make_known(ALICE, make_record(ALICE)), record=record)
    assert only(receive(peer, ALICE, Delta((mixed,))), Blame)
    assert known_to(peer) == set()


def test_records_are_given_to_whoever_asks_within_bounds(peer):
    introduce(peer, ALICE, BOB)
    wanted = Pull((ALICE.peer, ME.peer, ALICE.peer, CAROL.peer))
    [delta] = sent(receive(peer, CAROL, wanted))
    assert {parsed(known.heartbeat.body, Heartbeat).peer for known in delta.peers} == {ALICE.peer, ME.peer}
    assert sent(receive(peer, CAROL, Pull((CAROL.peer,)))) == []
