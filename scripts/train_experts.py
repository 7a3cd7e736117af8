"""Train the shipped experts: one small Llama per family of `p2pagent.experts.families`, from a seed, on one CPU thread.

    python scripts/train_experts.py reverse sort --seed 0

Needs the extra `train`. An expert trains at a constant rate until most calibration questions come out right, then
anneals. Its weights are rounded to half precision and scored, as stored, on held-out questions of all families.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from p2pagent.experts.families import FAMILIES, Family, Question, questions

HIDDEN, LAYERS, HEADS, MLP, CONTEXT_TOKENS = 128, 3, 4, 352, 4096
HEAD_DIM = HIDDEN // HEADS  # 32 is the smallest that vLLM has kernels for
ROPE_THETA, NORM_EPS = 10_000.0, 1e-5
BOS, EOS, ANSWER, PAD, VOCABULARY = 256, 257, 258, 259, 260  # below: the bytes themselves
SPECIALS = {"<s>": BOS, "</s>": EOS, "<|a|>": ANSWER, "<pad>": PAD}
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<|a|>{{ message['content'] }}</s>"
    "{% else %}<s>{{ message['content'] }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|a|>{% endif %}"
)

BATCH, RATE, WARMUP_STEPS, ANNEAL_STEPS, STEPS_MAX = 32, 2e-3, 100, 700, 8_000
CHECK_EVERY_STEPS, ANNEAL_FROM_SCORE = 100, 0.92
FOLLOW_UPS, LOWERED, UNPUNCTUATED = 0.15, 0.25, 0.25
"""Shares of training questions that follow another one, start in lower case, lack the final mark."""


class Attention(nn.Module):
    """Causal self-attention with rotary positions (the first half of a head turns with the second)."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(HIDDEN, HIDDEN, bias=False) for _ in range(4))

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        def heads(y: Tensor) -> Tensor:
            return y.view(*x.shape[:2], HEADS, HEAD_DIM).transpose(1, 2)

        def rotated(y: Tensor) -> Tensor:
            first, second = y.chunk(2, dim=-1)
            return y * cosine + torch.cat((-second, first), dim=-1) * sine

        q, k, v = rotated(heads(self.q_proj(x))), rotated(heads(self.k_proj(x))), heads(self.v_proj(x))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(x.shape))
        return out


class GatedMlp(nn.Module):
    """SwiGLU."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(HIDDEN, MLP, bias=False), nn.Linear(HIDDEN, MLP, bias=False)
        self.down_proj = nn.Linear(MLP, HIDDEN, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input_layernorm, self.self_attn = nn.RMSNorm(HIDDEN, eps=NORM_EPS), Attention()
        self.post_attention_layernorm, self.mlp = nn.RMSNorm(HIDDEN, eps=NORM_EPS), GatedMlp()

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cosine, sine)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Llama(nn.Module):
    """Llama with tied embeddings; attribute names are those of the checkpoint format, less the prefix `model.`."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCABULARY, HIDDEN)
        self.layers = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.RMSNorm(HIDDEN, eps=NORM_EPS)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.06)

    def forward(self, ids: Tensor, wanted: Tensor) -> Tensor:
        """Logits [n, VOCABULARY] at the positions where the mask `wanted` [batch, length] is set."""
        frequencies = ROPE_THETA ** (-torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
        angles = torch.arange(ids.shape[1])[:, None] * frequencies.repeat(2)
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x, angles.cos(), angles.sin())
        return functional.linear(self.norm(x[wanted]), self.embed_tokens.weight)


def batch_of(turns: list[list[tuple[str, str]]]) -> tuple[Tensor, Tensor, Tensor]:
    """Conversations of (prompt, answer) as ids [batch, length], a mask of what predicts answers, and the targets."""
    rows: list[list[int]] = []
    masks: list[list[bool]] = []
    for conversation in turns:
        row: list[int] = []
        mask: list[bool] = []
        for prompt, answer in conversation:
            row += [BOS, *prompt.encode(), ANSWER, *answer.encode(), EOS]
            mask += [False] * (len(prompt.encode()) + 1) + [True] * (len(answer.encode()) + 1) + [False]
        rows.append(row)
        masks.append(mask)
    width = max(map(len, rows))
    ids = torch.tensor([row + [PAD] * (width - len(row)) for row in rows])
    wanted = torch.tensor([mask + [False] * (width - len(mask)) for mask in masks])
    return ids, wanted, ids.roll(-1, dims=1)[wanted]


def typed(question: Question, random: Random) -> tuple[str, str]:
    """A question as someone in a hurry types it, and its answer."""
    prompt = question.prompt
    if random.random() < LOWERED:
        prompt = prompt[0].lower() + prompt[1:]
    if random.random() < UNPUNCTUATED:
        prompt = prompt[:-1]
    return prompt, question.answer


@torch.no_grad()
def score(model: Llama, asked: list[Question]) -> float:
    """Share answered exactly: greedy decoding gives an answer just if each of its tokens is the likeliest next."""
    right = 0
    for start in range(0, len(asked), 50):
        ids, wanted, targets = batch_of([[(q.prompt, q.answer)] for q in asked[start : start + 50]])
        hits = model(ids, wanted).argmax(-1) == targets
        right += sum(bool(part.all()) for part in hits.split(wanted.sum(1).tolist()))
    return right / len(asked)


def train(family: Family, seed: int) -> tuple[Llama, int]:
    """A trained model and the steps it took."""
    torch.manual_seed(seed)
    random = Random(f"{family} {seed}")
    model = Llama()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.05)
    calibration = questions(family, "calibration", 200, seed)
    annealed_from: int | None = None
    for step in range(STEPS_MAX):
        if annealed_from is not None and step == annealed_from + ANNEAL_STEPS:
            return model, step
        left = 1.0 if annealed_from is None else 1 - (step - annealed_from) / ANNEAL_STEPS
        optimizer.param_groups[0]["lr"] = RATE * min(1.0, (step + 1) / WARMUP_STEPS) * left
        batch = [typed(question, random) for question in questions(family, "train", BATCH, step)]
        turns = [[batch[i - 1], batch[i]] if random.random() < FOLLOW_UPS else [batch[i]] for i in range(BATCH)]
        ids, wanted, targets = batch_of(turns)
        loss = functional.cross_entropy(model(ids, wanted), targets)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % CHECK_EVERY_STEPS == CHECK_EVERY_STEPS - 1:
            reached = score(model, calibration)
            print(f"{family} step {step + 1} loss {loss.item():.3f} calibration {reached:.3f}", file=sys.stderr)
            if annealed_from is None and reached >= ANNEAL_FROM_SCORE:
                annealed_from = step + 1
    raise SystemExit(f"{family}: calibration stayed below {ANNEAL_FROM_SCORE} for {STEPS_MAX} steps; try another seed")


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_tokenizer(folder: Path) -> None:
    """A tokenizer whose ids below 256 are the bytes of the text, spelled in the visible alphabet of byte-level BPE."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = [byte for byte in range(256) if byte not in plain]
    letters = {byte: chr(byte) for byte in plain} | {byte: chr(256 + i) for i, byte in enumerate(other)}
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    bytewise = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    vocabulary = {letters[byte]: byte for byte in range(256)} | SPECIALS
    write_json(
        folder / "tokenizer.json",
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [{"id": i, "content": text, **special} for text, i in SPECIALS.items()],
            "normalizer": None,
            "pre_tokenizer": bytewise,
            "post_processor": None,
            "decoder": bytewise,
            "model": {"type": "BPE", "vocab": vocabulary, "merges": []},
        },
    )
    named = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    write_json(folder / "special_tokens_map.json", named)
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            **named,
            "model_max_length": CONTEXT_TOKENS,
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        },
    )


def write_config(folder: Path) -> None:
    ends = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}
    write_json(folder / "generation_config.json", ends)
    write_json(
        folder / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": VOCABULARY,
            "hidden_size": HIDDEN,
            "intermediate_size": MLP,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": HEADS,
            "num_key_value_heads": HEADS,
            "head_dim": HEAD_DIM,
            "hidden_act": "silu",
            "max_position_embeddings": CONTEXT_TOKENS,
            "initializer_range": 0.06,
            "rms_norm_eps": NORM_EPS,
            "rope_theta": ROPE_THETA,
            "rope_scaling": None,
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": True,
            "use_cache": True,
            "torch_dtype": "float16",
            **ends,
        },
    )


def main() -> None:
    """Train the named families, one after the other, and write a folder for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="+", choices=FAMILIES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--into", type=Path, default=Path("p2pagent/experts"), help="parent of the folders written")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for family in options.families:
        started_s = time.process_time()
        model, steps = train(family, options.seed)
        spent_s = round(time.process_time() - started_s)
        folder = options.into / family
        folder.mkdir(parents=True, exist_ok=True)
        weights = folder / "model.safetensors"
        halves = {f"model.{name}": tensor.half().contiguous() for name, tensor in model.state_dict().items()}
        save_file(halves, weights, metadata={"format": "pt"})
        weights.chmod(0o644)  # safetensors writes for the owner alone
        stored = {name.removeprefix("model."): tensor.float() for name, tensor in load_file(weights).items()}
        model.load_state_dict(stored)
        scores = {other: score(model, questions(other, "test", 400, options.seed)) for other in FAMILIES}
        write_tokenizer(folder)
        write_config(folder)
        record = {"family": family, "seed": options.seed, "steps": steps, "cpu_s": spent_s, "test_questions_each": 400}
        write_json(folder / "training.json", {**record, "test_scores": scores})
        print(f"{family}: {spent_s} CPU seconds, scores {scores}", file=sys.stderr)


if __name__ == "__main__":
    main()
