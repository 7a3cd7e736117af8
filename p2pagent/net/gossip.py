"""One gossip topic: small signed announcements, published at a steady pace, checked before they are passed on.

Gossip loses messages silently (outbound queues of 32, saturated peers). Whoever needs all of them pulls the rest.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import trio
from libp2p.abc import IHost
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from trio_typing import TaskStatus

from p2pagent.net.events import GOSSIP_BYTES_MAX, GossipReceived, OnEvent
from p2pagent.net.guards import Guard, reset
from p2pagent.net.muxer import yamux_of
from p2pagent.types import PeerId

PUBLISH_INTERVAL_S = 0.05
"""Libp2p keeps 32 messages per neighbour and drops the rest without a word: never publish in a burst."""

PUBLISH_QUEUE_MAX = 128
RPC_BYTES_MAX = 1 << 18

Validate = Callable[[PeerId, bytes], bool]


class GuardedPubsub(Pubsub):
    """Pubsub that survives bad messages and the return of a peer on a new connection."""

    def __init__(self, *args: Any, guard: Guard, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._guard = guard

    async def push_msg(self, msg_forwarder: ID, msg: rpc_pb2.Message) -> None:
        try:
            await super().push_msg(msg_forwarder, msg)
        except Exception as error:
            self._guard.caught("gossip message", error)

    def _handle_dead_peer(self, peer_id: ID) -> None:
        stream = self.peers.get(peer_id)
        # What a peer on a new connection subscribed to has already been said; it will not say it again.
        kept = [topic for topic, peers in self.peer_topics.items() if peer_id in peers]
        connected = self._peer_is_connected(peer_id)
        super()._handle_dead_peer(peer_id)
        if connected:
            for topic in kept:
                self.peer_topics.setdefault(topic, set()).add(peer_id)
            self._peer_subscription_count[peer_id] = len(kept)
        if stream is not None and self.manager.is_running:
            self.manager.run_task(reset, stream)

    def forget_stale_stream(self, peer_id: ID) -> None:
        """Reopen the stream to a connected peer if ours went down with an older connection of the same peer.

        Stock, pubsub keeps the dead stream as long as any connection is up, and the two never hear each other again.
        """
        stream = self.peers.get(peer_id)
        if stream is not None and not yamux_of(stream).is_established:
            self._handle_dead_peer(peer_id)


class BoundedGossipSub(GossipSub):
    """Gossipsub v1.1 without the table that grows by one entry per message."""

    def __init__(self) -> None:
        super().__init__(
            # 1.2 and later send an IDONTWANT to every mesh peer for every message, which triples the cost here.
            protocols=[PROTOCOL_ID_V11],
            degree=6,
            degree_low=4,
            degree_high=12,
            heartbeat_interval=1,
            spam_protection_enabled=False,
            adaptive_gossip_enabled=False,
        )

    def _periodic_security_cleanup(self) -> None:
        super()._periodic_security_cleanup()
        self.recent_message_deliveries.clear()


class Gossip:
    """Publishes to one topic and delivers from it."""

    def __init__(self, host: IHost, topic: str, validate: Validate, on_event: OnEvent, guard: Guard) -> None:
        self._topic = topic
        self._validate = validate
        self._on_event = on_event
        self._guard = guard
        self._tally = guard.tally
        self._outgoing: deque[bytes] = deque()
        self._wake = trio.Event()
        self.router = BoundedGossipSub()
        self.pubsub = GuardedPubsub(
            host,
            self.router,
            guard=guard,
            strict_signing=True,
            max_inbound_rpc_size=RPC_BYTES_MAX,
            allowed_topics=frozenset({topic}),
        )
        # Stock, it counts seconds: more than one message per second and a restart would reuse message ids.
        self.pubsub.counter = time.time_ns()
        self.pubsub.set_topic_validator(topic, self._accepts, False)

    def publish(self, data: bytes) -> None:
        """Queue a message of at most GOSSIP_BYTES_MAX bytes; a full queue drops it and counts it.

        Raises:
            ValueError: the message is too long.
        """
        if len(data) > GOSSIP_BYTES_MAX:
            raise ValueError(f"gossip of {len(data)} bytes, at most {GOSSIP_BYTES_MAX}")
        if len(self._outgoing) >= PUBLISH_QUEUE_MAX:
            self._tally.gossip_dropped += 1
            return
        self._outgoing.append(data)
        self._wake.set()

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Subscribe, then deliver and publish until cancelled."""
        subscription = await self.pubsub.subscribe(self._topic)
        task_status.started()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._publish_all)
            async for message in subscription:
                source = ID(message.from_id)
                if source != self.pubsub.my_id:
                    self._tally.gossip_in += 1
                    self._on_event(GossipReceived(PeerId(source.to_base58()), message.data))

    async def _publish_all(self) -> None:
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            while self._outgoing:
                try:
                    await self.pubsub.publish(self._topic, self._outgoing.popleft())
                    self._tally.gossip_out += 1
                except Exception as error:
                    self._guard.caught("publish", error)
                await trio.sleep(PUBLISH_INTERVAL_S)

    def _accepts(self, _forwarder: ID, message: rpc_pb2.Message) -> bool:
        source = ID(message.from_id)
        if source == self.pubsub.my_id:
            return True
        try:
            return len(message.data) <= GOSSIP_BYTES_MAX and self._validate(PeerId(source.to_base58()), message.data)
        except Exception as error:
            self._guard.caught("gossip validator", error)
            return False
