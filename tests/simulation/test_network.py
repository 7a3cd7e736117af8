"""Whole networks in virtual time: who answers, what is owed, and what becomes of it when peers go or lie."""

from random import Random

import pytest

from p2pagent.peer.events import Ask, Leave
from p2pagent.peer.updates import Answered, Restarted, Text, Unanswered
from p2pagent.routing.prototypes import Space
from p2pagent.sim.links import clogged, lossy, partitioned, uniform
from p2pagent.sim.world import Handled, World
from tests.scenario import START_MS, SUBJECTS, Device, answer_of, make_ask


class Network:
    """A world of `Device`s in which everybody has met everybody."""

    def __init__(self, space: Space, count: int, seed: int = 1, skills: list[int] | None = None) -> None:
        self.trace: list[Handled] = []
        self.world = World(uniform(Random(seed), 5, 25), START_MS, self.trace.append)
        self.devices = [Device(i, space, seed, skills[i] if skills else None) for i in range(count)]
        for device in self.devices:
            self.world.add(device.name, device.peer, {"agent": device.engine})
            self.world.at(START_MS, device.name, device.ready)
        for device in self.devices[1:]:
            self.world.connect(device.name, self.devices[0].name)
        self.world.run(START_MS + 2_000)

    def ask(self, index: int, ask: Ask) -> None:
        self.world.at(self.world.now_ms, self.devices[index].name, ask)

    def run(self, ms: int = 20_000) -> None:
        self.world.run(self.world.now_ms + ms)

    def outcome(self, query: str) -> Answered | Unanswered:
        (update,) = [
            t.update for t in self.world.told if t.query == query and isinstance(t.update, Answered | Unanswered)
        ]
        return update

    def texts(self, query: str) -> str:
        return "".join(t.update.text for t in self.world.told if t.query == query and isinstance(t.update, Text))


def test_every_question_goes_to_the_expert_and_both_ledgers_move(space: Space) -> None:
    net = Network(space, 6)
    for subject in range(6):
        net.ask((subject + 1) % 6, make_ask(f"q{subject}", subject))
    net.run()
    for subject in range(6):
        answered = net.outcome(f"q{subject}")
        assert isinstance(answered, Answered)
        assert answered.text == net.texts(f"q{subject}") == answer_of(subject)
        assert answered.agent.peer == net.devices[subject].name
        assert answered.delegated
        assert answered.price_microcredits == 10 * answered.usage.prompt_tokens + 40 * answered.usage.output_tokens
        seller, buyer = (
            net.world.ledgers[net.devices[subject].name],
            net.world.ledgers[net.devices[(subject + 1) % 6].name],
        )
        assert bytes.fromhex(answered.receipt_id) in seller.keys() & buyer.keys()
    assert net.world.blamed == []


def test_the_local_expert_answers_without_a_receipt(space: Space) -> None:
    net = Network(space, 6)
    net.ask(3, make_ask("q", 3))
    net.run()
    answered = net.outcome("q")
    assert isinstance(answered, Answered)
    assert (answered.delegated, answered.price_microcredits, answered.receipt_id) == (False, 0, "")
    assert not net.world.ledgers


def test_a_lonely_peer_answers_for_itself(space: Space) -> None:
    net = Network(space, 1)
    net.ask(0, make_ask("q", 4))
    net.run()
    assert isinstance(net.outcome("q"), Answered)


@pytest.mark.parametrize("privacy", ["local", "trusted"])
def test_a_private_prompt_never_leaves(space: Space, privacy: str) -> None:
    net = Network(space, 6)
    before = len(net.trace)
    net.ask(0, make_ask("q", 5, privacy=privacy))
    net.run()
    answered = net.outcome("q")
    assert isinstance(answered, Answered)
    assert not answered.delegated
    query_frames = [h for h in net.trace[before:] if "Call" in repr(h.event) and h.peer != net.devices[0].name]
    assert query_frames == []


def test_the_winner_dies_in_mid_answer_and_the_other_expert_takes_over(space: Space) -> None:
    net = Network(space, 4, skills=[0, 1, 1, 2])
    net.ask(0, make_ask("q", 1))
    while not net.texts("q"):
        net.run(1)
    awarded = [h for h in net.trace if "Generate(" in repr(h.effects)][-1].peer
    net.world.crash(awarded)
    net.run()
    answered = net.outcome("q")
    assert isinstance(answered, Answered)
    survivor = next(d for d in net.devices[1:3] if d.name != awarded)
    assert answered.text == answer_of(survivor.index)
    assert answered.restarts == 1
    assert any(isinstance(t.update, Restarted) for t in net.world.told)
    assert [len(net.world.ledgers[d.name]) for d in (net.devices[0], survivor)] == [1, 1]


def test_a_raw_stream_that_breaks_off_is_a_partial_result(space: Space) -> None:
    net = Network(space, 3, skills=[0, 1, 1])
    net.ask(0, make_ask("q", 1, raw=True))
    while not net.texts("q"):
        net.run(1)
    net.world.crash([h for h in net.trace if "Generate(" in repr(h.effects)][-1].peer)
    net.run()
    outcome = net.outcome("q")
    assert isinstance(outcome, Unanswered)
    assert outcome.partial


def test_a_receipt_that_its_seller_missed_is_sent_again(space: Space) -> None:
    net = Network(space, 2)
    buyer, seller = net.devices
    net.ask(0, make_ask("q", 1))
    while not isinstance(net.world.told[-1].update if net.world.told else None, Answered):
        net.run(1)
    net.world.crash(seller.name)
    net.run(1_000)
    again = Device(1, space, incarnation=2)
    net.world.add(again.name, again.peer, {"agent": again.engine})
    net.world.at(net.world.now_ms, again.name, again.ready)
    net.world.connect(again.name, buyer.name)
    net.run(1_000)
    assert net.world.ledgers[buyer.name].keys() == net.world.ledgers[seller.name].keys()
    assert len(net.world.ledgers[buyer.name]) == 1


def test_a_peer_that_leaves_is_no_candidate(space: Space) -> None:
    net = Network(space, 3)
    net.world.at(net.world.now_ms, net.devices[1].name, Leave())
    net.run(1_000)
    net.ask(0, make_ask("q", 1))
    net.run()
    answered = net.outcome("q")
    assert isinstance(answered, Answered)
    assert not answered.delegated


def test_too_dear_is_not_bought(space: Space) -> None:
    net = Network(space, 6)
    net.ask(0, make_ask("q", 1, price_max_microcredits=100))
    net.run()
    answered = net.outcome("q")
    assert isinstance(answered, Answered)
    assert not answered.delegated


def test_many_at_once_all_get_answers_and_slots_come_back(space: Space) -> None:
    net = Network(space, 6)
    for i in range(60):
        net.ask(i % 6, make_ask(f"q{i}", (i * 7) % 6, word=f"w{i}"))
    net.run(60_000)
    assert all(isinstance(net.outcome(f"q{i}"), Answered) for i in range(60))
    for device in net.devices:
        assert device.peer.seller.statistics().slots_busy == 0
        assert device.peer.buyer.running == 0


@pytest.mark.parametrize("seed", range(5))
def test_under_loss_every_question_still_ends_once(space: Space, seed: int) -> None:
    net = Network(space, 6, seed)
    net.world._link = lossy(net.world._link, Random(seed), 0.15)
    for i in range(30):
        net.ask(i % 6, make_ask(f"q{i}", (i + 1) % 6, word=f"w{i}"))
    net.run(300_000)
    for i in range(30):
        net.outcome(f"q{i}")
    assert all(d.peer.seller.statistics().slots_busy == 0 for d in net.devices)


def test_one_seed_is_one_run(space: Space) -> None:
    def run() -> list[Handled]:
        net = Network(space, 6, seed=9)
        for i in range(12):
            net.ask(i % 6, make_ask(f"q{i}", (i + 2) % len(SUBJECTS), word=f"w{i}"))
        net.run()
        return net.trace

    assert run() == run()


def test_a_stranger_is_found_through_the_dht_when_nobody_known_is_good(space: Space) -> None:
    net = Network(space, 6)
    net.run(40_000)  # everybody has told the DHT by now
    hermit = Device(6, space, skill=0)
    net.devices.append(hermit)
    net.world.add(hermit.name, hermit.peer, {"agent": hermit.engine})
    net.world.at(net.world.now_ms, hermit.name, hermit.ready)
    net.run(1)
    assert len(hermit.peer.membership.directory) == 0
    net.ask(6, make_ask("q", 5))
    net.run(5_000)
    answered = net.outcome("q")
    assert isinstance(answered, Answered)
    assert answered.agent.peer == net.devices[5].name
    assert answered.ttft_ms < 1_000


def test_a_lookup_that_finds_nobody_costs_no_more_than_its_time(space: Space) -> None:
    net = Network(space, 1)
    for query in ("first", "second"):
        net.ask(0, make_ask(query, 4))
        net.run()
    first, second = net.outcome("first"), net.outcome("second")
    assert isinstance(first, Answered)
    assert isinstance(second, Answered)
    assert first.ttft_ms - second.ttft_ms == 200  # the look-up, once a minute and cell


def test_a_question_during_a_partition_is_answered_on_this_side_of_it(space: Space) -> None:
    net = Network(space, 4, skills=[0, 1, 1, 2])
    island = frozenset({net.devices[0].name, net.devices[1].name})
    start = net.world.now_ms
    net.world._link = partitioned(net.world._link, island, start, start + 30_000)
    net.ask(0, make_ask("q", 1))
    net.run(60_000)
    answered = net.outcome("q")
    assert isinstance(answered, Answered)
    assert answered.agent.peer == net.devices[1].name


def test_a_clogged_network_delays_answers_and_loses_none(space: Space) -> None:
    net = Network(space, 6)
    start = net.world.now_ms
    net.world._link = clogged(net.world._link, start, start + 1_000)
    for subject in range(6):
        net.ask((subject + 1) % 6, make_ask(f"q{subject}", subject))
    net.run()
    for subject in range(6):
        answered = net.outcome(f"q{subject}")
        assert isinstance(answered, Answered)
        assert answered.agent.peer == net.devices[subject].name
        assert answered.total_ms > 1_000
