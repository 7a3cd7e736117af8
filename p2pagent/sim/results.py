"""What a simulated run showed: the figures, and the samples that they come from."""

from msgspec import Struct

from p2pagent.peer.messages import Call
from p2pagent.sim.metrics import Deaths, Spread, Traffic, spread
from p2pagent.sim.node import Node
from p2pagent.sim.questions import Questions
from p2pagent.sim.world import World


class Results(Struct, frozen=True):
    """What a run showed. Shares are of the questions whose asker was there to the end; money is in microcredits."""

    scenario: str
    peers: int
    seed: int
    minutes: float
    asked: int
    abandoned: int
    answered_share: float | None
    delegated_share: float | None
    accuracy: float | None
    accuracy_local: float | None
    accuracy_informed: float | None
    accuracy_claimed: float | None
    accuracy_oracle: float | None
    latency_ms: Spread
    ttft_ms: Spread
    calls_per_query: float | None
    restarts_per_query: float | None
    price_microcredits: Spread
    gossip_out_bytes_per_s: float
    gossip_in_bytes_per_s: float
    gossip_bytes_per_s: Spread
    deaths: int
    death_suspected_ms: Spread
    death_known_ms: Spread
    deaths_unknown: int
    directory: Spread
    faults_blamed: int
    events: int
    digest: str


class Samples(Struct, frozen=True):
    """What figures of `Results` come from: per answer when it was asked for, how long it took, whether it was right."""

    asked_ms: list[int]
    latency_ms: list[int]
    right: list[bool]
    gossip_bytes_per_s: list[float]
    suspected_ms: list[int]
    known_ms: list[int]


class Course(Struct, eq=False):
    """All that was measured in a run; `calls` are those of peers that are gone."""

    world: World
    questions: Questions
    deaths: Deaths
    traffic: Traffic
    calls: int = 0
    died: int = 0


def results(course: Course, nodes: list[Node], scenario: str, peers: int, seed: int, minutes: float) -> Results:
    """The figures of a run at whose end `nodes` were there."""
    tally, deaths, traffic = course.questions.tally, course.deaths, course.traffic
    answered = len(tally.latency_ms)
    ended = answered + tally.unanswered + len(course.questions)
    calls = course.calls + sum(node.kinds[Call] for node in nodes)
    return Results(
        scenario=scenario,
        peers=peers,
        seed=seed,
        minutes=minutes,
        asked=tally.asked,
        abandoned=tally.abandoned,
        answered_share=_share(answered, ended),
        delegated_share=_share(tally.delegated, answered),
        accuracy=_share(sum(tally.right), ended),
        accuracy_local=_share(tally.right_local, ended),
        accuracy_informed=_share(tally.right_informed, ended),
        accuracy_claimed=_share(tally.right_claimed, ended),
        accuracy_oracle=_share(tally.right_oracle, ended),
        latency_ms=spread(tally.latency_ms),
        ttft_ms=spread(tally.ttft_ms),
        calls_per_query=_share(calls, tally.asked),
        restarts_per_query=_share(tally.restarts, answered),
        price_microcredits=spread(tally.price_microcredits),
        gossip_out_bytes_per_s=traffic.out_bytes_per_s,
        gossip_in_bytes_per_s=traffic.in_bytes_per_s,
        gossip_bytes_per_s=spread(traffic.each),
        deaths=course.died,
        death_suspected_ms=spread(deaths.suspected_ms),
        death_known_ms=spread(deaths.gone_ms),
        deaths_unknown=deaths.unknown,
        directory=spread([len(node.peer.directory) for node in nodes]),
        faults_blamed=len(course.world.blamed),
        events=course.world.events,
        digest=course.world.digest,
    )


def samples(course: Course, begin_ms: int) -> Samples:
    """The samples of a run that was measured from `begin_ms` on."""
    tally, deaths = course.questions.tally, course.deaths
    asked_ms = [at_ms - begin_ms for at_ms in tally.asked_ms]
    return Samples(asked_ms, tally.latency_ms, tally.right, course.traffic.each, deaths.suspected_ms, deaths.gone_ms)


def _share(count: int, of: int) -> float | None:
    return count / of if of else None
