"""The directory's rules, one by one."""

import pytest

from p2pagent.peer.directory import (
    CLOCK_SKEW_MS,
    FAULT_MS,
    FAULTS_MAX,
    LEASE_MS_MAX,
    PEERS_MAX,
    RETRIED_MAX,
    Directory,
    bound,
)
from p2pagent.peer.gossip_messages import Load
from p2pagent.peer.herald import LEASE_MS
from p2pagent.sim.keys import SimKeys
from tests.members import hear, learn, make_beat, make_record, sign_beat
from tests.scenario import START_MS, make_advert

ME, ALICE, BOB, CAROL = (SimKeys(i) for i in range(4))
END_MS = START_MS + LEASE_MS
LOAD = Load(1, 2, 3, 4, 5)


@pytest.fixture
def directory():
    return Directory(ME.peer, "test")


def reachable(directory, now_ms=START_MS):
    return [peer for peer, _ in directory.reachable(now_ms)]


# --- what belongs here ----------------------------------------------------------------------------------------------


def test_a_record_is_news_once(directory):
    assert learn(directory, ALICE)
    assert not learn(directory, ALICE)
    assert reachable(directory) == [ALICE.peer]


@pytest.mark.parametrize(
    ("keys", "record", "beat"),
    [
        (ME, {}, {}),
        (ALICE, {"network": "other"}, {}),
        (ALICE, {}, {"issued_ms": START_MS + CLOCK_SKEW_MS + 1}),
        (ALICE, {}, {"issued_ms": 1 << 53}),
        (ALICE, {}, {"issued_ms": START_MS - LEASE_MS - CLOCK_SKEW_MS}),
        (ALICE, {}, {"issued_ms": 0}),
        (ALICE, {}, {"issued_ms": START_MS - LEASE_MS_MAX - CLOCK_SKEW_MS, "lease_ms": 1 << 31}),
    ],
    ids=[
        "our own",
        "another network",
        "a clock too far ahead",
        "the end of time",
        "over",
        "long ago",
        "leased for long",
    ],
)
def test_what_does_not_belong_is_refused(directory, keys, record, beat):
    assert not learn(directory, keys, make_record(keys, **record), **beat)
    assert len(directory) == 0


@pytest.mark.parametrize("issued_ms", [START_MS + CLOCK_SKEW_MS, START_MS - LEASE_MS - CLOCK_SKEW_MS + 1])
def test_clocks_may_differ_a_little(directory, issued_ms):
    assert learn(directory, ALICE, issued_ms=issued_ms)


def test_a_full_directory_gives_up_strangers_before_acquaintances_and_the_longest_unheard_first(directory):
    everybody = [SimKeys(n) for n in range(1, PEERS_MAX + 1)]
    for number, keys in enumerate(everybody):
        learn(directory, keys, issued_ms=START_MS + number)
    for keys in everybody[: PEERS_MAX // 2]:
        directory.up(keys.peer)
    for number in range(PEERS_MAX):
        learn(directory, SimKeys(5_000 + number), issued_ms=START_MS + CLOCK_SKEW_MS)
        assert len(directory) == PEERS_MAX
    kept = {peer for peer, _ in directory.entries()}
    assert kept.issuperset(keys.peer for keys in everybody[: PEERS_MAX // 2])
    assert kept.isdisjoint(keys.peer for keys in everybody[PEERS_MAX // 2 :])


def test_where_everybody_is_an_acquaintance_the_longest_unheard_goes(directory):
    everybody = [SimKeys(n) for n in range(1, PEERS_MAX + 1)]
    for number, keys in enumerate(everybody):
        learn(directory, keys, issued_ms=START_MS - number)
        directory.up(keys.peer)
    assert learn(directory, SimKeys(5_000))
    assert directory.get(everybody[-1].peer) is None
    assert len(directory) == PEERS_MAX


def test_changes_are_counted_whenever_somebody_comes_or_goes(directory):
    counts = [directory.changes]
    for change in (
        lambda: learn(directory, ALICE),
        lambda: learn(directory, ALICE, make_record(ALICE, sequence=2)),
        lambda: directory.forget(ALICE.peer),
        lambda: learn(directory, BOB),
        lambda: directory.sweep(END_MS + CLOCK_SKEW_MS),
        lambda: learn(directory, CAROL),
        lambda: directory.bury(CAROL.peer),
    ):
        change()
        counts.append(directory.changes)
    assert counts == sorted(set(counts))
    directory.forget(ALICE.peer)
    assert directory.changes == counts[-1]


# --- rule 1: the signed lease ---------------------------------------------------------------------------------------


def test_nobody_is_called_after_the_lease(directory):
    learn(directory, ALICE)
    assert reachable(directory, END_MS - 1) == [ALICE.peer]
    assert reachable(directory, END_MS) == []


def test_hearing_it_again_prolongs_nothing(directory):
    learn(directory, ALICE)
    assert not hear(directory, ALICE, END_MS - 1)
    assert reachable(directory, END_MS) == []


def test_each_heartbeat_prolongs_it(directory):
    learn(directory, ALICE)
    assert hear(directory, ALICE, issued_ms=START_MS + 1)
    assert reachable(directory, END_MS) == [ALICE.peer]
    assert reachable(directory, END_MS + 1) == []


def test_a_lease_over_the_limit_is_cut(directory):
    learn(directory, ALICE, lease_ms=1 << 31)
    assert reachable(directory, START_MS + LEASE_MS_MAX - 1) == [ALICE.peer]
    assert reachable(directory, START_MS + LEASE_MS_MAX) == []


def test_sweeping_drops_what_no_clock_holds_for_valid(directory):
    learn(directory, ALICE)
    assert directory.sweep(END_MS + CLOCK_SKEW_MS - 1) == []
    assert directory.sweep(END_MS + CLOCK_SKEW_MS) == [ALICE.peer]
    assert len(directory) == 0


def test_whose_lease_has_ended_comes_back_by_its_next_heartbeat(directory):
    learn(directory, ALICE)
    directory.sweep(END_MS + CLOCK_SKEW_MS)
    assert learn(directory, ALICE, now_ms=END_MS + CLOCK_SKEW_MS, issued_ms=END_MS + CLOCK_SKEW_MS)


# --- rule 2: the larger version, the later heartbeat ----------------------------------------------------------------


@pytest.mark.parametrize("version", [(1, 2), (2, 1), (2, 0)])
def test_a_larger_version_replaces_a_smaller(directory, version):
    incarnation, sequence = version
    learn(directory, ALICE)
    assert learn(directory, ALICE, make_record(ALICE, incarnation=incarnation, sequence=sequence))
    assert not learn(directory, ALICE)
    assert directory.get(ALICE.peer).record.version == version


def test_of_two_heartbeats_the_later_holds(directory):
    later = [{"issued_ms": START_MS + 5}, {"issued_ms": START_MS + 6}, {"refuted": 1}]
    later += [{"refuted": 1, "issued_ms": START_MS + 1}, {"incarnation": 2, "issued_ms": START_MS - 9}]
    learn(directory, ALICE)
    for index, changes in enumerate(later):
        assert hear(directory, ALICE, **changes)
        assert not any(hear(directory, ALICE, **earlier) for earlier in later[: index + 1])


def test_a_record_does_not_take_back_a_later_heartbeat(directory):
    learn(directory, ALICE)
    hear(directory, ALICE, sequence=2, refuted=3, issued_ms=START_MS + 9)
    learn(directory, ALICE, make_record(ALICE, sequence=2), issued_ms=START_MS + 5)
    entry = directory.get(ALICE.peer)
    assert (entry.heartbeat.refuted, entry.heartbeat.issued_ms) == (3, START_MS + 9)
    assert entry.proof == (1, 3)


def test_a_heartbeat_of_a_stranger_says_that_its_record_is_lacking(directory):
    beat = make_beat(ALICE)
    assert directory.believes(beat, START_MS)
    assert not directory.hear(beat, sign_beat(ALICE, beat))
    assert len(directory) == 0


def test_load_is_that_of_the_record_it_goes_with(directory):
    adverts = (make_advert("one", {}), make_advert("two", {}))
    learn(directory, ALICE, make_record(ALICE, *adverts), loads=(LOAD,))
    entry = directory.get(ALICE.peer)
    assert entry.load("one") == LOAD
    assert entry.load("two") is None
    assert entry.load("three") is None
    hear(directory, ALICE, sequence=2, loads=(LOAD, LOAD), issued_ms=START_MS + 1)
    assert entry.load("one") is None


# --- rule 3: those who are gone -------------------------------------------------------------------------------------


def test_who_is_buried_is_gone_and_no_heartbeat_from_before_brings_it_back(directory):
    learn(directory, ALICE, refuted=2)
    directory.bury(ALICE.peer)
    assert directory.gone(ALICE.peer) == (1, 2)
    for refuted in (0, 1, 2):
        assert not learn(directory, ALICE, refuted=refuted, issued_ms=START_MS + 50_000)
    assert not learn(directory, ALICE, make_record(ALICE, incarnation=0), refuted=9, issued_ms=START_MS + 50_000)
    assert reachable(directory) == []


@pytest.mark.parametrize("changes", [{"refuted": 3}, {"incarnation": 2}])
def test_a_refutation_or_a_new_start_brings_it_back(directory, changes):
    learn(directory, ALICE, refuted=2)
    directory.bury(ALICE.peer)
    record = make_record(ALICE, incarnation=changes.get("incarnation", 1))
    assert learn(directory, ALICE, record, **changes)
    assert directory.gone(ALICE.peer) is None
    assert reachable(directory) == [ALICE.peer]


def test_a_goodbye_is_the_end_of_it(directory):
    learn(directory, ALICE)
    assert hear(directory, ALICE, lease_ms=0, issued_ms=START_MS + 1)
    assert reachable(directory) == []
    assert not learn(directory, ALICE)
    assert learn(directory, ALICE, make_record(ALICE, incarnation=2))


def test_a_goodbye_of_a_stranger_is_remembered(directory):
    hear(directory, ALICE, lease_ms=0, issued_ms=START_MS + 1)
    assert not learn(directory, ALICE)


def test_a_goodbye_of_an_earlier_start_is_no_goodbye(directory):
    learn(directory, ALICE, make_record(ALICE, incarnation=2))
    assert not hear(directory, ALICE, lease_ms=0, issued_ms=START_MS + 1)
    assert reachable(directory) == [ALICE.peer]


def test_a_goodbye_however_old_is_believed(directory):
    assert hear(directory, ALICE, START_MS + 10 * LEASE_MS_MAX, lease_ms=0)


def test_nobody_is_buried_who_is_not_known(directory):
    directory.bury(ALICE.peer)
    assert directory.gone(ALICE.peer) is None
    assert learn(directory, ALICE)


def test_those_who_are_gone_are_bounded_and_the_last_can_be_tried_again(directory):
    everybody = [SimKeys(n) for n in range(1, PEERS_MAX + 10)]
    for keys in everybody:
        learn(directory, keys)
        directory.bury(keys.peer)
    assert directory.gone(everybody[8].peer) is None
    assert directory.gone(everybody[9].peer) is not None
    assert directory.lately_gone() == [keys.peer for keys in everybody[-RETRIED_MAX:]]


# --- rule 4: silence ------------------------------------------------------------------------------------------------


def test_one_that_we_could_not_reach_is_not_called_whatever_is_heard(directory):
    learn(directory, ALICE)
    directory.down(ALICE.peer)
    hear(directory, ALICE, issued_ms=START_MS + 1, refuted=1)
    learn(directory, ALICE, make_record(ALICE, sequence=2))
    assert reachable(directory) == []
    assert directory.get(ALICE.peer) is not None


def test_contact_or_a_new_start_ends_the_silence(directory):
    for keys in (ALICE, BOB):
        learn(directory, keys)
        directory.down(keys.peer)
    directory.up(ALICE.peer)
    learn(directory, BOB, make_record(BOB, incarnation=2))
    assert reachable(directory) == [ALICE.peer, BOB.peer]


def test_contact_is_remembered_through_new_records(directory):
    learn(directory, ALICE)
    assert not directory.get(ALICE.peer).met
    directory.up(ALICE.peer)
    learn(directory, ALICE, make_record(ALICE, sequence=2))
    assert directory.get(ALICE.peer).met


def test_contact_with_nobody_that_is_known_is_nothing(directory):
    directory.up(ALICE.peer)
    directory.down(ALICE.peer)
    assert len(directory) == 0


# --- rule 5: faults -------------------------------------------------------------------------------------------------


def test_too_many_faults_are_the_end_once(directory):
    learn(directory, ALICE)
    verdicts = [directory.blame(ALICE.peer, START_MS) for _ in range(FAULTS_MAX + 3)]
    assert verdicts == [False] * (FAULTS_MAX - 1) + [True] + [False] * 3
    assert directory.shuns(ALICE.peer, START_MS)
    assert reachable(directory) == []


def test_one_fault_less_is_forgiven(directory):
    learn(directory, ALICE)
    for _ in range(FAULTS_MAX - 1):
        directory.blame(ALICE.peer, START_MS)
    assert not directory.shuns(ALICE.peer, START_MS)
    assert reachable(directory) == [ALICE.peer]


def test_faults_are_forgotten_one_a_minute(directory):
    for _ in range(FAULTS_MAX):
        directory.blame(ALICE.peer, START_MS)
    assert directory.shuns(ALICE.peer, START_MS + FAULT_MS - 1)
    assert not directory.shuns(ALICE.peer, START_MS + FAULT_MS)
    assert directory.faults(ALICE.peer, START_MS + 3 * FAULT_MS) == FAULTS_MAX - 3
    assert directory.faults(ALICE.peer, START_MS + 99 * FAULT_MS) == 0


def test_who_never_stops_is_shunned_until_half_an_hour_after_it_does(directory):
    for _ in range(1_000):
        directory.blame(ALICE.peer, START_MS)
    assert directory.shuns(ALICE.peer, START_MS + FAULTS_MAX * FAULT_MS)
    assert not directory.shuns(ALICE.peer, START_MS + 2 * FAULTS_MAX * FAULT_MS)


def test_who_was_proved_to_have_cheated_is_shunned_for_good(directory):
    learn(directory, ALICE)
    directory.ban(ALICE.peer)
    assert directory.is_banned(ALICE.peer)
    assert directory.shuns(ALICE.peer, START_MS + 1_000 * FAULT_MS)
    assert reachable(directory) == []
    assert not directory.is_banned(BOB.peer)


def test_a_table_of_faults_is_bounded_as_all_tables_are(directory):
    for number in range(PEERS_MAX + 5):
        directory.blame(SimKeys(number).peer, START_MS)
        directory.ban(SimKeys(number).peer)
    assert len(directory._faults) == len(directory._banned) == PEERS_MAX
    table = dict.fromkeys("abc", 0)
    bound(table, 2)
    assert table == {"b": 0, "c": 0}


def test_peers_of_other_cells_make_room_for_members_whatever_they_say_of_their_age():
    directory = Directory(ME.peer, "test", lambda paths: paths == ("/0",))
    for number in range(100):
        learn(directory, SimKeys(1_000 + number), paths=("/0",))
    for number in range(PEERS_MAX):
        keys = SimKeys(10_000 + number)
        learn(directory, keys, paths=("/1",), issued_ms=START_MS + CLOCK_SKEW_MS)
    assert len(directory) == PEERS_MAX
    assert len(directory.members) == 100
