"""From the owner's settings to an engine, and to a name for what it runs that changes whenever its answers may."""

import sys
from hashlib import sha256
from pathlib import Path

from p2pagent import experts
from p2pagent.config import Engine as EngineConfig
from p2pagent.engine.base import Engine
from p2pagent.engine.embedded import EmbeddedEngine
from p2pagent.engine.model_files import located
from p2pagent.engine.openai import OpenAIEngine
from p2pagent.engine.vllm import VllmEngine
from p2pagent.errors import Exit, LocalError


def make_engine(config: EngineConfig, log_folder: Path) -> Engine:
    """The engine that `config` asks for, not yet started.

    Raises:
        LocalError: no such shipped expert, or no endpoint named.
    """
    match config.kind:
        case "embedded":
            return EmbeddedEngine(_folder(config.model), config.slots)
        case "vllm":
            python = Path(config.python or sys.executable)
            model = str(_folder(config.model)) if config.model in experts.names() else config.model
            return VllmEngine(model, python=python, log_folder=log_folder, slots=config.slots, args=config.args)
        case "openai":
            if not config.url:
                hint = "set agents.engine.url, for example http://127.0.0.1:11434/v1"
                raise LocalError("an engine of kind openai needs a url", hint, Exit.CONFIG)
            return OpenAIEngine(config.url, config.model, api_key=config.api_key, slots=config.slots)


def fingerprint(config: EngineConfig) -> str:
    """What names the model that answers: its files by size and time, or the endpoint and the model's name there."""
    told = [config.model, config.url]
    if config.kind != "openai":
        folder = _folder(config.model) if config.model in experts.names() else Path(config.model)
        if folder.is_dir():
            states = [(file.name, file.stat()) for file in sorted(folder.iterdir()) if file.is_file()]
            told += [f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in states]
    return sha256("\n".join(told).encode()).hexdigest()


def model_folder(config: EngineConfig) -> Path | None:
    """Where the model's files lie on this device; None if nobody knows."""
    return located(str(_folder(config.model))) if config.kind != "openai" else None


def _folder(model: str) -> Path:
    return experts.path(model) if model in experts.names() else Path(model)
