"""Hosting agents: what is offered of one, and when it is measured."""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from p2pagent import hosting
from p2pagent.calibration import shipped_items
from p2pagent.config import Agent
from p2pagent.hosting import Hosting
from p2pagent.peer.gossip_messages import AgentAdvert
from p2pagent.routing.prototypes import HashingEmbedder, Space
from p2pagent.routing.residency import Held
from p2pagent.store import open_store
from tests.scripted_engine import ScriptedEngine
from tests.strangers import ME


async def offered(folder: Path, space: Space) -> AgentAdvert:
    async with open_store(folder / "store.db", ME.peer) as store, trio.open_nursery() as nursery:
        host = Hosting(folder, space, store, changed=lambda: None, cached=lambda *_: None, warn=lambda _: None)
        await host.start((Agent(name="sums"),), nursery)
        nursery.cancel_scope.cancel()
    return host.adverts["sums"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every calibration question that the engine is asked; it answers those of the first half right."""
    asked: list[str] = []
    items = shipped_items()
    calibration = {item.prompt for item in items}
    answers = {item.prompt: item.answer for item in items[:72]}

    def answer(prompt: str) -> str:
        if prompt in calibration:  # and not of the benchmark
            asked.append(prompt)
        return answers.get(prompt, "no")

    monkeypatch.setattr(hosting, "make_engine", lambda *_: ScriptedEngine(answer))
    return asked


async def test_an_agent_is_measured_once(tmp_path: Path, space: Space, asked: list[str]) -> None:
    first = await offered(tmp_path, space)
    again = await offered(tmp_path, space)
    assert len(asked) == len(shipped_items())
    assert again == first
    assert first.earlier == b""


async def test_its_speed_is_measured_at_each_start(tmp_path: Path, space: Space, asked: list[str]) -> None:
    async with open_store(tmp_path / "store.db", ME.peer) as store, trio.open_nursery() as nursery:
        host = Hosting(tmp_path, space, store, changed=lambda: None, cached=lambda *_: None, warn=lambda _: None)
        await host.start((Agent(name="sums"),), nursery)
        nursery.cancel_scope.cancel()
    assert len(host.measured["sums"]) > 6


async def test_a_new_version_of_the_space_is_measured_beside_the_one_before(
    tmp_path: Path, space: Space, asked: list[str]
) -> None:
    before = await offered(tmp_path, space)
    turned = Space(HashingEmbedder(), space.prototypes[::-1], earlier=space)
    now = await offered(tmp_path, turned)
    assert now.earlier == before.capability
    assert now.capability == before.capability[::-1]
    assert len(asked) == 2 * len(shipped_items())


async def test_a_new_device_is_asked_once_for_both_versions(tmp_path: Path, space: Space, asked: list[str]) -> None:
    turned = Space(HashingEmbedder(), space.prototypes[::-1], earlier=space)
    first = await offered(tmp_path, turned)
    assert first.earlier == first.capability[::-1]
    assert len(asked) == len(shipped_items())


class Caching(ScriptedEngine):
    """Tells of its cache as told."""

    def __init__(self, changes: list[Held | None]) -> None:
        super().__init__(lambda _: "no")
        self.changes = changes

    async def cache_changes(self) -> tuple[Held | None, ...]:
        if not self.changes:
            await trio.sleep_forever()
        return (self.changes.pop(0),)


async def test_what_its_cache_holds_is_passed_on_and_its_silence_too(
    tmp_path: Path, space: Space, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    changes = [Held(b"us", ((b"mark", 64),)), None, Held(b"us", ((b"mark", 0),)), None]
    engine = Caching([*changes])
    monkeypatch.setattr(hosting, "make_engine", lambda *_: engine)
    told: list[tuple[str, Held | None]] = []
    warnings: list[str] = []
    async with open_store(tmp_path / "store.db", ME.peer) as store, trio.open_nursery() as nursery:
        host = Hosting(
            tmp_path, space, store, changed=lambda: None, cached=lambda *of: told.append(of), warn=warnings.append
        )
        await host.start((Agent(name="sums"),), nursery)
        with trio.fail_after(60):
            while len(told) < len(changes):
                await trio.sleep(hosting.CACHE_S)
        nursery.cancel_scope.cancel()
    assert told == [("sums", held) for held in changes]
    assert len([warning for warning in warnings if "does not tell what its cache holds" in warning]) == 1
