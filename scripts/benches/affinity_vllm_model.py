"""The model of the affinity bench on real engines: large enough that a prefill outweighs two round trips.

A Llama of random weights, drawn from a seed, with the shipped experts' tokenizer and template. What it says is of no
interest, but it says it to the full length: only printable ASCII has an embedding, which is the output layer as well,
so that no answer ends early and none has half a character that a detokenizer would hold back.
"""

import json
import shutil
from pathlib import Path
from string import ascii_lowercase

import numpy as np
import trio
from safetensors.numpy import save_file

from p2pagent import experts
from p2pagent.calibration import ANSWER_TOKENS_MAX, Item
from p2pagent.engine.base import GenerateRequest
from p2pagent.engine.embedded import EmbeddedEngine
from p2pagent.types import ChatMessage, Sampling

HIDDEN, LAYERS, HEADS, MLP = 384, 6, 12, 1_056
DEVIATION = 0.06
SHIPPED = "reverse"
"""Whose tokenizer and template it has: byte-level, a token per character."""

PRINTABLE = slice(ord(" "), ord("~") + 1)
ITEMS, QUESTION_CHARACTERS = 12, 24


def write(folder: Path, seed: int) -> None:
    """Write the model, half precision, with all that an engine reads beside it."""
    shipped = experts.path(SHIPPED)
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"):
        shutil.copyfile(shipped / name, folder / name)
    config = json.loads((shipped / "config.json").read_text("utf-8")) | {
        "hidden_size": HIDDEN,
        "intermediate_size": MLP,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "head_dim": HIDDEN // HEADS,
    }
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    rng = np.random.default_rng(seed)

    def drawn(rows: int, columns: int) -> np.ndarray[tuple[int, int], np.dtype[np.float16]]:
        return (DEVIATION * rng.standard_normal((rows, columns))).astype(np.float16)

    embedding = np.zeros((config["vocab_size"], HIDDEN), np.float16)
    embedding[PRINTABLE] = drawn(PRINTABLE.stop - PRINTABLE.start, HIDDEN)
    weights = {"embed_tokens": embedding, "norm": np.ones(HIDDEN, np.float16)}
    for layer in range(LAYERS):
        for part in "qkvo":
            weights[f"layers.{layer}.self_attn.{part}_proj"] = drawn(HIDDEN, HIDDEN)
        weights[f"layers.{layer}.mlp.gate_proj"] = drawn(MLP, HIDDEN)
        weights[f"layers.{layer}.mlp.up_proj"] = drawn(MLP, HIDDEN)
        weights[f"layers.{layer}.mlp.down_proj"] = drawn(HIDDEN, MLP)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            weights[f"layers.{layer}.{norm}"] = np.ones(HIDDEN, np.float16)
    named = {f"model.{name}.weight": value for name, value in weights.items()}
    save_file(named, folder / "model.safetensors", metadata={"format": "pt"})


async def calibration(folder: Path, seed: int) -> list[Item]:
    """Calibration questions with what the model in `folder` answers: all who run it are right, and as good."""
    rng = np.random.default_rng([seed, ITEMS])
    letters = list(ascii_lowercase)
    engine = EmbeddedEngine(folder)
    items = []
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        for _ in range(ITEMS):
            prompt, said = "".join(rng.choice(letters, QUESTION_CHARACTERS)), []
            request = GenerateRequest((ChatMessage("user", prompt),), Sampling(max_tokens=ANSWER_TOKENS_MAX))
            await engine.generate(request, lambda delta, said=said: said.append(delta.text))  # type: ignore[misc]
            items.append(Item(prompt, "".join(said).strip()))
        nursery.cancel_scope.cancel()
    return items
