"""What an owner can get wrong: one line with the cause, one with the way out, an exit code of its own, and no harm.

Each case runs `p2pagent` as its user does, as a process.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
import trio

from p2pagent import config as settings
from p2pagent import experts, home
from p2pagent.config import Agent, Api, Config, Engine, Network
from p2pagent.engine.vllm_process import free_port
from p2pagent.errors import Exit
from p2pagent.testnet.fleet import Daemon
from tests.integration.paced import calibration

pytestmark = [pytest.mark.integration, pytest.mark.slow]

LIMIT_S = 90
"""For starting a process, which takes seconds on a busy machine."""

LOOPBACK = Network(name="testnet", listen=("/ip4/127.0.0.1/tcp/0",))


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    """One that can be hosted."""
    return Agent("add", Engine(model="add"), calibration=calibration(tmp_path))


@pytest.fixture
def config(agent: Agent) -> Config:
    """Settings with which a daemon starts."""
    return Config(agents=(agent,), network=LOOPBACK, api=Api(port=0))


@pytest.fixture
async def daemon(tmp_path: Path, config: Config) -> AsyncIterator[Daemon]:
    """One that runs, and at the end still answers: whatever was done to it."""
    daemon = Daemon(tmp_path / "running", config)
    try:
        with trio.fail_after(LIMIT_S):
            await daemon.start()
            await daemon.until_status(lambda status: bool(status.agents))
            yield daemon
            assert await right(daemon)
    finally:
        with trio.CancelScope(shield=True):
            await daemon.aclose()


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which somebody else listens."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield listener.getsockname()[1]


async def right(daemon: Daemon) -> bool:
    answered = await daemon.ask("What is 47 plus 38?")
    return answered is not None and answered.text == "85"


async def p2pagent(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-m", "p2pagent", *arguments, "--home", str(folder)]
    leash, held = os.pipe()
    try:
        with trio.fail_after(LIMIT_S):
            return await trio.run_process(command, stdin=leash, capture_stdout=True, capture_stderr=True, check=False)
    finally:
        os.close(leash)
        os.close(held)


def told(done: "subprocess.CompletedProcess[bytes]", exit_code: Exit) -> str:
    """What a command said, which is one line with the cause and one with the hint, and nothing else."""
    said = done.stderr.decode()
    assert done.returncode == exit_code, said
    assert done.stdout == b""
    assert [line.split(": ")[0] for line in said.splitlines()] == ["p2pagent", "hint"], said
    return said


async def refused(folder: Path, exit_code: Exit) -> str:
    """What a daemon says that does not start."""
    return told(await p2pagent(folder, "up", "--stop-with-stdin"), exit_code)


def prepared(folder: Path, config: Config) -> Path:
    folder.mkdir(mode=0o700)
    settings.save(config, folder / home.CONFIG)
    return folder


@pytest.mark.parametrize("text", ["colour = 1", "[api]\nport = -1", "not toml", "[[agents]]\nname = ''"])
async def test_settings_that_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / home.CONFIG).write_text(text)
    assert home.CONFIG in await refused(tmp_path, Exit.CONFIG)


async def test_no_settings(tmp_path: Path) -> None:
    assert "p2pagent init" in await refused(tmp_path, Exit.CONFIG)


@pytest.mark.parametrize("port", ["network", "api"])
async def test_a_taken_port(tmp_path: Path, config: Config, taken: int, port: str) -> None:
    if port == "api":
        config = msgspec.structs.replace(config, api=Api(port=taken))
    else:
        config = msgspec.structs.replace(config, network=Network(listen=(f"/ip4/127.0.0.1/tcp/{taken}",)))
    assert str(taken) in await refused(prepared(tmp_path / "home", config), Exit.PORT_TAKEN)


@pytest.mark.parametrize("secret", [home.IDENTITY, home.TOKEN])
@pytest.mark.parametrize("fault", ["others can read it", "damaged", "a folder"])
async def test_a_secret_that_is_none(tmp_path: Path, config: Config, secret: str, fault: str) -> None:
    folder = prepared(tmp_path / "home", config)
    if fault == "a folder":
        (folder / secret).mkdir(mode=0o700)
    else:
        (folder / secret).write_text("00" * (32 if fault == "others can read it" else 31))
        (folder / secret).chmod(0o644 if fault == "others can read it" else 0o600)
    assert str(folder / secret) in await refused(folder, Exit.KEY)


def expert_without(part: str) -> Callable[[Path], Engine]:
    """An engine whose model is the expert `add` with half of one file."""

    def make(folder: Path) -> Engine:
        model = shutil.copytree(experts.path("add"), folder / "model")
        data = (model / part).read_bytes()
        (model / part).write_bytes(data[: len(data) // 2])
        return Engine(model=str(model))

    return make


BAD_ENGINES: dict[str, tuple[Callable[[Path], Engine], Exit]] = {
    "there is no vLLM in the environment": (lambda _: Engine(kind="vllm", model="add"), Exit.ENGINE_MISSING),
    "no Python": (lambda folder: Engine(kind="vllm", python=str(folder / "python")), Exit.ENGINE_MISSING),
    "no model endpoint answers at http://127.0.0.1:": (
        lambda _: Engine(kind="openai", url=f"http://127.0.0.1:{free_port()}/v1", model="m"),
        Exit.ENGINE_MISSING,
    ),
    "needs a url": (lambda _: Engine(kind="openai"), Exit.CONFIG),
    "nowhere": (lambda folder: Engine(model=str(folder / "nowhere")), Exit.MODEL),
    "deserializing": (expert_without("model.safetensors"), Exit.MODEL),
    "tokenizer.json": (expert_without("tokenizer.json"), Exit.MODEL),
    "truncated": (expert_without("config.json"), Exit.MODEL),
}
"""By what is said of them."""


@pytest.mark.parametrize(("cause", "make", "exit_code"), [(cause, *bad) for cause, bad in BAD_ENGINES.items()])
async def test_an_engine_that_cannot_run(
    tmp_path: Path, config: Config, cause: str, make: Callable[[Path], Engine], exit_code: Exit
) -> None:
    bad = Agent("bad", make(tmp_path), calibration=config.agents[0].calibration)
    folder = prepared(tmp_path / "home", msgspec.structs.replace(config, agents=(bad,)))
    assert cause in await refused(folder, exit_code)


async def test_an_engine_that_does_not_come_up_can_be_interrupted(tmp_path: Path, config: Config, taken: int) -> None:
    """Somebody listens at the endpoint, and never answers."""
    silent = Agent("silent", Engine(kind="openai", url=f"http://127.0.0.1:{taken}/v1", model="m"))
    daemon = Daemon(tmp_path / "home", msgspec.structs.replace(config, agents=(silent,)))
    try:
        with trio.fail_after(LIMIT_S):
            await daemon.start()
            await daemon.until_status(lambda _status: True)
            assert daemon.process is not None
            daemon.process.send_signal(signal.SIGINT)
            assert await daemon.process.wait() == 0
    finally:
        with trio.CancelScope(shield=True):
            await daemon.aclose()


async def test_a_calibration_set_that_is_none(tmp_path: Path, config: Config) -> None:
    (tmp_path / "set.json").write_text('[{"question": "?"}]')
    bad = Agent("bad", Engine(model="add"), calibration=str(tmp_path / "set.json"))
    folder = prepared(tmp_path / "home", msgspec.structs.replace(config, agents=(bad,)))
    assert "set.json" in await refused(folder, Exit.CONFIG)


async def test_a_bad_agent_leaves_the_others_running(tmp_path: Path, config: Config) -> None:
    bad = Agent("bad", Engine(model=str(tmp_path / "nowhere")))
    daemon = Daemon(tmp_path / "home", msgspec.structs.replace(config, agents=(bad, *config.agents)))
    try:
        with trio.fail_after(LIMIT_S):
            await daemon.start()
            status = await daemon.until_status(lambda status: bool(status.agents and status.warnings))
            assert [agent.agent for agent in status.agents] == ["add"]
            assert status.warnings[0].startswith("agent bad: cannot load the model in ")
            assert await right(daemon)
    finally:
        with trio.CancelScope(shield=True):
            await daemon.aclose()


async def test_a_bootstrap_address_that_does_not_answer(tmp_path: Path, config: Config) -> None:
    nobody = f"/ip4/127.0.0.1/tcp/{free_port()}/p2p/{Daemon(tmp_path / 'nobody', config).peer}"
    network = msgspec.structs.replace(LOOPBACK, bootstrap=(nobody,))
    daemon = Daemon(tmp_path / "home", msgspec.structs.replace(config, network=network))
    try:
        with trio.fail_after(LIMIT_S):
            await daemon.start()
            status = await daemon.until_status(lambda status: bool(status.agents and status.warnings))
            assert f"bootstrap {nobody} does not answer" in status.warnings[0]
            assert await right(daemon)
            assert f"bootstrap {nobody} does not answer" in (daemon.folder / "daemon.log").read_text()
    finally:
        with trio.CancelScope(shield=True):
            await daemon.aclose()


async def test_questions_that_cannot_be_asked(daemon: Daemon) -> None:
    told(await p2pagent(daemon.folder, "ask", "  \n"), Exit.EMPTY_QUESTION)
    context = experts_context()
    assert str(context) in told(await p2pagent(daemon.folder, "ask", "a" * context), Exit.TOO_LONG)
    told(await p2pagent(daemon.folder, "ask", "a" * 100_000), Exit.TOO_LONG)
    assert await right(daemon)


def experts_context() -> int:
    context = json.loads((experts.path("add") / "config.json").read_bytes())["max_position_embeddings"]
    assert isinstance(context, int)
    return context


async def test_a_second_daemon_of_one_home(daemon: Daemon) -> None:
    before = home.find(daemon.folder)
    await refused(daemon.folder, Exit.STORE)
    assert home.find(daemon.folder) == before
    assert await right(daemon)


async def test_no_daemon(tmp_path: Path, config: Config) -> None:
    folder = prepared(tmp_path / "home", config)
    assert "p2pagent up" in told(await p2pagent(folder, "ask", "What is 47 plus 38?"), Exit.NO_DAEMON)


async def test_a_daemon_that_was_killed_is_none(daemon: Daemon) -> None:
    await daemon.kill()
    assert "p2pagent up" in told(await p2pagent(daemon.folder, "status"), Exit.NO_DAEMON)
    await daemon.start()
    await daemon.until_status(lambda status: bool(status.agents))


async def test_nobody_answers(tmp_path: Path, config: Config) -> None:
    """A device without agents and without peers."""
    daemon = Daemon(tmp_path / "home", msgspec.structs.replace(config, agents=()))
    try:
        with trio.fail_after(LIMIT_S):
            await daemon.start()
            await daemon.until_status(lambda _status: True)
            assert "no answer" in told(await p2pagent(daemon.folder, "ask", "What is 47 plus 38?"), Exit.NO_ANSWER)
    finally:
        with trio.CancelScope(shield=True):
            await daemon.aclose()


def test_each_fault_has_an_exit_code_of_its_own() -> None:
    codes = [code.value for code in Exit]
    assert len(set(codes)) == len(codes)
    assert not {0, 2} & set(codes)
    assert os.name == "nt" or max(codes) < 126
