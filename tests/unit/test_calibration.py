"""Measuring an agent, and under what its measure is kept."""

from collections.abc import Iterable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from p2pagent.calibration import QUESTIONS_MAX, Item, cache_key, load_items, measure, shipped_items
from p2pagent.errors import EngineUnavailableError, Exit, LocalError
from p2pagent.routing.prototypes import HashingEmbedder, Space
from tests.scenario import SUBJECTS
from tests.scripted_engine import ScriptedEngine

ITEMS = [Item(f"{subject} {word}", word) for subject in SUBJECTS for word in ("abc", "xyz")]


def word_of(prompt: str) -> str:
    return prompt.rsplit(" ", 1)[1]


async def test_the_measure_is_the_share_of_right_answers_per_prototype(space: Space) -> None:
    engine = ScriptedEngine(lambda prompt: f" {word_of(prompt)}\n" if prompt.startswith(SUBJECTS[2]) else "no")
    answered: list[None] = []
    (skill,) = await measure(engine, ITEMS, [space], lambda: answered.append(None))
    pooled = 2 / len(ITEMS)
    assert skill == bytes(round(255 * ((2 + pooled) / 3 if m == 2 else pooled / 3)) for m in range(len(SUBJECTS)))
    assert len(answered) == len(ITEMS)
    assert engine.most == engine.slots


async def test_an_engine_that_breaks_off_is_not_measured(space: Space) -> None:
    def broken(prompt: str) -> str:
        if prompt.startswith(SUBJECTS[0]):
            raise EngineUnavailableError("restarting")
        return word_of(prompt)

    with pytest.raises(EngineUnavailableError, match="calibration questions failed"):
        await measure(ScriptedEngine(broken), ITEMS, [space], lambda: None)


def test_the_shipped_questions_are_the_same_everywhere() -> None:
    items = shipped_items()
    assert items == shipped_items()
    assert len({item.prompt for item in items}) == len(items) == 144


def test_a_measure_is_kept_for_this_model_these_questions_and_this_space_only(space: Space) -> None:
    other_space = Space(HashingEmbedder(), np.roll(space.prototypes, 1, axis=0))
    keys = [
        cache_key("model", ITEMS, space),
        cache_key("other model", ITEMS, space),
        cache_key("model", ITEMS[1:], space),
        cache_key("model", [*ITEMS[:-1], Item(ITEMS[-1].prompt, "other answer")], space),
        cache_key("model", ITEMS, other_space),
    ]
    assert len(set(keys)) == len(keys)
    assert keys[0] == cache_key("model", list(ITEMS), space)


def written(folder: Path, items: Iterable[object]) -> Path:
    path = folder / "questions.json"
    path.write_bytes(msgspec.json.encode(list(items)))
    return path


def test_an_owners_questions_are_read(tmp_path: Path) -> None:
    assert load_items(written(tmp_path, ITEMS)) == ITEMS


@pytest.mark.parametrize(
    "items",
    [
        [],
        [{"prompt": "no answer"}],
        [{"prompt": "p", "answer": 5}],
        [{"prompt": "p", "answer": "a", "more": "b"}],
        [Item("p", "a")] * (QUESTIONS_MAX + 1),
    ],
)
def test_questions_that_cannot_be_used_are_told_to_the_owner(tmp_path: Path, items: list[object]) -> None:
    path = written(tmp_path, items)
    with pytest.raises(LocalError, match="questions") as caught:
        load_items(path)
    assert caught.value.exit_code == Exit.CONFIG
    assert caught.value.hint


@pytest.mark.parametrize("content", [b"", b"not json", b"\xff\xfe", b'{"prompt": "p", "answer": "a"}'])
def test_a_file_that_is_no_list_of_questions_is_told_to_the_owner(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "questions.json"
    with pytest.raises(LocalError):
        load_items(path)
    path.write_bytes(content)
    with pytest.raises(LocalError):
        load_items(path)
