"""Golden conversations: what each peer was told and what it did, step by step, as one reads it.

`pytest tests/traces --rewrite` writes them anew. Only commit a change if you understand what caused it and want it.
"""

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from msgspec import Struct

from p2pagent.peer import wire
from p2pagent.peer.effects import Effect, Send, SetTimer, Tell
from p2pagent.peer.events import Event, Received, TimerFired
from p2pagent.peer.updates import Answered, Unanswered
from p2pagent.routing.prototypes import Space
from p2pagent.sim.links import uniform
from p2pagent.sim.world import Handled, World
from p2pagent.types import PeerId
from tests.scenario import START_MS, Device, make_ask

FOLDER = Path(__file__).parent


class Stage:
    """Devices `a`, `b`, ... skilled in the subjects given, who have met; what follows is traced."""

    def __init__(self, space: Space, skills: list[int]) -> None:
        self.lines: list[str] = []
        self.world = World(uniform(Random(1), 10, 10), START_MS)
        self.devices = [Device(i, space, skill=skill) for i, skill in enumerate(skills)]
        self.names = {device.name: chr(ord("a") + i) for i, device in enumerate(self.devices)}
        for device in self.devices:
            self.world.add(device.name, device.peer, {"agent": device.engine})
            self.world.at(START_MS, device.name, device.ready)
        for device in self.devices[1:]:
            self.world.connect(self.devices[0].name, device.name)
        self.world.run(START_MS + 1_000)
        self.world._observe = self.trace

    def run(self, ms: int) -> None:
        self.world.run(self.world.now_ms + ms)

    def trace(self, step: Handled) -> None:
        if isinstance(step.event, TimerFired) and not step.effects:
            return
        done = "".join(f"\n{'':14}{self.effect(e)}" for e in step.effects if not isinstance(e, SetTimer))
        self.lines.append(f"{step.at_ms - START_MS:6} ms  {self.names[step.peer]}  {self.event(step.event)}{done}")

    def event(self, event: Event) -> str:
        if isinstance(event, Received):
            return f"<- {self.names[event.peer]}: {self.message(event.message)}"
        if isinstance(event, TimerFired):
            return f"timer {event.timer.kind}"
        peer = getattr(event, "peer", None)
        return f"{type(event).__name__}{' ' + self.names[peer] if peer else ''}"

    def effect(self, effect: Effect) -> str:
        if isinstance(effect, Send):
            return f"-> {self.names[effect.peer]}: {self.message(effect.message)}"
        if isinstance(effect, Tell):
            match effect.update:
                case Answered(text=text, agent=agent, price_microcredits=price, restarts=restarts):
                    return f"tells: {text!r} by {self.names[agent.peer]} for {price}, {restarts} restarts"
                case Unanswered(reason=reason, partial=partial):
                    return f"tells: unanswered, {reason}{' (partial)' if partial else ''}"
                case update:
                    return f"tells: {type(update).__name__}"
        return type(effect).__name__

    def message(self, message: Struct) -> str:
        match message:
            case wire.SignedQuote(body):
                quote: wire.Quote = wire.parsed(body, wire.Quote)  # type: ignore[assignment]
                return f"quote {quote.free_slots} free, at most {quote.price_cap_microcredits}"
            case wire.Final(receipt=body):
                receipt: wire.Receipt = wire.parsed(body, wire.Receipt)  # type: ignore[assignment]
                return f"final {receipt.output_tokens} tokens, {receipt.price_microcredits} owed"
            case wire.Chunk(index=index, text=text):
                return f"chunk {index} {text!r}"
            case wire.Refuse(reason=reason) | wire.Fail(reason=reason):
                return f"{message.__struct_config__.tag} {reason}"
            case _:
                return str(message.__struct_config__.tag)


def delegation(space: Space) -> Stage:
    """`a` asks what only `b` knows; `c` is called for nothing."""
    stage = Stage(space, [0, 1, 2])
    stage.world.at(stage.world.now_ms, stage.devices[0].name, make_ask("q", 1))
    stage.run(2_000)
    return stage


def failover(space: Space) -> Stage:
    """`a` asks what `b` and `c` know; the one that answers dies after its first pieces."""
    stage = Stage(space, [0, 1, 1])
    stage.world.at(stage.world.now_ms, stage.devices[0].name, make_ask("q", 1))
    while not any("chunk 2" in line for line in stage.lines):
        stage.run(1)
    stage.world.crash(_answering(stage))
    stage.run(2_000)
    return stage


def alone(space: Space) -> Stage:
    """A question of class `local` stays at home, however little the own agent knows."""
    stage = Stage(space, [0, 1])
    stage.world.at(stage.world.now_ms, stage.devices[0].name, make_ask("q", 1, privacy="local"))
    stage.run(2_000)
    return stage


def meeting(space: Space) -> Stage:
    """A newcomer meets one peer and learns of the other from it."""
    stage = Stage(space, [0, 1])
    newcomer = Device(2, space, skill=2)
    stage.names[newcomer.name] = "c"
    stage.world.add(newcomer.name, newcomer.peer, {"agent": newcomer.engine})
    stage.world.at(stage.world.now_ms, newcomer.name, newcomer.ready)
    stage.run(5)
    stage.world.connect(newcomer.name, stage.devices[1].name)
    stage.run(200)
    return stage


def _answering(stage: Stage) -> PeerId:
    letter = next(line for line in stage.lines if "Generate" in line).split()[2]
    return next(name for name, known in stage.names.items() if known == letter)


@pytest.mark.parametrize("scenario", [delegation, failover, alone, meeting], ids=lambda s: s.__name__)
def test_trace(scenario: Callable[[Space], Stage], space: Space, request: pytest.FixtureRequest) -> None:
    path = FOLDER / f"{scenario.__name__}.txt"
    trace = f"{scenario.__doc__}\n\n" + "\n".join(scenario(space).lines) + "\n"
    if request.config.getoption("--rewrite"):
        path.write_text(trace)
    assert trace == path.read_text()
