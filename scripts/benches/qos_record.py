"""Records answers of a real vLLM engine: what was known of each as it got its slot, and what came of it.

Questions come at random times; most go on from an earlier one, so that their prompts are partly cached. The bench does
what a seller does: it gives slots in the order of arrival, turns away who would wait too long, and believes of the
cache what the engine tells. In mid-trace another load starts, which has nothing to do with the engine but its
processor: processes that multiply matrices, three on each core.
"""

import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from string import ascii_lowercase
from tempfile import TemporaryDirectory

import numpy as np
import trio
from msgspec import Struct, field
from msgspec.structs import replace

from p2pagent.engine import benchmark
from p2pagent.engine.base import Delta, GenerateRequest
from p2pagent.engine.vllm import VllmEngine
from p2pagent.peer.stall import QUEUE_PER_SLOT_MAX
from p2pagent.routing.marks import Marker, Prefix, chain
from p2pagent.routing.qos import Outcome, Sample, Task
from p2pagent.routing.qos_physical import Physical
from p2pagent.routing.residency import BLOCK_TOKENS, Shelf
from p2pagent.types import ChatMessage, PeerId, Sampling
from scripts.benches import affinity_vllm_model as model
from scripts.benches.qos_replay import METER, Answer, Trace

SLOTS = 4
BLOCKS = 640
"""Of the cache, 32 tokens each: some twenty conversations."""

CONTEXT_TOKENS = 2_048
PROMPT_CHARACTERS_MAX = 1_800
"""A token each."""

GOES_ON = 0.6
"""Share of questions that go on from one of the last `OPEN` conversations."""

OPEN = 12
LENGTH_LOG = 3.0, 0.6
"""Mean and deviation of the logarithm of an answer's tokens, as long as it is not cut off."""

LOAD = 0.6
"""Offered, of what the engine can do by its own start-up benchmark."""

OTHERS = 3 * (os.cpu_count() or 1)
"""Fewer leave an engine that often rests all the time that it needs: two on each core slow it by a fifth."""

BURN = "import numpy\na = numpy.random.default_rng(0).random((512, 512))\nwhile True:\n    a @ a\n"

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

SALT = "p2pagent bench qos"
SELLER = PeerId("bench")


class Question(Struct):
    """What is asked, and how long the answer will be: the model never ends by itself, so that is drawn, too.

    `limit` is what the asker allowed.
    """

    turns: tuple[ChatMessage, ...]
    limit: int
    output_tokens: int


class Asked(Struct, eq=False):
    """A question with what was known of its prompt as it came; its `task` is that from the slot on."""

    question: Question
    domain: bytes
    prefix: tuple[Prefix, ...]
    task: Task

    @property
    def prompt_tokens(self) -> int:
        """Of all of it."""
        return self.task.prompt_tokens


class Recorder(Struct):
    """An engine at work, and what has been recorded of it."""

    engine: VllmEngine
    marker: Marker
    shelf: Shelf
    answers: list[Answer] = field(default_factory=list)
    running: list[Asked] = field(default_factory=list)
    silent: list[Asked] = field(default_factory=list)
    """Those of the running ones that have not said anything yet."""
    queue: list[Asked] = field(default_factory=list)

    async def follow(self) -> None:
        """Believe what the engine tells of its cache."""
        while True:
            for held in await self.engine.cache_changes():
                self.shelf.told(held)

    async def offer(self, question: Question, nursery: trio.Nursery) -> None:
        """Take a question, unless too many wait."""
        if len(self.queue) < QUEUE_PER_SLOT_MAX * SLOTS:
            tokens = await self.engine.count_tokens(question.turns)
            domain, prefix = self.marker.tell(chain(question.turns), SELLER)
            task = Task(tokens, self.shelf.held_tokens(domain, prefix, tokens, self.running), question.limit)
            self.queue.append(Asked(question, domain, prefix, task))
            self._fill(nursery)

    def _fill(self, nursery: trio.Nursery) -> None:
        while self.queue and len(self.running) < SLOTS:
            asked = self.queue.pop(0)
            prefilling = sum(other.task.uncached_tokens for other in self.silent)
            meets = {"running": len(self.running), "prefilling_tokens": prefilling, "waiting": len(self.queue)}
            asked.task = replace(asked.task, **meets)
            self.running.append(asked)
            self.silent.append(asked)
            nursery.start_soon(self._answer, asked, nursery)

    async def _answer(self, asked: Asked, nursery: trio.Nursery) -> None:
        sampling = Sampling(max_tokens=asked.question.output_tokens)
        request = GenerateRequest(asked.question.turns, sampling, SALT, domain=asked.domain, prefix=asked.prefix)
        start_s = first_s = trio.current_time()

        def emit(_: Delta) -> None:
            nonlocal first_s
            if asked in self.silent:
                first_s = trio.current_time()
                self.silent.remove(asked)

        usage = (await self.engine.generate(request, emit)).usage
        end_s = trio.current_time()
        outcome = Outcome.timed(round(1e6 * (first_s - start_s)), round(1e6 * (end_s - first_s)), usage)
        self.answers.append(Answer(asked.task, outcome, round(1e3 * start_s), round(1e3 * end_s)))
        self.running.remove(asked)
        self._fill(nursery)


def questions(rng: np.random.Generator) -> Iterator[Question]:
    """Prompts and limits spread over two orders of magnitude, as of people who ask, go on and paste documents."""
    past: list[tuple[ChatMessage, ...]] = []
    while True:
        place = int(rng.integers(len(past))) if past and rng.random() < GOES_ON else len(past)
        said = past.pop(place) if place < len(past) else ()
        if said:
            words = _words(rng, int(np.clip(rng.lognormal(4, 0.7), 8, 600)))
            turns = (*said, ChatMessage("assistant", _words(rng, 16)), ChatMessage("user", words))
        if not said or sum(len(turn.content) for turn in turns) > PROMPT_CHARACTERS_MAX:
            turns = (ChatMessage("user", _words(rng, int(np.clip(rng.lognormal(5.6, 1.0), 32, 1_700)))),)
        past = [*past, turns][-OPEN:]
        limit = int(2 ** rng.uniform(2, 6))
        yield Question(turns, limit, min(limit, max(1, int(rng.lognormal(*LENGTH_LOG)))))


async def record(rng: np.random.Generator, python: Path, count: int, onset: int, advance: Callable[[], None]) -> Trace:
    """So many answers of a fresh engine; when as many as `onset` have come the other load starts.

    Raises:
        LocalError: vLLM does not start.
    """
    with TemporaryDirectory() as folder:
        model.write(Path(folder) / "model", seed=0)
        args = ("--num-gpu-blocks-override", str(BLOCKS + 1), "--max-model-len", str(CONTEXT_TOKENS))
        engine = VllmEngine(str(Path(folder) / "model"), python=python, log_folder=Path(folder), slots=SLOTS, args=args)
        async with trio.open_nursery() as life:
            await life.start(engine.run)
            samples = await benchmark.measure(engine, Random())
            recorder = Recorder(engine, Marker(bytes(32)), Shelf(BLOCKS * BLOCK_TOKENS))
            life.start_soon(recorder.follow)
            onset_ms = await _run(recorder, rng, _gap_s(samples), count, onset, advance)
            life.cancel_scope.cancel()
    answers = sorted(recorder.answers, key=lambda answer: answer.start_ms)
    return Trace(samples, tuple(answers[:count]), onset_ms)


async def _run(
    recorder: Recorder,
    rng: np.random.Generator,
    gap_s: float,
    count: int,
    onset: int,
    advance: Callable[[], None],
) -> int:
    """Ask until there are enough answers; when the other load started, in ms."""
    source, onset_ms, shown = questions(rng), 0, 0
    async with trio.open_nursery() as nursery, trio.open_nursery() as others:
        while len(recorder.answers) < count:
            if not onset_ms and len(recorder.answers) >= onset:
                onset_ms = round(1e3 * trio.current_time())
                for _ in range(OTHERS):
                    # Each in a session of its own: Linux gives sessions, not processes, equal shares of a core.
                    env, alone = os.environ | ONE_THREAD, {"start_new_session": True}
                    await others.start(partial(trio.run_process, [sys.executable, "-c", BURN], env=env, **alone))
            nursery.start_soon(recorder.offer, next(source), nursery)
            await trio.sleep(rng.exponential(gap_s))
            for _ in range(len(recorder.answers) - shown):
                advance()
            shown = len(recorder.answers)
        others.cancel_scope.cancel()
        nursery.cancel_scope.cancel()
    return onset_ms


def _gap_s(samples: tuple[Sample, ...]) -> float:
    """Between questions at `LOAD`, by what usual ones take beside each other."""
    usual = Task(400, 150, 64, running=SLOTS - 1, prefilling_tokens=250)
    return Physical(METER, samples).predict_one(usual).total_us.mean / 1e6 / SLOTS / LOAD


def _words(rng: np.random.Generator, characters: int) -> str:
    letters = rng.choice(list(ascii_lowercase), characters)
    letters[rng.random(characters) < 0.15] = " "
    return "".join(letters)
