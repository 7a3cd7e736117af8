import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
import trio
from safetensors.numpy import load_file
from trio_typing import TaskStatus

from p2pagent import experts
from p2pagent.engine.base import Capabilities, Completion, Delta, GenerateRequest
from p2pagent.engine.embedded import EmbeddedEngine
from p2pagent.engine.llama import Cache, Llama, LlamaConfig
from p2pagent.errors import EngineUnavailableError, Exit, LocalError
from p2pagent.experts.families import FAMILIES, Family, check, questions
from p2pagent.tokeniser import Tokeniser, read
from p2pagent.types import ChatMessage, Sampling, Usage

DIGEST = read(experts.path("add")).digest
WILD = 20_000
"""A temperature, in thousandths, at which every byte is about as likely as any other."""


def asking(prompt: str, priority: int = 0, **sampling: int) -> GenerateRequest:
    return GenerateRequest((ChatMessage("user", prompt),), Sampling(**sampling), priority=priority)


async def answer(engine: EmbeddedEngine, request: GenerateRequest) -> tuple[list[Delta], Completion]:
    deltas: list[Delta] = []
    completion = await engine.generate(request, deltas.append)
    return deltas, completion


def text(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


def ids(deltas: list[Delta]) -> list[int]:
    return [token for delta in deltas for token in delta.token_ids]


@pytest.fixture
async def adder(nursery: trio.Nursery) -> EmbeddedEngine:
    engine = EmbeddedEngine(experts.path("add"), slots=2)
    await nursery.start(engine.run)
    return engine


@pytest.mark.parametrize("family", FAMILIES)
async def test_shipped_experts_answer_held_out_questions(family: Family, nursery: trio.Nursery) -> None:
    engine = EmbeddedEngine(experts.path(family))
    await nursery.start(engine.run)
    asked = questions(family, "test", 60, 7)

    answers = [text((await answer(engine, asking(question.prompt)))[0]) for question in asked]

    assert sum(map(check, asked, answers)) >= 0.95 * len(asked)


@pytest.mark.parametrize("family", FAMILIES)
def test_shipped_experts_are_small_and_say_how_they_were_trained(family: Family) -> None:
    folder = experts.path(family)
    scores = msgspec.json.decode((folder / "training.json").read_bytes())["test_scores"]

    assert sum(file.stat().st_size for file in folder.iterdir()) <= 3_000_000
    assert scores.pop(family) >= 0.95
    assert max(scores.values()) <= 0.2


def test_unknown_expert_is_refused_with_the_known_ones() -> None:
    with pytest.raises(LocalError) as caught:
        experts.path("poet")

    assert caught.value.exit_code is Exit.MODEL
    assert all(name in caught.value.hint for name in experts.names())


def test_cached_forward_equals_full_forward() -> None:
    folder = experts.path("add")
    config = msgspec.json.decode((folder / "config.json").read_bytes(), type=LlamaConfig)
    llama = Llama(config, load_file(folder / "model.safetensors"))
    prompt = list(b"What is 12 plus 30?")
    cache = Cache(config, len(prompt))
    llama.forward(prompt[:7], cache)

    for length in range(8, len(prompt) + 1):
        stepwise = llama.forward(prompt[length - 1 : length], cache)
        np.testing.assert_allclose(stepwise, llama.forward(prompt[:length], Cache(config, length)), atol=1e-4)


async def test_an_answer_comes_token_by_token_and_is_counted(adder: EmbeddedEngine) -> None:
    deltas, completion = await answer(adder, asking("What is 12 plus 30?"))

    assert [delta.text for delta in deltas] == ["4", "2", ""]
    assert completion == Completion(Usage(21, 0, 3), "stop")
    assert ids(deltas)[:2] == list(b"42")
    assert adder.statistics().completed == 1


async def test_a_follow_up_is_answered(adder: EmbeddedEngine) -> None:
    turns = (
        ChatMessage("user", "Add 10 and 11."),
        ChatMessage("assistant", "21"),
        ChatMessage("user", "what is 12 plus 30"),
    )

    deltas, _ = await answer(adder, GenerateRequest(turns, Sampling()))

    assert text(deltas) == "42"


async def test_the_limit_ends_an_answer(adder: EmbeddedEngine) -> None:
    deltas, completion = await answer(adder, asking("What is 12 plus 30?", max_tokens=1))
    _, nothing = await answer(adder, asking("What is 12 plus 30?", max_tokens=0))

    assert text(deltas) == "4"
    assert completion == Completion(Usage(21, 0, 1), "length")
    assert nothing == Completion(Usage(21, 0, 0), "length")


async def test_sampling_repeats_by_its_seed(adder: EmbeddedEngine) -> None:
    wild = [await answer(adder, asking("hello", temperature_milli=WILD, seed=seed)) for seed in (-1, -1, 2)]

    assert wild[0] == wild[1]
    assert wild[0] != wild[2]


async def test_bytes_become_whole_characters(adder: EmbeddedEngine) -> None:
    for seed in range(8):
        deltas, _ = await answer(adder, asking("hello", temperature_milli=WILD, seed=seed, max_tokens=400))
        written = bytes(token for token in ids(deltas) if token < 256).decode(errors="replace")

        assert written.removesuffix("\ufffd") == text(deltas).removesuffix("\ufffd")
        if any(delta.text > "\x7f" and delta.text != "\ufffd" for delta in deltas):
            return
    pytest.fail("no character of several bytes was drawn")


async def test_any_text_is_counted_by_its_bytes(adder: EmbeddedEngine) -> None:
    assert await adder.count_tokens((ChatMessage("user", "Grüße, 世界 🙂"),)) == len("Grüße, 世界 🙂".encode()) + 2


async def test_a_question_beyond_the_context_is_refused(adder: EmbeddedEngine) -> None:
    with pytest.raises(LocalError, match="has 4096 tokens") as caught:
        await answer(adder, asking("x" * 4_094))

    assert caught.value.exit_code is Exit.TOO_LONG
    assert await adder.count_tokens((ChatMessage("user", "x" * 4_094),)) == 4_096
    assert adder.statistics().failed == 1


async def test_cancelling_stops_the_work(adder: EmbeddedEngine) -> None:
    deltas: list[Delta] = []
    with trio.CancelScope() as scope:

        def emit(delta: Delta) -> None:
            deltas.append(delta)
            if len(deltas) == 2:
                scope.cancel()

        await adder.generate(asking("hello", temperature_milli=WILD), emit)

    assert scope.cancelled_caught
    assert len(deltas) == 2
    assert adder.statistics().running == 0
    assert text((await answer(adder, asking("What is 12 plus 30?")))[0]) == "42"


async def test_answers_take_turns(adder: EmbeddedEngine) -> None:
    order: list[str] = []

    async with trio.open_nursery() as both:
        for name in "ab":
            both.start_soon(adder.generate, asking("What is 45 plus 67?"), lambda _, name=name: order.append(name))

    assert len(order) == 8
    assert set(order[:4]) == {"a", "b"}


async def test_lower_priority_goes_first_and_who_gives_up_is_skipped(nursery: trio.Nursery) -> None:
    engine = EmbeddedEngine(experts.path("add"), slots=1)
    await nursery.start(engine.run)
    order: list[str] = []
    gave_up = trio.CancelScope()

    async def ask(name: str, priority: int) -> None:
        await engine.generate(asking("Add 45 and 67.", priority), lambda _: order.append(name))

    async def give_up() -> None:
        with gave_up:
            await ask("impatient", -9)

    def emit(_: Delta) -> None:
        order.append("first")
        if len(order) == 1:
            waiting.start_soon(ask, "late", 5)
            waiting.start_soon(ask, "early", -5)
            waiting.start_soon(give_up)
        if len(order) == 4:
            gave_up.cancel()

    async with trio.open_nursery() as waiting:
        await engine.generate(asking("Add 45 and 67.", max_tokens=4), emit)

    assert list(dict.fromkeys(order)) == ["first", "early", "late"]
    assert engine.statistics().completed == 3


async def test_an_answer_breaks_off_when_the_engine_stops(nursery: trio.Nursery) -> None:
    engine = EmbeddedEngine(experts.path("add"))
    running = trio.CancelScope()

    async def run(task_status: TaskStatus[None]) -> None:
        with running:
            await engine.run(task_status=task_status)

    await nursery.start(run)

    with pytest.raises(EngineUnavailableError):
        await engine.generate(asking("Add 45 and 67."), lambda _: running.cancel())


async def test_an_engine_that_does_not_run_is_unavailable() -> None:
    engine = EmbeddedEngine(experts.path("add"))

    assert not engine.statistics().ready
    with pytest.raises(EngineUnavailableError):
        await answer(engine, asking("Add 12 and 30."))
    with pytest.raises(EngineUnavailableError):
        await engine.count_tokens(())


async def test_capabilities_are_those_of_the_model(adder: EmbeddedEngine) -> None:
    told = Capabilities("add", 4096, 2, reports_cached_tokens=False, reports_token_ids=True, tokeniser=DIGEST)
    assert adder.capabilities() == told


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", None),
        ("config.json", '{"model_type": "qwen2"}'),
        ("model.safetensors", "not weights"),
        ("tokenizer.json", "{}"),
        ("tokenizer_config.json", "{}"),
        ("tokenizer_config.json", '{"chat_template": "{% for %}"}'),
    ],
)
async def test_a_folder_that_is_no_model_is_refused(tmp_path: Path, name: str, content: str | None) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(experts.path("add"), folder)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)

    with pytest.raises(LocalError, match="cannot load the model") as caught:
        await EmbeddedEngine(folder).run()

    assert caught.value.exit_code is Exit.MODEL
    assert "tokenizer_config.json" in caught.value.hint


async def test_a_conversation_that_the_template_refuses_is_no_crash(tmp_path: Path, nursery: trio.Nursery) -> None:
    folder = tmp_path / "strict"
    shutil.copytree(experts.path("add"), folder)
    refusing = "{% if messages[0].role != 'user' %}{{ raise_exception('no') }}{% endif %}{{ messages[0].content }}"
    (folder / "chat_template.jinja").write_text(refusing)
    engine = EmbeddedEngine(folder)
    await nursery.start(engine.run)

    assert await engine.count_tokens((ChatMessage("user", "abc"),)) == 3
    with pytest.raises(EngineUnavailableError):
        await engine.count_tokens((ChatMessage("system", "abc"),))


async def test_what_is_drawn_at_a_usual_temperature_is_what_its_text_has(adder: EmbeddedEngine) -> None:
    """So that whoever counts an honest answer again finds no more to dispute than what is not shown."""
    shipped = Tokeniser(read(experts.path("add")))
    for seed in range(50):
        deltas, completion = await answer(adder, asking(f"Add {seed} and 30.", temperature_milli=1_000, seed=seed))
        ended = completion.finish_reason == "stop"
        assert completion.usage.output_tokens == shipped.count_answer(text(deltas)) + ended


async def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(experts.path("add"), folder)
    config = msgspec.json.decode((folder / "config.json").read_bytes())
    (folder / "config.json").write_bytes(msgspec.json.encode(config | {"num_hidden_layers": 4}))

    with pytest.raises(LocalError, match="cannot load the model"):
        await EmbeddedEngine(folder).run()
