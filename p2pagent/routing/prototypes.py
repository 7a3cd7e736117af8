"""The embedding space, the prototypes shared by all peers, and where a question lies among them.

A question becomes a unit vector, its signed 8-bit form (what travels), and a sparse relevance over the prototypes:
softmax of its similarity to the `NEAREST` prototypes (PPAI's sparse relevance vector, arXiv 2605.18067). Similarities
are cosines, or what a trained gate makes of the question (`gate`). A space is named together with a hash of its
prototypes and its gate; peers of different names never score each other.
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
"""Of the softmax over similarities: 0.05 of cosine is one factor e."""

QUESTIONS = 5.0
FAMILY_QUESTIONS = 1.0
"""Where a space does not say otherwise: questions behind a claim, and how many of them its family weighs as much as."""

NOVEL_COSINE = 0.2
FAMILIAR_COSINE = 0.4
"""Where a space does not say otherwise. In the shipped spaces 99 % of generated calibration questions are nearer to a
prototype than 0.72 (hashing) or 0.60 (MiniLM), and questions of GSM8K, MMLU and ARC have medians of 0.15 to 0.36; 0.4
leaves room for other wordings of the same tasks."""

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


class Gate(Struct, frozen=True):
    """A linear map in place of bare cosines: similarities are weights @ vector + bias.

    PPAI's QAGate is such a light projector onto the prototypes. Shapes (M, dimensions) and (M,).
    """

    weights: Vector
    bias: Vector


class Calibration(Struct, frozen=True):
    """What stands behind the claims made in a space, and how far its prototypes reach; the same at every peer.

    Attributes:
        families: per prototype, the number of its family (kind of task), shape (M,).
        questions: per prototype, how many calibration questions it has, shape (M,).
        family_questions: how many of a prototype's own questions its family's skill weighs as much as.
        pooled_questions: how many of a family's questions pooled skill weighs as much as.
        novel_cosine: below it to its nearest prototype a question is new, and pooled skill alone speaks.
        familiar_cosine: from it on the prototypes speak alone; between the two the mixture is linear.
    """

    families: NDArray[np.int64]
    questions: NDArray[np.float64]
    family_questions: float = FAMILY_QUESTIONS
    pooled_questions: float = FAMILY_QUESTIONS
    novel_cosine: float = NOVEL_COSINE
    familiar_cosine: float = FAMILIAR_COSINE

    def familiarity(self, relevance: Relevance) -> float:
        """How much the prototypes say about a question: 1 for one like the calibration's, 0 far from all of them."""
        reach = self.familiar_cosine - self.novel_cosine
        return min(1.0, max(0.0, (relevance.nearest_cosine - self.novel_cosine) / reach))


def one_family(count: int) -> Calibration:
    """For `count` prototypes of which nothing more is known: of one family, with as many questions each."""
    return Calibration(np.zeros(count, dtype=np.int64), np.full(count, QUESTIONS))


class Space:
    """An embedder, the prototypes, shape (M, dimensions), and what is known of them, under one name.

    Without a gate similarities are cosines; without a calibration all prototypes are of one family. `earlier` is the
    version before this one, by the same embedder, that some peers may still have: prototypes drift a little from
    version to version, so that each is read as the nearest of the other.

    Raises:
        ValueError: `earlier` is of another embedder.
    """

    def __init__(
        self,
        embedder: Embedder,
        prototypes: Vector,
        gate: Gate | None = None,
        calibration: Calibration | None = None,
        earlier: "Space | None" = None,
    ) -> None:
        if earlier and earlier.embedder != embedder.name:
            raise ValueError(f"the earlier space is of {earlier.embedder}, this one of {embedder.name}")
        self.earlier = earlier
        self._embedder = embedder
        self._gate = gate
        self.prototypes = _unit(prototypes)
        self.calibration = calibration or one_family(len(prototypes))
        parts = [quantised(self.prototypes).tobytes()]
        if gate:
            parts += [gate.weights.tobytes(), gate.bias.tobytes()]
        self.in_earlier = self.places_in(earlier) if earlier else []
        """Per prototype the nearest one of the earlier space."""
        self.name = f"{embedder.name}@{sha256(b''.join(parts)).hexdigest()[:16]}"

    @property
    def embedder(self) -> str:
        """The name of the embedder."""
        return self._embedder.name

    def knows(self, name: str) -> bool:
        """Whether `name` is of this space or of the one before it: embeddings are the same in both."""
        return name == self.name or (self.earlier is not None and name == self.earlier.name)

    def places_in(self, other: "Space") -> list[int]:
        """Per prototype the nearest one of another version of this space, length M."""
        return [int(m) for m in np.argmax(self.prototypes @ other.prototypes.T, axis=1)]

    def embed(self, text: str) -> bytes:
        """The quantised embedding of `text`: one signed byte per dimension, its largest component at 127."""
        return bytes(quantised(self._embedder.embed([text]))[0])

    def nearest(self, embedding: bytes) -> Relevance:
        """The relevance of an embedding that `embed` made here or at a peer of the same space."""
        vector = _unit(np.frombuffer(embedding, dtype=np.int8).astype(np.float32)[None, :])[0]
        cosines = self.prototypes @ vector
        similarities = self._gate.weights @ vector + self._gate.bias if self._gate else cosines
        order = np.argsort(-similarities, kind="stable")[:NEAREST]
        weights = np.exp((similarities[order] - similarities[order[0]]) / TEMPERATURE)
        weights /= weights.sum()
        return Relevance(tuple(map(int, order)), tuple(map(float, weights)), float(cosines.max()))

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
