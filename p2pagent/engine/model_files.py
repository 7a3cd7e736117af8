"""Where the files of a model lie: in the folder that it is named by, or in the cache of the Hugging Face hub."""

import os
from pathlib import Path

import msgspec


def located(model: str) -> Path | None:
    """The folder of a model; None where nobody knows one.

    A name on the hub is looked up in its cache, where vLLM leaves what it downloads: the snapshot that was the main
    branch then (https://huggingface.co/docs/huggingface_hub/guides/manage-cache).
    """
    if Path(model).is_dir():
        return Path(model)
    folder = _cache() / f"models--{model.replace('/', '--')}"
    try:
        snapshot = folder / "snapshots" / (folder / "refs" / "main").read_text("ascii").strip()
    except (OSError, ValueError):
        return None
    return snapshot if snapshot.is_dir() else None


def model_type(folder: Path) -> str:
    """What kind of model `folder` holds, as transformers calls it; empty where it does not say."""
    try:
        return msgspec.json.decode((folder / "config.json").read_bytes(), type=_Config).model_type
    except (OSError, msgspec.MsgspecError):
        return ""


class _Config(msgspec.Struct):
    model_type: str = ""


def _cache() -> Path:
    """As the hub's own library finds it (huggingface_hub 2.4, constants.py)."""
    told = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    if told:
        return Path(told).expanduser()
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return Path(os.environ.get("HF_HOME") or caches / "huggingface").expanduser() / "hub"
