"""The daemon of one device: puts the parts together, starts them in order, and takes them down again.

Order: secrets and store (so that a second daemon is refused before anything else), network and API, then the engines.
An agent joins the record of this device as soon as its engine is ready and its skill is known; one that cannot start is
reported and leaves the others running. When the wall clock is set back, all starts anew: nobody believes a peer whose
clock is ahead.
"""

import os
import signal
import sys
from collections import deque
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from random import SystemRandom

import trio
from rich.console import Console
from trio_typing import TaskStatus

from p2pagent import experts, home
from p2pagent.api.server import serve
from p2pagent.clock import Clock
from p2pagent.config import Config
from p2pagent.driver import Driver
from p2pagent.engine.factory import model_folder
from p2pagent.errors import RemoteError, bare_local_errors
from p2pagent.hosting import Hosting
from p2pagent.keys import Ed25519Keys
from p2pagent.ledger import receipt_in
from p2pagent.net import (
    BootstrapFailed,
    FrameReceived,
    NetConfig,
    NetEvent,
    Network,
    ProtocolViolation,
    SendFailed,
)
from p2pagent.net import PeerDown as NetPeerDown
from p2pagent.net import PeerIdle as NetPeerIdle
from p2pagent.net import PeerUp as NetPeerUp
from p2pagent.node import WARNINGS_MAX, LocalNode
from p2pagent.peer.credit import Account
from p2pagent.peer.debts import Debt
from p2pagent.peer.events import (
    AgentsChanged,
    CacheChanged,
    Leave,
    Misbehaved,
    PeerDown,
    PeerIdle,
    PeerUp,
    Received,
    Unsent,
)
from p2pagent.peer.gossip_messages import Record, SignedRecord
from p2pagent.peer.messages import Settle
from p2pagent.peer.peer import Peer
from p2pagent.peer.wire import GOSSIP_PROTOCOL, HUB_PROTOCOL, QUERY_PROTOCOL, decode, parsed
from p2pagent.routing.prototypes import Space
from p2pagent.routing.space import load_space
from p2pagent.store import FILE, Store, open_store
from p2pagent.tokenisers import Tokenisers
from p2pagent.types import PeerId

LOOK_AFTER_S = 60
ADDRESSES_MAX = 8
FAREWELL_S = 0.3
"""For our last record to leave before the connections close."""

_say = Console(stderr=True, highlight=False, soft_wrap=True).print


def run(folder: Path, config: Config, *, until_stdin_closes: bool = False) -> None:
    """Run the daemon of `folder` until SIGINT or SIGTERM, or until standard input closes.

    Raises:
        LocalError: it cannot start, or none of its agents can.
    """
    with bare_local_errors():
        trio.run(_main, folder, config, until_stdin_closes)


async def _main(folder: Path, config: Config, until_stdin_closes: bool) -> None:
    while await _live(folder, config, until_stdin_closes):
        _say("warning: the wall clock was set back; starting anew, for others do not believe one that is ahead")


async def _live(folder: Path, config: Config, until_stdin_closes: bool) -> bool:
    """One life of the daemon; returns whether there is to be another."""
    async with AsyncExitStack() as stack:
        daemon = Daemon(folder, config)
        await daemon.open(stack)
        nursery = await stack.enter_async_context(trio.open_nursery())
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            if until_stdin_closes:
                nursery.start_soon(_terminate_at_end_of_input)
            # Beside the wait for a signal: an engine may take minutes to start, and Ctrl-C shall end that too.
            nursery.start_soon(daemon.start, nursery)
            await anext(signals)
        await daemon.leave()
        nursery.cancel_scope.cancel()
    return daemon.starts_anew


async def _terminate_at_end_of_input() -> None:
    stdin = sys.stdin.fileno()
    await trio.lowlevel.wait_readable(stdin)
    while os.read(stdin, 4096):
        await trio.lowlevel.wait_readable(stdin)
    signal.raise_signal(signal.SIGTERM)


class Daemon:
    """All parts of one device and what passes between them."""

    def __init__(self, folder: Path, config: Config) -> None:
        seed = home.identity(folder)
        self._folder = folder
        self._config = config
        self._keys = Ed25519Keys(seed)
        self.starts_anew = False
        self._addresses: tuple[str, ...] | None = None
        self._tokenisers = Tokenisers()
        self._warnings: deque[str] = deque(maxlen=WARNINGS_MAX)
        self._space: Space = load_space(config.embedding.kind)
        self._network = Network(
            seed,
            NetConfig(
                listen=config.network.listen,
                bootstrap=config.network.bootstrap,
                psk=bytes.fromhex(config.network.psk) or None,
                mdns=config.network.mdns,
                neighbours_max=config.network.neighbours_max,
            ),
            (QUERY_PROTOCOL, GOSSIP_PROTOCOL, HUB_PROTOCOL),
            self._on_network,
            self._counterparties,
        )

    async def open(self, stack: AsyncExitStack) -> None:
        """Open the store and wake the peer with what it remembers."""
        self._store: Store = await stack.enter_async_context(open_store(self._folder / FILE, self._keys.peer))
        self._clock = Clock()
        accounts = {
            peer: Account(sum_.sold_microcredits - sum_.bought_microcredits, 0, sum_.turnover_microcredits)
            for peer, sum_ in (await self._store.turnovers()).items()
        }
        debts = []
        for signed in await self._store.unacknowledged():
            receipt = receipt_in(signed.body)
            settle = Settle(signed.body, signed.seller_signature, signed.buyer_signature)
            debts.append(Debt(PeerId(receipt.seller), settle, receipt.price_microcredits))
        self._peer = Peer(
            self._keys,
            self._space,
            self._config.network.name,
            self._config.preferences,
            SystemRandom(),  # a bid is sealed by what nobody can foresee
            await self._store.next_incarnation(self._clock()),
            accounts,
            debts,
            await self._store.open_disputes(),
            await self._store.unacknowledged_refunds(),
            await self._store.load_experience(),
        )
        await trio.to_thread.run_sync(self._find_tokenisers)
        self._hosting = Hosting(
            self._folder,
            self._space,
            self._store,
            changed=self._tell_agents,
            cached=lambda agent, held: self._driver.put(CacheChanged(agent, held)),
            warn=self._warn,
        )
        engines, tokenisers = self._hosting.engines, self._tokenisers
        self._driver = Driver(self._peer, self._network, engines, self._store, self._clock, tokenisers=tokenisers)

    async def start(self, nursery: trio.Nursery) -> None:
        """Bring everything up; returns when this device answers.

        Raises:
            LocalError: a port is taken, or no agent could start.
        """
        await nursery.start(self._driver.run)
        await nursery.start(self._network.run)
        node = LocalNode(
            keys=self._keys,
            config=self._config,
            space=self._space,
            peer=self._peer,
            driver=self._driver,
            network=self._network,
            store=self._store,
            engines=self._hosting.engines,
            tokenisers=self._tokenisers,
            warnings=self._warnings,
            started_s=trio.current_time(),
        )
        port = await nursery.start(serve, node, self._config.api.port, home.token(self._folder))
        await nursery.start(self._announce, port)
        for record in await self._store.load_records():
            self._meet_again(record)
        nursery.start_soon(self._look_after)
        if not self._config.agents:
            self._tell_agents()
        await self._hosting.start(self._config.agents, nursery)
        _say(f"[bold]{self._keys.peer}[/bold] is up; its OpenAI API is at http://127.0.0.1:{port}/v1")
        _say("ask it something: p2pagent ask 'What is 47 plus 38?'; take others in: p2pagent invite")

    async def leave(self) -> None:
        """Say goodbye to the network and keep what is known of it."""
        self._driver.put(Leave())
        with trio.move_on_after(FAREWELL_S):
            await self._snapshot()
            await trio.sleep(FAREWELL_S)

    def _tell_agents(self) -> None:
        self._addresses = self._network.addresses()
        adverts = tuple(self._hosting.adverts.values())
        self._driver.put(AgentsChanged(adverts, self._addresses[:ADDRESSES_MAX], self._hosting.measured.copy()))

    # --- network ----------------------------------------------------------------------------------------------------

    def _counterparties(self) -> set[PeerId]:
        return self._peer.counterparties()

    def _on_network(self, event: NetEvent) -> None:
        match event:
            case FrameReceived(peer, protocol, payload):
                self._on_bytes(peer, protocol, payload)
            case NetPeerUp(peer):
                self._driver.put(PeerUp(peer))
            case NetPeerDown(peer):
                self._driver.put(PeerDown(peer))
            case NetPeerIdle(peer):
                self._driver.put(PeerIdle(peer))
            case SendFailed(peer, protocol):
                # A neighbour that takes no gossip may still be trading with us.
                if protocol != GOSSIP_PROTOCOL or peer not in self._peer.membership.neighbours:
                    self._driver.put(Unsent(peer))
            case ProtocolViolation(peer, _, reason):
                self._driver.received(Misbehaved(peer, reason))
            case BootstrapFailed(address, reason):
                self._warn(
                    f"bootstrap {address} does not answer ({reason}); still trying: is it up, is the address right?"
                )

    def _on_bytes(self, peer: PeerId, protocol: str, data: bytes) -> None:
        try:
            message = decode(protocol, data)
        except RemoteError as error:
            self._driver.received(Misbehaved(peer, str(error)))
        else:
            self._driver.received(Received(peer, message))

    def _meet_again(self, signed: SignedRecord) -> None:
        try:
            record = parsed(signed.body, Record)
        except RemoteError:
            return  # written by another version of this program
        self._network.learn_addresses(PeerId(record.peer), record.addresses)
        self._network.connect(PeerId(record.peer))

    async def _snapshot(self) -> None:
        await self._store.save_records([entry.signed for _, entry in self._peer.directory.entries()])

    def _find_tokenisers(self) -> None:
        """Know those of the shipped experts, of the own models, and those that the owner has put into the folder."""
        models = [model_folder(agent.engine) for agent in self._config.agents]
        for folder in [*map(experts.path, experts.names()), *models]:
            with suppress(OSError, ValueError):  # the engine that reads it says what is wrong
                if folder is not None:
                    self._tokenisers.add(folder)
        for folder in home.tokenisers(self._folder):
            try:
                self._tokenisers.add(folder)
            except (OSError, ValueError) as error:
                self._warn(f"{folder} holds no tokeniser: {error}")

    # --- this device ------------------------------------------------------------------------------------------------

    async def _look_after(self) -> None:
        """Every minute: keep what is known, tell of new addresses, and see whether the clock is still to be believed.

        Starting anew ends engines and connections, so it waits until no question of the owner is under way.
        """
        while True:
            await trio.sleep(LOOK_AFTER_S)
            await self._snapshot()
            if self._addresses is not None and self._addresses != self._network.addresses():
                self._tell_agents()
            if self._clock.is_wrong and not self._peer.buyer.running:
                self.starts_anew = True
                signal.raise_signal(signal.SIGTERM)
                return

    async def _announce(self, port: int, *, task_status: TaskStatus[None]) -> None:
        with home.announced(self._folder, port):
            task_status.started()
            await trio.sleep_forever()

    def _warn(self, text: str) -> None:
        self._warnings.append(text)
        _say(f"warning: {text}", markup=False)
