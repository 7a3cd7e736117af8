"""A model's tokeniser: what its folder holds for vLLM, `tokenizer.json` and a chat template, under a digest.

Two devices with the same files count the same tokens, and know by the digest that they have the same.
"""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import msgspec
from jinja2 import TemplateError
from msgspec import Struct
from tokenizers import Tokenizer

from p2pagent.chat_templates import compiled
from p2pagent.types import ChatMessage

DIGEST_BYTES = 8


class Files(Struct, frozen=True):
    """What makes a tokeniser: its `tokenizer.json`, its chat template, and the special tokens that this may name."""

    tokenizer: bytes
    template: str
    specials: Mapping[str, str]

    @property
    def digest(self) -> bytes:
        """Its name: the first 8 bytes of the SHA-256 over the SHA-256 of the tokeniser and that of the template."""
        parts = self.tokenizer, self.template.encode()
        return sha256(b"".join(sha256(part).digest() for part in parts)).digest()[:DIGEST_BYTES]


class _Named(Struct):
    name: str
    template: str


class _Special(Struct):
    content: str


class _Config(Struct):
    chat_template: str | list[_Named] | None = None
    bos_token: str | _Special | None = None
    eos_token: str | _Special | None = None
    pad_token: str | _Special | None = None
    unk_token: str | _Special | None = None


def read(folder: Path) -> Files:
    """The tokeniser of a model folder.

    The chat template is the one that transformers takes: in `chat_template.jinja`, else in `tokenizer_config.json`, and
    of several there the default (https://huggingface.co/docs/transformers/chat_templating_writing).

    Raises:
        OSError: a file cannot be read.
        ValueError: one does not parse, or there is no chat template.
    """
    try:
        config = msgspec.json.decode((folder / "tokenizer_config.json").read_bytes(), type=_Config)
    except msgspec.MsgspecError as error:
        raise ValueError(f"tokenizer_config.json does not parse: {error}") from error
    alone, several = folder / "chat_template.jinja", config.chat_template
    if alone.is_file():
        template = alone.read_text("utf-8")
    elif isinstance(several, str):
        template = several
    else:
        template = {each.name: each.template for each in several or ()}.get("default", "")
    if not template:
        raise ValueError("there is no chat template")
    told = {name: getattr(config, name) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
    texts = {name: token.content if isinstance(token, _Special) else token for name, token in told.items()}
    specials = {name: text for name, text in texts.items() if text is not None}
    return Files((folder / "tokenizer.json").read_bytes(), template, specials)


def digest_of(folder: Path) -> bytes:
    """The digest of the tokeniser of a model folder; empty where there is none that can be used."""
    try:
        return Tokeniser(read(folder)).digest
    except (OSError, ValueError):
        return b""


class Tokeniser:
    """One tokeniser at work, not to be used by two threads at a time.

    Raises:
        ValueError: tokeniser or template do not parse.
    """

    def __init__(self, files: Files) -> None:
        self.digest = files.digest
        self._specials = files.specials
        try:
            self._template = compiled(files.template)
        except TemplateError as error:
            raise ValueError(f"the chat template does not parse: {error}") from error
        try:
            self._tokenizer = Tokenizer.from_str(files.tokenizer.decode())
        except Exception as error:  # tokenizers raises nothing more exact
            raise ValueError(f"tokenizer.json does not parse: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def encode(self, turns: tuple[ChatMessage, ...]) -> list[int]:
        """The tokens of the prompt that `turns` become, up to where the answer begins.

        Raises:
            ValueError: template or tokeniser take no such conversation.
        """
        told = {"messages": [msgspec.structs.asdict(turn) for turn in turns], "tools": None, "documents": None}
        try:
            prompt = self._template.render(add_generation_prompt=True, **told, **self._specials)
        except (TemplateError, TypeError, ArithmeticError, LookupError) as error:
            raise ValueError(f"the chat template takes no such conversation: {error}") from error
        return self.encode_text(prompt)

    def encode_text(self, text: str) -> list[int]:
        """The tokens of a text; one that is spelt like a special token is that token.

        Raises:
            ValueError: it has no tokens for this text.
        """
        try:
            ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        except Exception as error:  # tokenizers raises nothing more exact
            raise ValueError(f"the tokeniser takes no such text: {error}") from error
        return ids

    def count_answer(self, text: str) -> int:
        """The tokens of an answer. What reads like a special token was spelt out: real ones are not shown.

        Raises:
            ValueError: it has no tokens for this text.
        """
        self._tokenizer.encode_special_tokens = True
        try:
            return len(self.encode_text(text))
        finally:
            self._tokenizer.encode_special_tokens = False
