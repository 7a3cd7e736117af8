"""The directory under any order of news: whoever heard the same holds the same, and ghosts stay gone."""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from p2pagent.peer.directory import CLOCK_SKEW_MS, LEASE_MS_MAX, Directory
from p2pagent.peer.herald import LEASE_MS
from p2pagent.sim.keys import SimKeys
from tests.members import hear, learn, make_record
from tests.scenario import START_MS

SIGNERS = [SimKeys(n) for n in range(1, 5)]
REPLICAS = [SimKeys(n).peer for n in range(5, 8)]


class Author:
    """An honest signer: what it says next is later than all that it said before."""

    def __init__(self, keys):
        self.keys = keys
        self.incarnation, self.sequence, self.refuted = 1, 1, 0

    def say(self, now_ms, lease_ms=LEASE_MS):
        return (self.keys, self.incarnation, self.sequence, self.refuted, now_ms, lease_ms)

    def change(self, what):
        match what:
            case "record":
                self.sequence += 1
            case "start":
                self.incarnation, self.sequence, self.refuted = self.incarnation + 1, 1, 0
            case "refutation":
                self.refuted += 1


def proof_of(said):
    return (said[1], said[3])


def order_of(said):
    return (said[1], said[3], said[4])


def take(directory, said, now_ms):
    """What membership does with a heartbeat, and with the record that it pulls if it lacks that; goodbyes have none."""
    keys, incarnation, sequence, refuted, issued_ms, lease_ms = said
    beat = {"refuted": refuted, "issued_ms": issued_ms, "lease_ms": lease_ms}
    known = directory.get(keys.peer)
    believed = hear(directory, keys, now_ms, incarnation=incarnation, sequence=sequence, **beat)
    if believed and lease_ms and (known is None or known.record.version < (incarnation, sequence)):
        learn(directory, keys, make_record(keys, incarnation=incarnation, sequence=sequence), now_ms, **beat)
    return believed


def held(directory):
    return {peer: (entry.record, entry.heartbeat) for peer, entry in directory.entries()}


@st.composite
def histories(draw):
    """What a few honest peers said in the last minute; whoever said goodbye starts anew before it speaks again."""
    now_ms, said = START_MS - 60_000, []
    authors = [Author(keys) for keys in SIGNERS]
    for author, what in draw(
        st.lists(st.tuples(st.sampled_from(authors), st.sampled_from(["", "record", "start", "refutation", "leave"])))
    ):
        now_ms += draw(st.integers(1, 2_000))
        author.change(what)
        said.append(author.say(now_ms, 0 if what == "leave" else LEASE_MS))
        if what == "leave":
            author.change("start")
    return said


@given(histories(), st.data())
def test_whoever_heard_the_same_holds_the_same_in_whatever_order_and_number(history, data):
    one, other = Directory(REPLICAS[0], "test"), Directory(REPLICAS[1], "test")
    for said in history:
        take(one, said, START_MS)
    repeated = history + (data.draw(st.lists(st.sampled_from(history), max_size=8)) if history else [])
    for said in data.draw(st.permutations(repeated)):
        take(other, said, START_MS)
    assert held(one) == held(other)
    last = {said[0].peer: said for said in history}
    assert {peer: beat.issued_ms for peer, (_, beat) in held(one).items()} == {
        peer: said[4] for peer, said in last.items() if said[5]
    }


@given(histories(), st.data())
def test_a_second_hearing_changes_nothing(history, data):
    directory = Directory(REPLICAS[0], "test")
    for said in history:
        take(directory, said, START_MS)
    before = held(directory)
    for said in data.draw(st.permutations(history)):
        assert not take(directory, said, START_MS)
    assert held(directory) == before


class Gossip(RuleBasedStateMachine):
    """Peers speak, leave, start again; replicas hear of it late, twice or never, lose contact, bury and sweep."""

    @initialize()
    def start(self):
        self.now_ms = START_MS
        self.directories = [Directory(me, "test") for me in REPLICAS]
        self.authors = [Author(keys) for keys in SIGNERS]
        self.said = []
        self.buried = [{} for _ in REPLICAS]
        self.silent = [set() for _ in REPLICAS]
        self.latest = [{} for _ in REPLICAS]

    @rule(author=st.integers(0, 3), what=st.sampled_from(["", "record", "start", "refutation"]))
    def speak(self, author, what):
        self.now_ms += 1
        self.authors[author].change(what)
        self.said.append(self.authors[author].say(self.now_ms))

    @rule(author=st.integers(0, 3), lease_ms=st.sampled_from([1, 1 << 31]), off_ms=st.sampled_from([-1 << 40, 1 << 40]))
    def speak_nonsense(self, author, lease_ms, off_ms):
        self.said.append(self.authors[author].say(self.now_ms + off_ms, lease_ms))

    @rule(author=st.integers(0, 3))
    def leave(self, author):
        self.now_ms += 1
        self.said.append(self.authors[author].say(self.now_ms, 0))
        self.authors[author].change("start")

    @rule(ms=st.sampled_from([1, 1_000, LEASE_MS // 2, LEASE_MS, LEASE_MS + CLOCK_SKEW_MS]))
    def wait(self, ms):
        self.now_ms += ms

    @precondition(lambda self: self.said)
    @rule(data=st.data(), who=st.integers(0, 2))
    def hear(self, data, who):
        self.deliver(who, data.draw(st.sampled_from(self.said)))

    @precondition(lambda self: self.said)
    @rule(who=st.integers(0, 2), seed=st.integers(0, 9))
    def hear_all_again(self, who, seed):
        for said in Random(seed).sample(self.said, len(self.said)):
            self.deliver(who, said)

    def deliver(self, who, said):
        peer, directory = said[0].peer, self.directories[who]
        known = directory.get(peer)
        before = known and (known.heartbeat.incarnation, known.heartbeat.refuted, known.heartbeat.issued_ms)
        believed = take(directory, said, self.now_ms)
        if not believed:
            return
        assert proof_of(said) > self.buried[who].get(peer, (-1, -1)), "a ghost came back by hearsay"
        assert before is None or order_of(said) > before
        assert said[4] <= self.now_ms + CLOCK_SKEW_MS
        self.latest[who][peer] = said
        if not said[5]:
            self.buried[who][peer] = proof_of(said)
        if not said[5] or known is None or known.record.incarnation < said[1]:
            self.silent[who].discard(peer)

    @rule(who=st.integers(0, 2), author=st.integers(0, 3))
    def bury(self, who, author):
        peer = SIGNERS[author].peer
        entry = self.directories[who].get(peer)
        self.directories[who].bury(peer)
        if entry is not None:
            self.buried[who][peer] = entry.proof
            self.silent[who].discard(peer)

    @rule(who=st.integers(0, 2), author=st.integers(0, 3))
    def lose(self, who, author):
        peer = SIGNERS[author].peer
        self.directories[who].down(peer)
        if self.directories[who].get(peer) is not None:
            self.silent[who].add(peer)

    @rule(who=st.integers(0, 2), author=st.integers(0, 3))
    def meet(self, who, author):
        self.directories[who].up(SIGNERS[author].peer)
        self.silent[who].discard(SIGNERS[author].peer)

    @rule(who=st.integers(0, 2))
    def sweep(self, who):
        for peer in self.directories[who].sweep(self.now_ms):
            said = self.latest[who][peer]
            assert said[4] + min(said[5], LEASE_MS_MAX) + CLOCK_SKEW_MS <= self.now_ms
            self.silent[who].discard(peer)

    @invariant()
    def nobody_is_called_who_left_was_buried_fell_silent_or_let_its_lease_end(self):
        for who, directory in enumerate(getattr(self, "directories", [])):
            for peer, entry in directory.reachable(self.now_ms):
                said = self.latest[who][peer]
                assert said[4] + min(said[5], LEASE_MS_MAX) > self.now_ms
                assert entry.proof > self.buried[who].get(peer, (-1, -1))
                assert peer not in self.silent[who]

    def teardown(self):
        """Whoever refutes what all have against it is back with all of them, and all hold the same."""
        if not hasattr(self, "directories"):
            return
        for author in self.authors:
            proofs = [buried.get(author.keys.peer, (-1, -1)) for buried in self.buried]
            author.refuted = max(
                [author.refuted, *(refuted + 1 for start, refuted in proofs if start == author.incarnation)]
            )
            self.now_ms += 1
            said = author.say(self.now_ms)
            for directory in self.directories:
                take(directory, said, self.now_ms)
        one, *others = map(held, self.directories)
        assert all(other == one for other in others)
        assert len(one) == len(self.authors)


TestGossip = Gossip.TestCase
TestGossip.settings = settings(max_examples=40, stateful_step_count=40)
