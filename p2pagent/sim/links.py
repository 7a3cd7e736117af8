"""Links between simulated peers: latency, loss, partition, clog. Each is a small decorator of the one before."""

from collections.abc import Callable, Mapping
from random import Random

from p2pagent.types import PeerId

Link = Callable[[PeerId, PeerId, int], int | None]
"""`(source, target, now_ms) -> latency in ms`, or None where the message is lost."""


def uniform(rng: Random, low_ms: int, high_ms: int) -> Link:
    """Every message takes between `low_ms` and `high_ms`."""
    return lambda _source, _target, _now: rng.randint(low_ms, high_ms)


def accessed(access_ms: Mapping[PeerId, int]) -> Link:
    """Every message takes its sender's way into the middle of the network, and its receiver's way out of it."""
    return lambda source, target, _now: access_ms[source] + access_ms[target]


def lossy(link: Link, rng: Random, share: float) -> Link:
    """Of the messages on `link`, `share` are lost."""
    return lambda source, target, now: None if rng.random() < share else link(source, target, now)


def partitioned(link: Link, island: frozenset[PeerId], start_ms: int, end_ms: int) -> Link:
    """Between the two times nothing passes between `island` and the rest."""

    def cut(source: PeerId, target: PeerId, now_ms: int) -> int | None:
        apart = start_ms <= now_ms < end_ms and (source in island) != (target in island)
        return None if apart else link(source, target, now_ms)

    return cut


def clogged(link: Link, start_ms: int, end_ms: int) -> Link:
    """What is sent between the two times arrives only after the second."""

    def hold(source: PeerId, target: PeerId, now_ms: int) -> int | None:
        latency = link(source, target, now_ms)
        if latency is None or not start_ms <= now_ms < end_ms:
            return latency
        return latency + end_ms - now_ms

    return hold
