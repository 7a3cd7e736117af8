"""Tokenisers by digest: the same files count the same, whoever has them."""

import shutil
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import msgspec
import pytest
import trio
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import Whitespace

from p2pagent import experts
from p2pagent.engine.embedded import EmbeddedEngine
from p2pagent.tokeniser import Files, Tokeniser, digest_of, read
from p2pagent.tokenisers import LOADED_MAX, Tokenisers
from p2pagent.types import ChatMessage

SHIPPED = experts.path("add")
HELLO = (ChatMessage("user", "Grüße"),)


def tokeniser(template: str, **specials: str) -> Tokeniser:
    return Tokeniser(Files((SHIPPED / "tokenizer.json").read_bytes(), template, specials))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of a shipped expert, its tokeniser at least."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(SHIPPED / name, tmp_path)
    return tmp_path


def configured(folder: Path, **changes: object) -> Files:
    file = folder / "tokenizer_config.json"
    file.write_bytes(msgspec.json.encode(msgspec.json.decode(file.read_bytes()) | changes))
    return read(folder)


# --- one tokeniser --------------------------------------------------------------------------------------------------


def test_all_shipped_experts_have_one_tokeniser_and_its_digest_is_what_the_protocol_says() -> None:
    config = msgspec.json.decode((SHIPPED / "tokenizer_config.json").read_bytes())
    halves = (SHIPPED / "tokenizer.json").read_bytes(), config["chat_template"].encode()
    digest = sha256(sha256(halves[0]).digest() + sha256(halves[1]).digest()).digest()[:8]
    assert {digest_of(experts.path(name)) for name in experts.names()} == {digest}


def test_another_vocabulary_or_template_is_another_tokeniser(folder: Path) -> None:
    digests = {read(folder).digest, configured(folder, chat_template="{{ messages[0].content }}").digest}
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text + "\n")
    assert len(digests | {read(folder).digest}) == 3


def test_the_template_is_the_one_that_transformers_takes(folder: Path) -> None:
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    assert configured(folder, chat_template=named).template == "plain"
    (folder / "chat_template.jinja").write_text("a file of its own")
    assert read(folder).template == "a file of its own"


@pytest.mark.parametrize("token", ["<s>", {"content": "<s>", "special": True}])
def test_a_template_may_name_special_tokens(folder: Path, token: object) -> None:
    files = configured(folder, bos_token=token, chat_template="{{ bos_token }}{{ messages[0].content }}")
    assert Tokeniser(files).encode(HELLO) == [256, *"Grüße".encode()]


@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        ("{{ messages[0] | tojson }}", '{"role": "user", "content": "Grüße"}'),
        ("{% generation %}{{ messages[0].role }}{% endgeneration %}", "user"),
        ("{% for m in messages %}{% break %}{% endfor %}x", "x"),
        ("  {% if true %}\n  y\n  {% endif %}\n", "  y\n"),
        ("{{ strftime_now('%Y') }}", str(datetime.now(UTC).year)),
        ("{% if add_generation_prompt %}a{% endif %}{% if tools is not none %}b{% endif %}", "a"),
    ],
)
def test_templates_find_what_transformers_gives_them(template: str, prompt: str) -> None:
    assert bytes(tokeniser(template).encode(HELLO)).decode() == prompt


@pytest.mark.parametrize("template", ["{{ raise_exception('no') }}", "{{ 1 / 0 }}", "{{ messages[9].content.x }}"])
def test_a_conversation_that_a_template_does_not_take_is_a_value_error(template: str) -> None:
    with pytest.raises(ValueError, match="takes no such conversation"):
        tokeniser(template).encode(HELLO)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer.json", "{}"),
        ("tokenizer.json", None),
        ("tokenizer_config.json", None),
        ("tokenizer_config.json", "{}"),
        ("tokenizer_config.json", "no JSON"),
        ("tokenizer_config.json", '{"chat_template": "{% for %}"}'),
    ],
)
def test_a_folder_without_a_tokeniser_has_no_digest(folder: Path, name: str, content: str | None) -> None:
    assert digest_of(folder) != b""
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    assert digest_of(folder) == b""


def test_special_tokens_that_an_answer_spells_out_count_as_they_were_spelt() -> None:
    shipped = Tokeniser(read(SHIPPED))
    assert shipped.count_answer("a</s>b<s>") == len("a</s>b<s>")
    assert len(shipped.encode_text("a</s>b<s>")) == 4  # as in a prompt, before and after


# --- those of a device ----------------------------------------------------------------------------------------------


async def test_the_same_files_count_what_the_engine_counts(folder: Path) -> None:
    known = Tokenisers()
    known.add(folder)
    (digest,) = known.known
    turns = (ChatMessage("system", "be short"), ChatMessage("user", "a 🙂"), ChatMessage("assistant", "b"), *HELLO)
    assert await known.count_prompt([digest, bytes(8), digest, b""], turns) == {
        digest: len(Tokeniser(read(experts.path("sort"))).encode(turns))
    }
    assert await known.count_answer(digest, "a 🙂") == len("a 🙂".encode())
    assert await known.count_answer(bytes(8), "a 🙂") is None
    assert digest == digest_of(SHIPPED)


async def test_the_engine_says_by_which_tokeniser_it_counts(nursery: trio.Nursery) -> None:
    engine = EmbeddedEngine(SHIPPED)
    await nursery.start(engine.run)
    known = Tokenisers()
    known.add(SHIPPED)
    digest = engine.capabilities().tokeniser
    assert await known.count_prompt([digest], HELLO) == {digest: await engine.count_tokens(HELLO)}


async def test_files_that_are_gone_or_have_changed_count_nothing(folder: Path) -> None:
    known = Tokenisers()
    known.add(folder)
    (digest,) = known.known
    before = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(before + "\n")
    assert await known.count_answer(digest, "abc") is None
    (folder / "tokenizer.json").unlink()
    assert await known.count_answer(digest, "abc") is None
    (folder / "tokenizer.json").write_text(before)
    assert await known.count_answer(digest, "abc") == 3


async def test_a_prompt_that_one_template_refuses_is_counted_by_the_others(folder: Path) -> None:
    known = Tokenisers()
    known.add(SHIPPED)
    strict = configured(folder, chat_template="{{ raise_exception('no') }}").digest
    known.add(folder)
    assert (await known.count_prompt(list(known.known), HELLO)).keys() == {digest_of(SHIPPED)}
    assert await known.count_answer(strict, "abc") == 3


async def test_a_text_that_a_tokeniser_has_no_tokens_for_is_not_counted(folder: Path) -> None:
    words = Tokenizer(WordPiece({"hello": 0}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    (folder / "tokenizer.json").write_text(words.to_str())
    configured(folder, chat_template="{{ messages[0].content }}")
    known = Tokenisers()
    known.add(folder)
    (digest,) = known.known
    assert await known.count_answer(digest, "hello hello") == 2
    assert await known.count_answer(digest, "hello stranger") is None
    assert await known.count_prompt([digest], HELLO) == {}
    with pytest.raises(ValueError, match="takes no such text"):
        Tokeniser(read(folder)).encode_text("stranger")


async def test_more_than_are_kept_in_memory_still_count(folder: Path) -> None:
    known = Tokenisers()
    for number in range(LOADED_MAX + 2):
        other = folder / str(number)
        other.mkdir()
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(folder / name, other)
        configured(other, chat_template="x" * (number + 1))
        known.add(other)
    for _ in range(2):
        assert sorted((await known.count_prompt(known.known, HELLO)).values()) == [*range(1, LOADED_MAX + 3)]
        assert len(known._loaded) == LOADED_MAX


def test_a_folder_without_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="tokenizer_config"):
        Tokenisers().add(tmp_path)
