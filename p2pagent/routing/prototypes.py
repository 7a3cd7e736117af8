"""The embedding space, the prototypes shared by all peers, and where a question lies among them.

A question becomes a unit vector, its signed 8-bit form (what travels), and a sparse relevance over the prototypes:
softmax of the cosines of its `NEAREST` prototypes (PPAI's sparse relevance vector, arXiv 2605.18067, here with k-means
centroids as prototypes instead of a trained gate). A space is named together with a hash of its prototypes; peers of
different names never score each other.
"""

from hashlib import sha256
from typing import Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.random_projection import GaussianRandomProjection

Vector = NDArray[np.float32]

NEAREST = 3
"""Prototypes that a question's relevance is spread over."""

TEMPERATURE = 0.05
"""Of the softmax over cosines: 0.05 of cosine is one factor e."""

SAME_PROMPT_COSINE = 0.999
"""Quantised embeddings of one prompt, made on machines whose floats differ in the last bit, are at least this close."""


class Embedder(Protocol):
    """Turns text into a direction. The same text gives the same quantised vector on every machine."""

    @property
    def name(self) -> str:
        """Kind, size and version; changes whenever any vector would."""

    def embed(self, texts: list[str]) -> Vector:
        """Unit rows, shape (len(texts), dimensions)."""


class HashingEmbedder:
    """Character n-grams hashed to 4,096 counts, then a fixed Gaussian projection: nothing to download or train, 1 ms.

    The projection keeps cosines within about 1/sqrt(256) (Johnson and Lindenstrauss 1984).
    """

    name = "hash-charwb3to5-4096-256/1"

    def __init__(self) -> None:
        self._counts = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 5), n_features=4096, dtype=np.float32)
        projection = GaussianRandomProjection(n_components=256, random_state=20260518).fit(np.zeros((1, 4096)))
        self._projection = np.ascontiguousarray(projection.components_.T, dtype=np.float32)

    def embed(self, texts: list[str]) -> Vector:
        """Unit rows, shape (len(texts), 256)."""
        return _unit(self._counts.transform(texts) @ self._projection)


class Relevance(Struct, frozen=True):
    """Where a question lies: the prototypes it is near to, their weights (sum 1), and the cosine of the nearest."""

    prototypes: tuple[int, ...]
    weights: tuple[float, ...]
    nearest_cosine: float


class Space:
    """An embedder together with the prototypes, shape (M, dimensions), under one name."""

    def __init__(self, embedder: Embedder, prototypes: Vector) -> None:
        self._embedder = embedder
        self.prototypes = _unit(prototypes)
        digest = sha256(quantised(self.prototypes).tobytes()).hexdigest()[:16]
        self.name = f"{embedder.name}@{digest}"

    def embed(self, text: str) -> bytes:
        """The quantised embedding of `text`: one signed byte per dimension, its largest component at 127."""
        return bytes(quantised(self._embedder.embed([text]))[0])

    def nearest(self, embedding: bytes) -> Relevance:
        """The relevance of an embedding that `embed` made here or at a peer of the same space."""
        vector = _unit(np.frombuffer(embedding, dtype=np.int8).astype(np.float32)[None, :])[0]
        cosines = self.prototypes @ vector
        order = np.argsort(-cosines, kind="stable")[:NEAREST]
        weights = np.exp((cosines[order] - cosines[order[0]]) / TEMPERATURE)
        weights /= weights.sum()
        return Relevance(tuple(map(int, order)), tuple(map(float, weights)), float(cosines[order[0]]))

    def cell(self, prototype: int) -> str:
        """The name under which the DHT knows the agents that are strong at `prototype`."""
        return f"p2pagent/cell/1/{self.name}/{prototype}"

    def well_formed(self, embedding: bytes) -> bool:
        """Whether a peer's bytes are a vector of this space."""
        return len(embedding) == self.prototypes.shape[1] and any(embedding)


def same_prompt(one: bytes, other: bytes) -> bool:
    """Whether two quantised embeddings are of one prompt."""
    if len(one) != len(other):
        return False
    pair = _unit(np.stack([np.frombuffer(v, dtype=np.int8) for v in (one, other)]).astype(np.float32))
    return bool(pair[0] @ pair[1] >= SAME_PROMPT_COSINE)


def quantised(vectors: Vector) -> NDArray[np.int8]:
    """Rows scaled so that their largest component is 127, rounded: the direction in one byte per dimension."""
    peak = np.abs(vectors).max(axis=1, keepdims=True)
    return np.rint(vectors * (127.0 / np.where(peak > 0, peak, 1))).astype(np.int8)


def _unit(vectors: Vector) -> Vector:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)
