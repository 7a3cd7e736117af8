"""The arithmetic of a small Llama in NumPy: single precision, a batch of one, a cache of keys and values."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Floats = NDArray[np.float32]

_Float = TypeVar("_Float", np.float32, np.float64)


class LlamaConfig(Struct, frozen=True):
    """The `config.json` of the models that `Llama` computes; that of another kind of model does not decode."""

    model_type: Literal["llama"]
    hidden_act: Literal["silu"]
    tie_word_embeddings: bool
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    eos_token_id: int
    rope_scaling: None = None

    def __post_init__(self) -> None:
        if self.num_key_value_heads != self.num_attention_heads or not self.tie_word_embeddings:
            raise ValueError("only tied embeddings and as many key heads as query heads are supported")


class _Layer(NamedTuple):
    """Weights of one layer, transposed to [input, output]; those that share an input are side by side."""

    attention_norm: Floats
    query_key_value: Floats
    attention_out: Floats
    mlp_norm: Floats
    gate_up: Floats
    down: Floats


class Cache:
    """Keys and values of one conversation, with room for `capacity_tokens`."""

    def __init__(self, config: LlamaConfig, capacity_tokens: int) -> None:
        shape = (config.num_hidden_layers, config.num_attention_heads, capacity_tokens, config.head_dim)
        self.keys = np.empty(shape, np.float32)
        self.values = np.empty(shape, np.float32)
        self.length_tokens = 0


class Llama:
    """A model ready to compute: `config` and its weights under their checkpoint names, of any float type.

    Raises:
        KeyError: a weight is missing.
    """

    def __init__(self, config: LlamaConfig, weights: Mapping[str, NDArray[np.floating]]) -> None:
        def named(*names: str) -> Floats:
            return np.concatenate([weights[f"model.{name}.weight"] for name in names]).astype(np.float32)

        def matrix(*names: str) -> Floats:
            return np.ascontiguousarray(named(*names).T)

        self.config = config
        self._embedding = named("embed_tokens")
        self._norm = named("norm")
        self._layers = [
            _Layer(
                attention_norm=named(f"layers.{i}.input_layernorm"),
                query_key_value=matrix(*(f"layers.{i}.self_attn.{part}_proj" for part in "qkv")),
                attention_out=matrix(f"layers.{i}.self_attn.o_proj"),
                mlp_norm=named(f"layers.{i}.post_attention_layernorm"),
                gate_up=matrix(f"layers.{i}.mlp.gate_proj", f"layers.{i}.mlp.up_proj"),
                down=matrix(f"layers.{i}.mlp.down_proj"),
            )
            for i in range(config.num_hidden_layers)
        ]
        frequencies = config.rope_theta ** (-np.arange(0, config.head_dim, 2) / config.head_dim)
        angles = np.outer(np.arange(config.max_position_embeddings), np.tile(frequencies, 2))
        self._cosine, self._sine = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)

    def forward(self, ids: Sequence[int], cache: Cache) -> Floats:
        """Logits [vocabulary] of the token after `ids`, which follow what `cache` holds and are added to it.

        `cache` must have room for them, and no position may pass the model's context.
        """
        heads, head_dim = self.config.num_attention_heads, self.config.head_dim
        begin, end = cache.length_tokens, cache.length_tokens + len(ids)
        cosine, sine = self._cosine[begin:end], self._sine[begin:end]
        scale = np.float32(head_dim**-0.5)
        unseen = np.triu(np.full((len(ids), end), -np.inf, np.float32), begin + 1)
        x = self._embedding[list(ids)]
        for layer, keys, values in zip(self._layers, cache.keys, cache.values, strict=True):
            mixed = self._normed(x, layer.attention_norm) @ layer.query_key_value
            query, key, value = mixed.reshape(len(ids), 3, heads, head_dim).transpose(1, 2, 0, 3)
            keys[:, begin:end] = _rotated(key, cosine, sine)
            values[:, begin:end] = value
            scores: Floats = _rotated(query, cosine, sine) @ keys[:, :end].transpose(0, 2, 1) * scale + unseen
            seen: Floats = softmax(scores) @ values[:, :end]
            x = x + seen.transpose(1, 0, 2).reshape(len(ids), heads * head_dim) @ layer.attention_out
            gate, up = np.split(self._normed(x, layer.mlp_norm) @ layer.gate_up, 2, axis=-1)
            x = x + (_silu(gate) * up) @ layer.down
        cache.length_tokens = end
        logits: Floats = self._embedding @ self._normed(x[-1], self._norm)
        return logits

    def _normed(self, x: Floats, weight: Floats) -> Floats:
        mean_square = np.mean(x * x, axis=-1, keepdims=True)
        scaled: Floats = x / np.sqrt(mean_square + np.float32(self.config.rms_norm_eps)) * weight
        return scaled


def softmax(scores: NDArray[_Float]) -> NDArray[_Float]:
    """Probabilities along the last axis."""
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares: NDArray[_Float] = weights / weights.sum(axis=-1, keepdims=True)
    return shares


def _silu(x: Floats) -> Floats:
    # x * sigmoid(x) by tanh, which cannot overflow.
    activated: Floats = x * (np.float32(0.5) * np.tanh(np.float32(0.5) * x) + np.float32(0.5))
    return activated


def _rotated(x: Floats, cosine: Floats, sine: Floats) -> Floats:
    """`x` [heads, tokens, head_dim] turned to its positions; the first half of a head pairs with the second."""
    first, second = np.split(x, 2, axis=-1)
    return x * cosine + np.concatenate((-second, first), axis=-1) * sine
