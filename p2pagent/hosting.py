"""The agents of this device: each an engine that is started, measured, and offered while it runs.

One that cannot start, or stops for good, is reported and taken back; the others carry on.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

import trio
from rich.console import Console
from rich.progress import Progress, TaskID
from trio_typing import TaskStatus

from p2pagent import calibration
from p2pagent.config import Agent
from p2pagent.engine import benchmark
from p2pagent.engine.base import Caching, Engine
from p2pagent.engine.factory import fingerprint, make_engine
from p2pagent.errors import EngineUnavailableError, Exit, LocalError, first
from p2pagent.peer.gossip_messages import AgentAdvert
from p2pagent.peer.messages import RateCard
from p2pagent.routing.prototypes import Space
from p2pagent.routing.qos import Sample
from p2pagent.routing.residency import Held
from p2pagent.store import Store

MODEL_NAME_BYTES_MAX = 64
SKILL_NOTED = 0.1
MEASUREMENTS_MAX = 5
MEASURE_AGAIN_S = 5.0
CACHE_S = 0.1


class Hosting:
    """Runs agents; `changed` is called whenever `adverts` has changed, `warn` with what the owner should know.

    `cached` is told what becomes of an agent's prefix cache, at most every `CACHE_S`; None if it does not tell.
    """

    def __init__(
        self,
        folder: Path,
        space: Space,
        store: Store,
        *,
        changed: Callable[[], None],
        cached: Callable[[str, Held | None], None],
        warn: Callable[[str], None],
    ) -> None:
        self.engines: dict[str, Engine] = {}
        self.adverts: dict[str, AgentAdvert] = {}
        self.measured: dict[str, tuple[Sample, ...]] = {}
        self._folder = folder
        self._space = space
        self._store = store
        self._changed = changed
        self._cached = cached
        self._warn = warn

    async def start(self, agents: tuple[Agent, ...], nursery: trio.Nursery) -> None:
        """Start all `agents` at once in `nursery`; returns when each is offered or has failed.

        Raises:
            LocalError: none could start. It is the fault of the last one; the owner has been warned of the others.
        """
        failures: list[LocalError] = []
        console = Console(stderr=True)
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            async with trio.open_nursery() as starting:
                for agent in agents:
                    starting.start_soon(nursery.start, self._host, agent, len(agents), progress, failures)
        if len(failures) == len(agents) > 0:
            raise failures[-1]

    async def _host(
        self,
        agent: Agent,
        agents: int,
        progress: Progress,
        failures: list[LocalError],
        *,
        task_status: TaskStatus[None],
    ) -> None:
        bar = progress.add_task(f"{agent.name}: starting its {agent.engine.kind} engine", total=None)
        try:
            engine = make_engine(agent.engine, self._folder / "engines" / agent.name)
            async with trio.open_nursery() as life:
                await life.start(engine.run)
                skill, *earlier = await self._skills(agent, engine, progress, bar)
                progress.update(bar, description=f"{agent.name}: measuring its speed", total=None)
                self.measured[agent.name] = await benchmark.measure(engine, Random())
                progress.remove_task(bar)
                self._offer(agent, engine, skill, b"".join(earlier))
                task_status.started()
                if isinstance(engine, Caching):
                    await self._follow_cache(agent.name, engine)
        except* LocalError as group:
            error = first(group)
            offered = self.adverts.pop(agent.name, None) is not None
            if not offered:
                progress.remove_task(bar)
                failures.append(error)
                task_status.started()
            if len(failures) < agents:
                self._warn(f"agent {agent.name}: {error.cause}; {error.hint}")
            if offered:
                del self.engines[agent.name]
                self._changed()

    async def _follow_cache(self, agent: str, engine: Caching) -> None:
        is_warned = False
        while True:
            for held in await engine.cache_changes():
                self._cached(agent, held)
                if held is None and not is_warned:
                    is_warned = True
                    told = f"agent {agent}: its engine does not tell what its cache holds"
                    self._warn(f"{told}; quotes estimate that, and the engine's log may say why")
            await trio.sleep(CACHE_S)

    def _offer(self, agent: Agent, engine: Engine, skill: bytes, earlier: bytes) -> None:
        can = engine.capabilities()
        rates = RateCard(agent.rates.prompt, agent.rates.cached, agent.rates.output)
        model = can.model.encode()[:MODEL_NAME_BYTES_MAX].decode(errors="ignore")
        self.engines[agent.name] = engine
        sizes, counts = (can.context_tokens, can.slots), (can.cache_tokens, can.tokeniser)
        self.adverts[agent.name] = AgentAdvert(agent.name, model, skill, rates, *sizes, earlier, *counts)
        self._changed()

    async def _skills(self, agent: Agent, engine: Engine, progress: Progress, bar: TaskID) -> list[bytes]:
        """Its claims in our space, and in the one before it if there is one, measured now or in an earlier run."""
        own = agent.calibration
        items = calibration.load_items(Path(own)) if own else calibration.shipped_items()
        spaces = [space for space in (self._space, self._space.earlier) if space is not None]
        keys = [calibration.cache_key(fingerprint(agent.engine), items, space) for space in spaces]
        known = {key: await self._store.cached(key) for key in keys}
        missing = {key: space for key, space in zip(keys, spaces, strict=True) if known[key] is None}
        if missing:
            progress.update(bar, description=f"{agent.name}: measuring its skill", total=len(items))
            measured = await self._measured(engine, items, list(missing.values()), partial(progress.advance, bar))
            for key, claims in zip(missing, measured, strict=True):
                known[key] = claims
                await self._store.cache(key, claims)
        skills = [skill for key in keys if (skill := known[key]) is not None]
        mean = sum(skills[0]) / (255 * max(1, len(skills[0])))
        if mean < SKILL_NOTED:
            told = f"agent {agent.name} answers {mean:.0%} of its calibration questions word for word: few will ask it"
            self._warn(f"{told}; set agents.calibration to questions of its own kind")
        return skills

    async def _measured(
        self, engine: Engine, items: list[calibration.Item], spaces: list[Space], advance: Callable[[], None]
    ) -> list[bytes]:
        for _ in range(MEASUREMENTS_MAX):
            try:
                return await calibration.measure(engine, items, spaces, advance)
            except EngineUnavailableError:
                await trio.sleep(MEASURE_AGAIN_S)
        hint = "see the engine's log; `p2pagent up` measures again"
        raise LocalError("the engine breaks off while its skill is measured", hint, Exit.MODEL)
