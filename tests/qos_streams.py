"""Synthetic traces of an engine that batches continuously, step by step, with what real ones do to a predictor.

Prompts share the token budget of a step and make everybody's next token wait; attention makes long ones dearer; steps
vary, some stall; answers end early or at their limit; late in the trace another load slows everything by one factor.
Nothing here is taken from the predictors: their features are not what the time is made of.
"""

from collections.abc import Iterator

import numpy as np
from msgspec import Struct, field

from p2pagent.routing.qos import Outcome, Sample, Task
from scripts.benches.qos_replay import Answer, Trace

BLOCK_TOKENS = 32
PROMPT_TOKENS_MAX = 1_800


class Machine(Struct, frozen=True):
    """What the engine is like; times in ms."""

    slots: int = 4
    budget_tokens: int = 2_048
    overhead_ms: float = 15.0
    step_ms: float = 8.0
    sequence_ms: float = 1.5
    token_ms: float = 0.25
    attention_ms: float = 8e-5
    hit_ms: float = 0.005
    noise: float = 0.08
    """Standard deviation of a step's log time; prompts add as much and a bit of their own."""
    stalls: float = 0.003
    stall_ms: float = 150.0
    kinks: bool = False
    """Whether batches of some sizes cost more than they should, as with tiled kernels."""
    stops: bool = True
    """Whether answers may end before their limit."""
    load: float = 0.6
    slowdown: float = 1.6


class Job(Struct, eq=False):
    prompt_tokens: int
    cached_tokens: int
    turn: int
    max_tokens: int
    output_tokens: int
    conversation: int
    effort: float
    task: Task | None = None
    start_ms: float = 0.0
    ready_ms: float = 0.0
    left: int = 0
    first_ms: float = 0.0
    said: int = 0


class Conversation(Struct):
    tokens: int = 0
    turns: int = 0


class Engine(Struct):
    """The engine at work; `step` lets it run one."""

    machine: Machine
    rng: np.random.Generator
    now_ms: float = 0.0
    slow: float = 1.0
    running: list[Job] = field(default_factory=list)
    queue: list[Job] = field(default_factory=list)

    def fill(self) -> Iterator[Job]:
        while self.queue and len(self.running) < self.machine.slots:
            job = self.queue.pop(0)
            behind = sum(other.left for other in self.running if not other.said)
            job.task = Task(
                job.prompt_tokens,
                job.cached_tokens,
                job.max_tokens,
                len(self.running),
                behind,
                len(self.queue),
            )
            job.start_ms, job.left = self.now_ms, job.prompt_tokens - job.cached_tokens
            job.ready_ms = self.now_ms + self.machine.overhead_ms / 2 * self.slow * self.rng.lognormal(0, 0.3)
            self.running.append(job)
            yield job

    def step(self) -> list[Job]:
        """Run until the next step's end; the jobs that ended with it."""
        machine, rng = self.machine, self.rng
        decoding = [job for job in self.running if job.said]
        budget = machine.budget_tokens - len(decoding)
        chunks: list[tuple[Job, int]] = []
        for job in self.running:
            chunk = min(job.left, budget)
            if not job.said and job.ready_ms <= self.now_ms and chunk > 0:
                chunks.append((job, chunk))
                budget -= chunk
        if not decoding and not chunks:
            self.now_ms = min(job.ready_ms for job in self.running)
            return []
        tokens = sum(chunk for _, chunk in chunks)
        prefill_ms = machine.token_ms * tokens
        for job, chunk in chunks:
            prefill_ms += machine.attention_ms * chunk * (job.prompt_tokens - job.left + chunk / 2)
            prefill_ms += machine.hit_ms * job.cached_tokens * (job.left == job.prompt_tokens - job.cached_tokens)
        prefill_ms *= float(np.mean([job.effort for job, _ in chunks])) if chunks else 1.0
        if machine.kinks:
            prefill_ms *= 1.8 if 300 < tokens < 700 else 0.6 if tokens < 100 else 1.0
            prefill_ms *= 1.7 if len(decoding) >= 2 else 1.0
        took_ms = machine.step_ms + machine.sequence_ms * (len(decoding) + len(chunks)) + prefill_ms
        took_ms *= self.slow * rng.lognormal(0, machine.noise)
        if rng.random() < machine.stalls:
            took_ms += rng.exponential(machine.stall_ms)
        self.now_ms += took_ms
        for job in decoding:
            job.said += 1
        for job, chunk in chunks:
            job.left -= chunk
            if not job.left:
                job.said, job.first_ms = 1, self.now_ms + machine.overhead_ms / 2 * self.slow
        ended = [job for job in self.running if job.said >= job.output_tokens]
        self.running = [job for job in self.running if job.said < job.output_tokens]
        return ended


def answer_of(job: Job, now_ms: float) -> Answer:
    assert job.task is not None
    end_ms = max(now_ms, job.first_ms)
    tpot_us = round(1_000 * (end_ms - job.first_ms) / max(1, job.output_tokens - 1))
    outcome = Outcome(round(1_000 * (job.first_ms - job.start_ms)), tpot_us, job.output_tokens, job.cached_tokens)
    return Answer(job.task, outcome, round(job.start_ms), round(end_ms))


def benchmark(machine: Machine, rng: np.random.Generator) -> tuple[Sample, ...]:
    """What a start-up benchmark finds: three prompts, each again from the cache, then all slots at once."""
    engine = Engine(machine, rng)
    batches = [[Job(n, hit * (n // 32 * 32 - 32), 0, 16, 16, 0, 1.0)] for n in (64, 256, 1_024) for hit in (0, 1)]
    found = []
    for batch in [*batches, [Job(256, 0, 0, 16, 16, 0, 1.0) for _ in range(machine.slots)]]:
        engine.queue += batch
        for _ in engine.fill():
            pass
        while engine.running:
            answers = [answer_of(job, engine.now_ms) for job in engine.step()]
            found += [Sample(answer.task, answer.outcome) for answer in answers]
    return tuple(found)


def questions(machine: Machine, rng: np.random.Generator, past: list[Conversation]) -> Iterator[Job]:
    """Prompts without end; six in ten continue one of the last conversations, where the prefix is cached."""
    while True:
        number, cached = len(past), 0
        recent = range(max(0, len(past) - 12), len(past))
        if recent and rng.random() < 0.6:
            number = int(rng.choice(recent))
            added = int(np.clip(rng.lognormal(4, 0.7), 8, 600))
            prompt = past[number].tokens + added
            cached = past[number].tokens // BLOCK_TOKENS * BLOCK_TOKENS
        if number == len(past) or prompt > PROMPT_TOKENS_MAX:
            number, cached = len(past), 0
            prompt = int(np.clip(rng.lognormal(5.6, 1.0), 32, PROMPT_TOKENS_MAX))
            past.append(Conversation())
        limit = int(2 ** rng.uniform(2, 6))
        output = min(limit, max(1, int(rng.lognormal(3.0, 0.6)))) if machine.stops else limit
        effort = rng.lognormal(0, 1.25 * machine.noise)
        yield Job(prompt, cached, past[number].turns, limit, output, number, effort)


def stream(seed: int, count: int = 1_000, machine: Machine = Machine(), onset: int = 700) -> Trace:  # noqa: B008 - frozen
    """A trace of so many answers; the other load comes when answer `onset` gets its slot."""
    rng = np.random.default_rng(seed)
    samples = benchmark(machine, rng)
    engine = Engine(machine, rng)
    past: list[Conversation] = []
    source = questions(machine, rng, past)
    slot_ms = machine.overhead_ms + 350 * machine.token_ms + 40 * (machine.step_ms + 2.5 * machine.sequence_ms)
    gap_ms = slot_ms / machine.load / machine.slots
    next_ms, started, onset_ms = 0.0, 0, 0
    answers: list[Answer] = []
    while len(answers) < count:
        if not engine.running and not engine.queue:
            engine.now_ms = max(engine.now_ms, next_ms)
        while next_ms <= engine.now_ms:
            engine.queue.append(next(source))
            next_ms += rng.exponential(gap_ms)
        for _ in engine.fill():
            started += 1
            if started == onset + 1:
                engine.slow, onset_ms = machine.slowdown, round(engine.now_ms)
        for job in engine.step():
            answers.append(answer_of(job, engine.now_ms))
            past[job.conversation] = Conversation(job.prompt_tokens + job.output_tokens, job.turn + 1)
    return Trace(samples, tuple(sorted(answers, key=lambda answer: answer.start_ms)), onset_ms)
