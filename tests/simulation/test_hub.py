"""Hub clearing in whole networks: contended questions, auctioneers that die or lie, directories that differ."""

from random import Random

import pytest

from p2pagent.market.receipts import metered
from p2pagent.peer.effects import Send, Shun
from p2pagent.peer.epochs import EPOCH_MS
from p2pagent.peer.events import Received
from p2pagent.peer.hub_messages import (
    Claim,
    Commit,
    Fetch,
    Reveal,
    Sheet,
    SignedAcknowledgement,
    SignedBook,
    SignedCommit,
    SignedOffer,
    SignedSheet,
    Solicit,
)
from p2pagent.peer.messages import Award, RateCard, Receipt
from p2pagent.peer.proofs import verdict
from p2pagent.peer.sheet import check_sheet
from p2pagent.peer.wire import parsed
from p2pagent.routing.prototypes import Space
from p2pagent.sim.links import clogged, lossy, partitioned
from p2pagent.types import PeerId
from tests.contended import HUB, Contended, HalfHearted, Liar, happened, proofs_seen
from tests.scenario import Device

SEEDS = range(3)


def held_alike(net: Contended) -> None:
    """All who hold the sheet of a clearing hold the same bytes of it, and these are right."""
    by_clearing: dict[tuple[int, PeerId], set[bytes]] = {}
    for sheets in net.world.sheets.values():
        for signed in sheets.values():
            sheet = parsed(signed.body, Sheet)
            assert isinstance(sheet, Sheet)
            view = check_sheet(signed.body, sheet, net.outsider.keys)
            by_clearing.setdefault((view.book.book.epoch, view.auctioneer), set()).add(signed.body)
    assert by_clearing
    assert all(len(bodies) == 1 for bodies in by_clearing.values())


def paid_as_agreed(net: Contended) -> None:
    """Each price is metered tokens and the toll of the sheet, and both sides have booked the same receipts."""
    for query, answer in net.answers().items():
        rates = RateCard(answer.prompt_microcredits, answer.cached_microcredits, answer.output_microcredits)
        if not answer.delegated:
            assert answer.price_microcredits == 0
            continue
        assert answer.price_microcredits == metered(rates, answer.usage) + answer.slot_price_microcredits
        receipt_id = bytes.fromhex(answer.receipt_id)
        buyer, seller = net.queries[query].name, answer.agent.peer
        bought, sold = net.world.ledgers[buyer][receipt_id], net.world.ledgers[seller][receipt_id]
        assert (bought.receipt, bought.buyer_signature) == (sold.receipt, sold.buyer_signature)
        if answer.how == "cleared":
            signed = net.world.sheets[buyer][bytes.fromhex(answer.sheet)]
            view = check_sheet(signed.body, parsed(signed.body, Sheet), net.outsider.keys)  # type: ignore[arg-type]
            receipt = parsed(sold.receipt, Receipt)
            (toll,) = [
                grant.toll_microcredits
                for grant in view.sheet.grants
                if (bid := view.bids[grant.bid]) is not None
                and bid.wants[grant.want].conversation == receipt.conversation  # type: ignore[attr-defined]
            ]
            assert toll == answer.slot_price_microcredits


# --- all is well ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("each", [1, 2])
@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_contended_is_cleared_at_the_prices_of_one_sheet(space: Space, seed: int, each: int) -> None:
    net = Contended(space, seed)
    net.ask_all(each)
    net.run()
    cleared = [answer for answer in net.answers().values() if answer.how == "cleared"]
    assert cleared
    assert any(answer.slot_price_microcredits > 0 for answer in cleared)
    held_alike(net)
    paid_as_agreed(net)
    assert net.world.blamed == []
    net.assert_at_rest()


@pytest.mark.parametrize("seed", SEEDS)
def test_all_participants_hold_the_sheet_and_only_they(space: Space, seed: int) -> None:
    net = Contended(space, seed)
    net.wait_for_epoch_of(net.bystanders[0])
    net.ask_all()
    net.run(EPOCH_MS // 2)
    (first,) = {sheet for sheets in net.world.sheets.values() for sheet in sheets}
    books = {device.name for device in net.everybody if net.received(SignedBook, device)}
    assert {name for name, sheets in net.world.sheets.items() if first in sheets} >= books
    assert net.outsider.name not in net.world.sheets


def test_an_owner_with_several_questions_is_one_participant(space: Space) -> None:
    """Alone in the clearing it pays no toll, whatever its own questions would bid against each other."""
    net = Contended(space, askers=2)
    first, second = net.askers
    for number in range(2):
        net.ask(first, f"busy{number}")
        net.run(60)
    net.world.run((net.world.now_ms // EPOCH_MS + 1) * EPOCH_MS + 20)
    for number in range(3):
        net.ask(second, f"own{number}")
    net.run()
    answers = net.answers()
    cleared = [answers[f"own{number}"] for number in range(3) if answers[f"own{number}"].how == "cleared"]
    assert cleared
    assert [answer.slot_price_microcredits for answer in cleared] == [0] * len(cleared)
    for sheets in net.world.sheets.values():
        for signed in sheets.values():
            sheet = parsed(signed.body, Sheet)
            view = check_sheet(signed.body, sheet, net.outsider.keys)  # type: ignore[arg-type]
            assert len({commit.buyer for commit in view.book.commits}) == len(view.book.commits)
            assert {len(bid.wants) for bid in view.bids if bid} <= {1, 2, 3}
    net.assert_at_rest()


def test_what_is_not_contended_sends_nothing_to_a_hub(space: Space) -> None:
    net = Contended(space, askers=1)
    net.ask_all()
    net.run()
    assert net.answers()["2.0"].how == "posted"
    assert not any(net.sent(kind) for kind in (SignedCommit, Solicit, SignedOffer, SignedBook, SignedSheet))


# --- auctioneers that die -------------------------------------------------------------------------------------------

DEATHS = {
    "commit": SignedCommit,
    "offer": SignedOffer,
    "reveal": Reveal,
    "book": SignedBook,
}
"""What the auctioneer has just taken in when it dies; its own book comes to it when it is signed."""


@pytest.mark.parametrize("noticed", [True, False])
@pytest.mark.parametrize("moment", DEATHS)
@pytest.mark.parametrize("seed", SEEDS)
def test_an_auctioneer_that_dies_delays_its_queries_by_an_epoch_at_most(
    space: Space, seed: int, moment: str, noticed: bool
) -> None:
    net = Contended(space, seed)
    auctioneer = net.bystanders[0]
    net.wait_for_epoch_of(auctioneer)
    net.ask_all()
    net.run_until(lambda step: happened(DEATHS[moment], auctioneer)(step) or is_own(step, DEATHS[moment]))
    net.world.crash(auctioneer.name) if noticed else net.freeze(auctioneer)
    net.run()
    assert_delay(net, auctioneer.name)
    assert len(net.answers()) == len(net.queries)
    net.assert_at_rest(but=[auctioneer])
    assert net.blamed(but_by=auctioneer) <= {auctioneer.name}


def is_own(step: object, kind: type) -> bool:
    return kind is SignedBook and any(isinstance(getattr(e, "message", None), SignedBook) for e in step.effects)  # type: ignore[attr-defined]


@pytest.mark.parametrize("seed", SEEDS)
def test_an_auctioneer_that_dies_with_half_of_its_sheets_unsent(space: Space, seed: int) -> None:
    net = Contended(space, seed)
    auctioneer = net.bystanders[0]
    net.wait_for_epoch_of(auctioneer)
    auctioneer.peer.hub.auctioneer = HalfHearted(auctioneer.peer.hub.auctioneer)
    net.ask_all()
    net.run_until(lambda step: any(isinstance(getattr(e, "message", None), SignedSheet) for e in step.effects))
    net.freeze(auctioneer)
    net.run()
    assert_delay(net, auctioneer.name)
    assert len(net.answers()) == len(net.queries)
    net.assert_at_rest(but=[auctioneer])
    assert net.blamed(but_by=auctioneer) <= {auctioneer.name}


def assert_delay(net: Contended, auctioneer: PeerId) -> None:
    """Whoever committed to this clearing goes on within an epoch: a claim, an award, or a fresh commit."""
    ours = [
        (step.at_ms, step.peer, effect.peer, effect.message)
        for step in net.trace
        for effect in step.effects
        if isinstance(effect, Send) and isinstance(effect.message, SignedCommit | Claim | Award)
    ]
    commits = [
        n for n, (_, _, to, message) in enumerate(ours) if isinstance(message, SignedCommit) and to == auctioneer
    ]
    assert commits
    for number in commits:
        then_ms, buyer, _, _ = ours[number]
        next_ms = next(at_ms for at_ms, peer, _, _ in ours[number + 1 :] if peer == buyer)
        assert next_ms - then_ms <= EPOCH_MS


@pytest.mark.parametrize("seed", SEEDS)
def test_kept_slots_are_free_again_an_epoch_after_the_auctioneer_died(space: Space, seed: int) -> None:
    net = Contended(space, seed)
    auctioneer = net.bystanders[0]
    net.wait_for_epoch_of(auctioneer)
    net.ask_all()
    net.run_until(happened(SignedOffer, auctioneer))
    net.run(10)
    net.freeze(auctioneer)
    sellers = [device for device in net.devices if device.peer.hub.offers._promises]
    assert sellers
    promised = {device.name: set(device.peer.hub.offers._promises) for device in sellers}
    net.run(EPOCH_MS)
    for device in sellers:
        assert not promised[device.name] & set(device.peer.hub.offers._promises)


# --- auctioneers that lie -------------------------------------------------------------------------------------------

LIES = {
    "wrong prices": "wrong sheet",
    "wrong toll": "wrong sheet",
    "wrong allocation": "wrong sheet",
    "forge commit": "wrong book",
    "drop commit": "omission",
    "drop offer": "omission",
    "drop bid": "omission",
    "two books": "equivocation",
    "two sheets": "equivocation",
}


def lie_in(net: Contended, lie: str, *, careful: bool = False) -> Device:
    """Let the first bystander be drawn, and lie; halves are buyers and sellers."""
    liar = net.bystanders[0]
    net.wait_for_epoch_of(liar)
    victim = net.askers[0]
    first_half = {device.name for device in (*net.askers, liar)}
    liar.peer.hub.auctioneer = Liar(liar.peer.hub.auctioneer, lie, victim.name, first_half, careful=careful)
    return liar


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("seed", SEEDS)
def test_every_provable_lie_is_caught_and_its_author_shunned_by_all(space: Space, seed: int, lie: str) -> None:
    net = Contended(space, seed)
    liar = lie_in(net, lie)
    # The first askers take the slots; who asks a moment later has to bid, the victim among them.
    for device in net.askers[1:3]:
        net.ask(device, f"first{device.index}")
    net.run(60)
    net.ask_all()
    net.run()
    assert isinstance(liar.peer.hub.auctioneer, Liar)
    assert liar.peer.hub.auctioneer.lied
    assert len(net.answers()) == len(net.queries)
    (proof, *_) = proofs_seen(net, net.outsider)
    found = verdict(proof, net.outsider.keys)
    assert (found.culprit, found.crime) == (liar.name, LIES[lie])
    assert net.outsider.name not in net.world.sheets  # it had no part in the clearing
    for device in net.everybody:
        assert device.peer.directory.is_banned(liar.name) == (device is not liar)
    assert any(Shun(liar.name) in step.effects for step in net.trace if step.peer == net.outsider.name)
    assert net.blamed(but_by=liar) == {liar.name}
    net.assert_at_rest(but=[liar])


QUIET_SEEDS = (0, 2, 3)
"""With which the victim has no other reason to ask where it was left out."""


@pytest.mark.parametrize("seed", QUIET_SEEDS)
def test_who_is_left_out_and_sent_nothing_proves_it_by_the_sheet_that_a_later_price_names(
    space: Space, seed: int
) -> None:
    net = Contended(space, seed)
    liar = lie_in(net, "drop commit", careful=True)
    for device in net.askers[1:3]:
        net.ask(device, f"first{device.index}")
    net.run(60)
    net.ask_all()
    net.run(EPOCH_MS + 200)
    assert liar.peer.hub.auctioneer.lied  # type: ignore[attr-defined]
    assert proofs_seen(net, net.outsider) == []
    victim = net.askers[0]
    net.ask(victim, "later")
    net.run()
    assert net.sent(Fetch, victim)
    (proof, *_) = proofs_seen(net, net.outsider)
    assert verdict(proof, net.outsider.keys).crime == "omission"
    assert len(net.answers()) == len(net.queries)
    assert net.blamed(but_by=liar) == {liar.name}


@pytest.mark.parametrize("lie", ["two books", "two sheets"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_lie_to_two_halves_is_noticed_by_a_claim_that_names_another_sheet(space: Space, seed: int, lie: str) -> None:
    net = Contended(space, seed)
    liar = lie_in(net, lie)
    for device in net.askers[1:3]:
        net.ask(device, f"first{device.index}")
    net.run(60)
    net.ask_all()
    net.run()
    fetches = [(at_ms, send) for expert in net.experts for at_ms, send in net.sent(Fetch, expert)]
    assert fetches
    claimed_ms = {device.name: net.sent(Claim, device)[0][0] for device in net.askers if net.sent(Claim, device)}
    asked = {send.peer for _, send in fetches}
    assert asked <= claimed_ms.keys()
    (convicted_ms,) = {
        min(step.at_ms for step in net.trace if step.peer == expert.name and Shun(liar.name) in step.effects)
        for expert in net.experts
        if any(send in step.effects for step in net.trace if step.peer == expert.name for _, send in fetches[:1])
    }
    assert convicted_ms - min(claimed_ms.values()) < 200


def test_who_lied_serves_and_is_served_no_more_but_its_debts_are_settled(space: Space) -> None:
    net = Contended(space)
    liar = lie_in(net, "wrong prices")
    net.ask_all()
    net.run()
    before = len(net.trace)
    net.ask(net.askers[0], "later")
    net.run()
    assert "later" in net.answers()
    messages = [
        step
        for step in net.trace[before:]
        if isinstance(step.event, Received) and step.event.peer == liar.name and step.peer != liar.name
    ]
    assert all(step.effects == () for step in messages)


# --- what cannot be proved ------------------------------------------------------------------------------------------


class Mute(HalfHearted):
    """Does not send one kind of message."""

    def __init__(self, honest: object, kind: type) -> None:
        super().__init__(honest)  # type: ignore[arg-type]
        self.kind = kind

    def _clear(self, auction, now_ms):  # type: ignore[no-untyped-def]
        return self._without(super(HalfHearted, self)._clear(auction, now_ms))

    def on_commit(self, buyer, message, now_ms):  # type: ignore[no-untyped-def]
        return self._without(super().on_commit(buyer, message, now_ms))

    def _without(self, effects):  # type: ignore[no-untyped-def]
        return [e for e in effects if not isinstance(getattr(e, "message", None), self.kind)]


@pytest.mark.parametrize("kind", [SignedAcknowledgement, SignedSheet, Solicit])
@pytest.mark.parametrize("seed", SEEDS)
def test_what_cannot_be_proved_is_held_against_the_auctioneer_by_those_it_met_alone(
    space: Space, seed: int, kind: type
) -> None:
    net = Contended(space, seed)
    auctioneer = net.bystanders[0]
    net.wait_for_epoch_of(auctioneer)
    auctioneer.peer.hub.auctioneer = Mute(auctioneer.peer.hub.auctioneer, kind)
    net.ask_all()
    net.run()
    assert len(net.answers()) == len(net.queries)
    assert proofs_seen(net, net.outsider) == []
    assert net.blamed() <= {auctioneer.name}
    assert not any(device.peer.directory.is_banned(auctioneer.name) for device in net.everybody)
    if kind is SignedSheet:
        assert net.blamed() == {auctioneer.name}
    assert_delay(net, auctioneer.name)
    net.assert_at_rest()


def test_who_is_declined_goes_on_at_posted_prices(space: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2pagent.peer.auctioneer.AUCTIONS_MAX", 0)
    net = Contended(space)
    net.ask_all()
    net.run()
    assert {answer.how for answer in net.answers().values()} == {"posted"}
    assert net.world.blamed == []
    net.assert_at_rest()


# --- an unlucky network ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_under_loss_every_query_still_ends_once_and_no_slot_is_lost(space: Space, seed: int) -> None:
    net = Contended(space, seed)
    net.world._link = lossy(net.world._link, Random(seed), 0.1)
    net.ask_all(2)
    net.run(200_000)
    assert all(len(ends) == 1 for ends in net.outcomes().values())
    net.assert_at_rest()
    assert not any(device.peer.directory.is_banned(other.name) for device in net.devices for other in net.devices)


@pytest.mark.parametrize("after_ms", [0, 60, 120, 200, 260, 320, 400])
def test_a_partition_in_mid_clearing_leaves_nobody_hanging_and_nobody_banned(space: Space, after_ms: int) -> None:
    net = Contended(space)
    net.wait_for_epoch_of(net.bystanders[0])
    start_ms = net.world.now_ms + after_ms
    island = frozenset(device.name for device in net.devices[::2])
    net.world._link = partitioned(net.world._link, island, start_ms, start_ms + 1_500)
    net.ask_all()
    net.run(100_000)
    assert all(len(ends) == 1 for ends in net.outcomes().values())
    net.assert_at_rest()
    assert not any(device.peer.directory._banned for device in net.everybody)


@pytest.mark.parametrize("after_ms", [0, 100, 250, 350])
def test_a_clog_that_outlasts_the_epoch_makes_nobody_a_liar(space: Space, after_ms: int) -> None:
    net = Contended(space)
    net.wait_for_epoch_of(net.bystanders[0])
    start_ms = net.world.now_ms + after_ms
    net.world._link = clogged(net.world._link, start_ms, start_ms + 2_500)
    net.ask_all()
    net.run(100_000)
    assert len(net.answers()) == len(net.queries)
    net.assert_at_rest()
    assert not any(device.peer.directory._banned for device in net.everybody)


@pytest.mark.parametrize("slow_ms", [60, 200, 400])
def test_a_claim_that_overtakes_the_sheet_is_served(space: Space, slow_ms: int) -> None:
    """The auctioneer's link to the experts is slow, so that they learn of the sheet from those who claim."""
    net = Contended(space)
    auctioneer = net.bystanders[0]
    net.wait_for_epoch_of(auctioneer)
    link, experts = net.world._link, {device.name for device in net.experts}
    slowed = frozenset(experts)

    def skewed(source: PeerId, target: PeerId, now_ms: int) -> int | None:
        latency = link(source, target, now_ms)
        late = source == auctioneer.name and target in slowed and started(net)
        return latency + slow_ms if late and latency is not None else latency

    net.world._link = skewed
    net.ask_all()
    net.run()
    assert any(net.sent(Fetch, expert) for expert in net.experts)
    assert sum(answer.how == "cleared" for answer in net.answers().values()) >= 2
    assert net.world.blamed == []
    net.assert_at_rest()


def started(net: Contended) -> bool:
    """Whether a sheet is being sent."""
    return any(isinstance(step.event, Received) and isinstance(step.event.message, Reveal) for step in net.trace)


# --- directories and clocks that differ -----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_two_auctioneers_of_one_epoch_share_the_slots(space: Space, seed: int) -> None:
    """Half of the askers do not know the peer that the others draw."""
    net = Contended(space, seed, experts=2, askers=6)
    drawn = net.bystanders[0]
    net.wait_for_epoch_of(drawn)
    for device in net.askers[::2]:
        device.peer.directory._entries.pop(drawn.name)
        device.peer.hub.cast.looked_ms = -1
    net.ask_all()
    net.run()
    drew = {send.peer for _, send in net.sent(SignedCommit)}
    assert len(drew) >= 2
    assert len(net.answers()) == len(net.queries)
    assert net.world.blamed == []
    held_alike(net)
    net.assert_at_rest()


@pytest.mark.parametrize("seed", SEEDS)
def test_hubs_of_different_depth_end_well(space: Space, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some know so few agents that all of them are one hub, others have split it."""
    monkeypatch.setattr("p2pagent.peer.epochs.HUB_AGENTS_MAX", 7)
    net = Contended(space, seed, experts=2, askers=6)
    for device in net.askers[::2]:
        for other in net.devices[-3:]:
            if other is not device:
                device.peer.directory._entries.pop(other.name)
    net.ask_all(2)
    net.run()
    names = {parsed(send.message.body, Commit).hub for _, send in net.sent(SignedCommit)}  # type: ignore[attr-defined, union-attr]
    assert len(names) > 1
    assert HUB in names
    assert len(net.answers()) == len(net.queries)
    assert net.world.blamed == []
    net.assert_at_rest()
