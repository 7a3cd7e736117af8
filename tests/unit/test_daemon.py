"""What the daemon looks after while it runs: its addresses and its clock."""

import signal
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from p2pagent import daemon
from p2pagent.clock import Clock
from p2pagent.config import Api, Config, Network
from p2pagent.daemon import LOOK_AFTER_S, Daemon
from p2pagent.peer.events import AgentsChanged

ONE, TWO = (f"/ip4/192.0.2.{number}/tcp/4101" for number in (1, 2))
QUIET = Config(agents=(), network=Network(listen=("/ip4/127.0.0.1/tcp/0",)), api=Api(port=0))


class Parts:
    """Stands in for the parts of a daemon that are looked at, all in one."""

    def __init__(self) -> None:
        self.told: list[AgentsChanged] = []
        self.here: tuple[str, ...] = (ONE,)
        self.adverts: dict[str, object] = {}
        self.measured: dict[str, object] = {}
        self.buyer = self
        self.running = 0
        self.is_wrong = False

    def addresses(self) -> tuple[str, ...]:
        return self.here

    def put(self, event: AgentsChanged) -> None:
        self.told.append(event)


@pytest.fixture
def autojump_clock() -> MockClock:
    return MockClock(autojump_threshold=0)


@pytest.fixture
def parts() -> Parts:
    return Parts()


@pytest.fixture
def looking(tmp_path: Path, parts: Parts, monkeypatch: pytest.MonkeyPatch) -> Daemon:
    looking = Daemon(tmp_path, QUIET)
    for name in ("_network", "_driver", "_hosting", "_peer", "_clock"):
        monkeypatch.setattr(looking, name, parts, raising=False)

    async def nothing() -> None: ...

    monkeypatch.setattr(looking, "_snapshot", nothing)
    return looking


async def test_new_addresses_are_told_once(
    nursery: trio.Nursery, looking: Daemon, parts: Parts, autojump_clock: MockClock
) -> None:
    nursery.start_soon(looking._look_after)
    await trio.sleep(5 * LOOK_AFTER_S)
    assert parts.told == []  # its agents are not ready yet
    looking._tell_agents()
    await trio.sleep(5 * LOOK_AFTER_S)
    parts.here = (TWO, ONE)
    await trio.sleep(5 * LOOK_AFTER_S)
    assert parts.told == [AgentsChanged((), (ONE,)), AgentsChanged((), (TWO, ONE))]


async def test_a_clock_that_is_wrong_ends_this_life_once_the_owner_waits_for_nothing(
    nursery: trio.Nursery, looking: Daemon, parts: Parts, autojump_clock: MockClock
) -> None:
    nursery.start_soon(looking._look_after)
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        parts.running = 1
        parts.is_wrong = True
        with trio.move_on_after(5 * LOOK_AFTER_S) as waiting:
            await anext(signals)
        assert waiting.cancelled_caught
        assert not looking.starts_anew
        parts.running = 0
        await anext(signals)
        assert looking.starts_anew


async def test_a_daemon_whose_wall_clock_was_set_back_starts_anew(
    nursery: trio.Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lives: list[Clock] = []

    class Counted(Clock):
        """The first is wrong; in the second life the owner stops the daemon."""

        def __init__(self) -> None:
            super().__init__()
            lives.append(self)

        @property
        def is_wrong(self) -> bool:
            if lives == [self]:
                return True
            if self not in stopped:
                stopped.append(self)
                signal.raise_signal(signal.SIGTERM)
            return False

    stopped: list[Clock] = []
    said: list[str] = []
    monkeypatch.setattr(daemon, "LOOK_AFTER_S", 0.1)
    monkeypatch.setattr(daemon, "Clock", Counted)
    monkeypatch.setattr(daemon, "_say", said.append)
    with trio.fail_after(20):
        await daemon._main(tmp_path, QUIET, False)
    assert stopped == lives[1:]
    assert [line for line in said if "set back" in line] == said[2:3]
    assert sum(" is up;" in line for line in said) == 2
