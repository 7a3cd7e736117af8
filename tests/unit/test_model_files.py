"""Where a model's files lie, and when they say how a vLLM counts."""

import shutil
from pathlib import Path

import pytest

from p2pagent import experts
from p2pagent.config import Engine
from p2pagent.engine.factory import model_folder
from p2pagent.engine.model_files import located
from p2pagent.engine.vllm import _tokeniser
from p2pagent.tokeniser import digest_of

SHIPPED = experts.path("add")


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the hub's cache has of `some/model`."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "models--some--model"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("c0ffee\n")
    shutil.copytree(SHIPPED, folder / "snapshots" / "c0ffee")
    return folder / "snapshots" / "c0ffee"


def test_a_model_lies_in_its_folder_or_in_the_hubs_cache(snapshot: Path) -> None:
    assert located(str(SHIPPED)) == SHIPPED
    assert located("some/model") == snapshot
    assert located("some/other") is None
    shutil.rmtree(snapshot)
    assert located("some/model") is None


@pytest.mark.parametrize("variable", ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME", "HOME"])
def test_the_cache_is_where_the_hubs_library_has_it(
    snapshot: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    below = {"HOME": ".cache/huggingface/hub", "XDG_CACHE_HOME": "huggingface/hub"}.get(variable, "")
    moved = tmp_path / "moved" / below
    moved.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "hub").rename(moved)
    assert located("some/model") is None
    monkeypatch.delenv("HF_HOME")
    monkeypatch.setenv(variable, str(tmp_path / "moved"))
    assert located("some/model") == moved / snapshot.relative_to(tmp_path / "hub")


@pytest.mark.parametrize(
    ("engine", "folder"),
    [
        (Engine(model="add"), SHIPPED),
        (Engine(kind="vllm", model="add"), SHIPPED),
        (Engine(kind="vllm", model=str(SHIPPED)), SHIPPED),
        (Engine(kind="openai", model=str(SHIPPED)), None),
        (Engine(kind="vllm", model="no/where"), None),
    ],
)
def test_an_agents_model_is_looked_for_where_its_engine_does(engine: Engine, folder: Path | None) -> None:
    assert model_folder(engine) == folder


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ((), True),
        (("--max-model-len", "2048"), True),
        (("--tokenizer", "other"), False),
        (("--chat-template=other.jinja",), False),
        (("--reasoning_parser", "qwen3"), False),
        (("--revision", "v2"), False),
    ],
)
def test_a_tokeniser_is_named_where_the_models_files_say_how_vllm_counts(args: tuple[str, ...], named: bool) -> None:
    assert _tokeniser(str(SHIPPED), args) == (digest_of(SHIPPED) if named else b"")


def test_a_model_whose_thoughts_are_not_shown_names_none(tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(SHIPPED / name, tmp_path)
    assert _tokeniser(str(tmp_path), ()) == digest_of(SHIPPED)
    (tmp_path / "config.json").write_text('{"model_type": "gpt_oss"}')
    assert _tokeniser(str(tmp_path), ()) == b""


def test_a_model_without_a_tokeniser_names_none(tmp_path: Path) -> None:
    assert _tokeniser(str(tmp_path), ()) == _tokeniser("no/where", ()) == b""
