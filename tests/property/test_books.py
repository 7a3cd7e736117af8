"""Two devices that buy, sell, dispute and refund over a line that loses and repeats: in the end two books mirror."""

from collections import deque
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pagent.archive import read_book
from p2pagent.config import Preferences
from p2pagent.ledger import receipt_in
from p2pagent.peer.credit import Account
from p2pagent.peer.debts import Debt
from p2pagent.peer.disputes import make_refund
from p2pagent.peer.effects import Acknowledged, Blame, Effect, Post, PostRefund, RecordDispute, RefundAcknowledged, Send
from p2pagent.peer.events import (
    Disputed,
    DisputeRecorded,
    Event,
    PeerUp,
    Posted,
    Received,
    RefundPosted,
    Timer,
    TimerFired,
)
from p2pagent.peer.messages import Dispute, Final, RateCard, Receipt, Settle
from p2pagent.peer.peer import Peer
from p2pagent.peer.wire import WireMessage, decode, encode, protocol_of, sealed
from p2pagent.routing.prototypes import Space
from p2pagent.sim.keys import SimKeys
from p2pagent.store import FILE, Store, open_store
from p2pagent.types import PeerId
from p2pagent.verification import compare, verify
from tests.scenario import START_MS

KEYS = (SimKeys(1), SimKeys(2))
Step = tuple[str, int, int]

steps = st.lists(
    st.tuples(
        st.sampled_from(["buy", "dispute", "refund", *["deliver"] * 5, "again", "break", "restart", "meet"]),
        st.integers(0, 1),
        st.integers(0, 1 << 20),
    ),
    min_size=20,
    max_size=60,
)


class Device:
    """One peer, its store, and what it has sent that has not arrived."""

    def __init__(self, space: Space, keys: SimKeys, store: Store, folder: Path) -> None:
        self.space, self.keys, self.store, self.folder = space, keys, store, folder
        self.sent: deque[WireMessage] = deque()
        self.last: WireMessage | None = None
        self.accounts: dict[PeerId, Account] = {}
        self.blamed: list[Blame] = []

    async def start(self) -> None:
        """As the daemon does: all that the peer knows is from the store."""
        self.accounts = await self.accounts_in_store()
        debts = []
        for signed in await self.store.unacknowledged():
            settle = Settle(signed.body, signed.seller_signature, signed.buyer_signature)
            receipt = receipt_in(signed.body)
            debts.append(Debt(PeerId(receipt.seller), settle, receipt.price_microcredits))
        disputed, refunds = await self.store.open_disputes(), await self.store.unacknowledged_refunds()
        rng, preferences = Random(1), Preferences()
        self.peer = Peer(self.keys, self.space, "test", preferences, rng, 1, self.accounts, debts, disputed, refunds)

    async def accounts_in_store(self) -> dict[PeerId, Account]:
        return {
            peer: Account(sum_.sold_microcredits - sum_.bought_microcredits, 0, sum_.turnover_microcredits)
            for peer, sum_ in (await self.store.turnovers()).items()
        }

    async def handle(self, event: Event) -> None:
        await self.perform(self.peer.handle(event, START_MS))

    async def perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(_, message):
                    self.sent.append(message)
                case Blame():
                    self.blamed.append(effect)
                case Post(ident, body, seller_signature, buyer_signature):
                    new = await self.store.post(body, seller_signature, buyer_signature)
                    await self.handle(Posted(ident, new))
                case PostRefund(refund):
                    await self.handle(RefundPosted(refund, await self.store.book_refund(refund)))
                case RecordDispute(buyer, dispute, raised_ms):
                    refund = await self.store.record_dispute(buyer, dispute, raised_ms)
                    await self.handle(DisputeRecorded(buyer, refund))
                case Acknowledged(ident):
                    await self.store.acknowledge(ident)
                case RefundAcknowledged(ident):
                    await self.store.acknowledge_refund(ident)


class Pair:
    """Both devices and the line between them."""

    def __init__(self, devices: tuple[Device, Device]) -> None:
        self.devices = devices
        self.balance = 0
        """What the second owes the first by all that was dealt and not refunded."""
        self.deals = 0
        self.refunded: set[bytes] = set()

    async def take(self, step: Step) -> None:
        what, who, number = step
        one, other = self.devices[who], self.devices[1 - who]
        match what:
            case "buy":
                await self.buy(one, other, number)
            case "dispute":
                for booked in _picked([b for b in await one.store.receipts(99) if b.role == "buyer"], number):
                    dispute = Dispute(booked.receipt_id, "wrong")
                    if await one.store.raise_dispute(dispute, START_MS):
                        await one.handle(Disputed(booked.other, dispute))
            case "refund":
                for booked in _picked([b for b in await one.store.receipts(99) if b.role == "seller"], number):
                    refund = make_refund(booked.receipt_id, booked.receipt, one.keys, START_MS + number)
                    if await one.store.book_refund(refund) == "new":
                        assert booked.receipt_id not in self.refunded
                        self.refunded.add(booked.receipt_id)
                        self.balance += self.sign(one) * -booked.receipt.price_microcredits
                        await one.handle(RefundPosted(refund, "new"))
            case "deliver":
                await self.deliver(one, other)
            case "again":
                if one.last is not None:
                    await other.handle(Received(one.keys.peer, one.last))
            case "break":
                self.lose_all()
            case "restart":
                self.lose_all()
                await one.start()
            case _:
                await self.meet()

    def sign(self, seller: Device) -> int:
        return 1 if seller is self.devices[0] else -1

    async def buy(self, buyer: Device, seller: Device, price: int) -> None:
        """An answer was had; its receipt is countersigned and goes its way."""
        self.deals += 1
        receipt = Receipt(
            conversation=self.deals.to_bytes(16, "big"),
            buyer=buyer.keys.peer,
            seller=seller.keys.peer,
            agent="agent",
            prompt_tokens=price,
            cached_tokens=0,
            output_tokens=0,
            rates=RateCard(1, 1, 1),
            sheet=b"",
            slot_price_microcredits=0,
            price_microcredits=price,
            answer_sha256=bytes(32),
            issued_ms=START_MS,
        )
        final = Final(receipt.conversation, "stop", *sealed(receipt, seller.keys))
        self.balance += self.sign(seller) * price
        await buyer.perform([buyer.peer._debts.countersign(seller.keys.peer, final, price)[1]])

    async def deliver(self, source: Device, target: Device) -> None:
        if source.sent:
            message = source.sent.popleft()
            source.last = decode(protocol_of(message), encode(message))
            await target.handle(Received(source.keys.peer, source.last))

    def lose_all(self) -> None:
        for device in self.devices:
            device.sent.clear()

    async def meet(self) -> None:
        for device, other in (self.devices, self.devices[::-1]):
            await device.handle(PeerUp(other.keys.peer))

    async def come_to_rest(self) -> None:
        """The line holds from now on."""
        self.lose_all()
        await self.meet()
        for _ in range(3):
            for device in self.devices:
                await device.handle(TimerFired(Timer("exchange")))
            while any(device.sent for device in self.devices):
                for device, other in (self.devices, self.devices[::-1]):
                    await self.deliver(device, other)


def _picked(booked: list, number: int) -> list:
    return [booked[number % len(booked)]] if booked else []


async def story(space: Space, folder: Path, taken: list[Step]) -> None:
    async with AsyncExitStack() as stack:
        made = []
        for keys in KEYS:
            home = folder / keys.peer
            home.mkdir()
            store = await stack.enter_async_context(open_store(home / FILE, keys.peer))
            made.append(Device(space, keys, store, home))
        pair = Pair((made[0], made[1]))
        for device in made:
            await device.start()
        await pair.meet()
        for step in taken:
            await pair.take(step)
        await pair.come_to_rest()

        one, two = books = [read_book(device.folder / FILE) for device in made]
        for book in books:
            assert [finding for finding in verify(book, KEYS[0]) if finding.wrong] == []
            assert len(book.rows) == pair.deals
            assert book.refunds.keys() == pair.refunded
        assert [finding for finding in compare(one, [two], KEYS[0]) if finding.wrong] == []
        assert one.refunds == two.refunds
        assert one.disputed - pair.refunded == two.disputed - pair.refunded
        for device, other, balance in ((*made, pair.balance), (*made[::-1], -pair.balance)):
            peer = other.keys.peer
            assert (await device.store.balances()).get(peer, 0) == balance
            stored = (await device.accounts_in_store()).get(peer, Account())
            assert device.accounts.get(peer, Account()) == stored  # what a restart would find
            assert stored.balance_microcredits == balance
            assert device.blamed == []
            assert await device.store.unacknowledged() == await device.store.unacknowledged_refunds() == []
            assert device.peer._disputes.sellers == {d.seller for d in await device.store.open_disputes()}


@settings(max_examples=60, deadline=None)
@given(steps)
def test_two_books_mirror_each_other_whatever_was_lost_and_repeated(space: Space, taken: list[Step]) -> None:
    with TemporaryDirectory() as folder:
        trio.run(story, space, Path(folder), taken)
