"""The scenarios that have names: what happens to a simulated network, in a few numbers each."""

from typing import Literal

from msgspec import Struct

Arrivals = Literal["poisson", "bursty"]


class Scenario(Struct, frozen=True):
    """What happens. Shares are of all peers, rates per minute; times count from when measuring begins."""

    about: str
    peers: int = 200
    settle_minutes: float = 2.0
    """Peers start within the first half of these, evenly; what is measured comes after."""
    minutes: float = 3.0
    load: float = 0.05
    """Of what all slots could serve, what is asked for."""
    arrivals: Arrivals = "poisson"
    churn_per_minute: float = 0.0
    """Peers that leave without a word; as many join."""
    silent_share: float = 0.5
    """Of those that leave, devices that go dark. The others are processes that are killed, whose connections break."""
    loss: float = 0.0
    """Messages that never arrive."""
    island_share: float = 0.0
    """Peers cut off from the others for the middle third of the run."""
    gossip_delay_ms: int = 0
    """What gossip takes longer than other messages, one way."""
    skew_ms: int = 0
    """How far clocks are off, evenly drawn either way."""
    boasters: float = 0.0
    """Peers that claim to be good at everything."""
    flatterers: float = 0.0
    """Peers that quote no wait, however many wait."""
    braggarts: float = 0.0
    """Peers whose heartbeats say that nobody waits there, and any nonsense of what they did."""
    idlers: float = 0.0
    """Peers that take questions and never answer."""
    quitters: float = 0.0
    """Peers that offer a slot, and have none once they are given the question."""
    slanderers: float = 0.0
    """Peers that accuse, in each of their messages, somebody who is alive."""
    padders: float = 0.0
    """Peers that charge for half as many tokens again as they answer with."""
    checked_share: float = 0.25
    """Questions whose asker finds out whether the answer is right."""


SCENARIOS: dict[str, Scenario] = {
    "steady": Scenario("Nobody comes or goes; questions come evenly."),
    "bursty": Scenario("Questions come in bursts, three times as many as in between.", load=0.15, arrivals="bursty"),
    "churn": Scenario("A tenth of all peers leave each minute without a word, and as many join.", churn_per_minute=0.1),
    "partition": Scenario("A third of the peers is cut off for the middle third of the run.", island_share=1 / 3),
    "lossy": Scenario("One message of twenty is lost.", loss=0.05),
    "stale": Scenario(
        "Gossip is 600 ms late each way, and clocks are off by up to 20 s.", gossip_delay_ms=600, skew_ms=20_000
    ),
    "liars": Scenario(
        "A quarter lies: of skill, waits, work done or tokens; never answers; gives up; slanders.",
        boasters=0.035,
        flatterers=0.035,
        braggarts=0.035,
        idlers=0.035,
        quitters=0.035,
        slanderers=0.035,
        padders=0.035,
    ),
    "scale": Scenario("Ten thousand peers, a question each.", peers=10_000, minutes=10.0, load=0.0015),
}
