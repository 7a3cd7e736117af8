"""What real models answered, read from a folder of JSON files, and the questions' embeddings."""

import re
from pathlib import Path

import msgspec
import numpy as np
import typer
from msgspec import Struct
from numpy.typing import NDArray

from p2pagent.errors import LocalError
from p2pagent.routing.prototypes import Vector
from p2pagent.routing.space import EMBEDDERS
from scripts.benches.run import Run

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]

NEEDED = {
    "gsm8k": ("gsm8k-train.json", "gsm8k-test.json"),
    "mmlu": ("mmlu_train.json", "mmlu_test.json"),
    "arc_challenge": ("arc_challenge_train.json", "arc_challenge_test.json"),
}
"""By data set its training and its test split, of the RouterDC research data (arXiv 2409.19886)."""

SHARES_MAX = 32
"""With no more different scores than this in a data set, a score is the share of samples that were right."""

READINGS = ("accuracy", "mean_score")
"""What a score is taken to say.

`accuracy` is RouterDC's own rule: where a score is the share of samples that a model answered right it counts as it is;
in multiple choice a score is the model's confidence in the right choice where it made that choice and 0 elsewhere, and
any above 0 is right. `mean_score` takes every score as it is.
"""


class Item(Struct, frozen=True):
    """One question, and each model's score on it."""

    question: str
    scores: dict[str, float]


class Sample(Struct, frozen=True):
    """Questions with all models' outcomes.

    Attributes:
        texts: the questions.
        vectors: their embeddings, unit rows, shape (n, dimensions).
        outcomes: what choosing each model brings, by reading, each of shape (n, models).
        sets: the data set of each question, shape (n,).
    """

    texts: list[str]
    vectors: Vector
    outcomes: dict[str, Floats]
    sets: Labels

    def take(self, rows: Labels | NDArray[np.bool_]) -> "Sample":
        """Some of the questions."""
        places = np.arange(len(self.texts))[rows]
        return Sample(
            [self.texts[place] for place in places],
            self.vectors[places],
            {reading: values[places] for reading, values in self.outcomes.items()},
            self.sets[places],
        )

    def __len__(self) -> int:
        return len(self.texts)


class Data(Struct, frozen=True):
    """All questions of a folder, without vectors: by data set the training and the test split."""

    models: list[str]
    splits: dict[str, tuple[list[Item], list[Item]]]

    def sample(self, split: int, vectors: dict[str, Vector]) -> Sample:
        """Split 0, training, or 1, test, with the vectors of each text."""
        parts = [items[split] for items in self.splits.values()]
        texts = [item.question for items in parts for item in items]
        outcomes = {
            reading: np.concatenate([read(self._scores(items), reading) for items in parts]) for reading in READINGS
        }
        sets = np.repeat(np.arange(len(parts)), [len(items) for items in parts])
        return Sample(texts, np.stack([vectors[text] for text in texts]), outcomes, sets)

    def _scores(self, items: list[Item]) -> Floats:
        return np.array([[item.scores[model] for model in self.models] for item in items])

    @property
    def names(self) -> list[str]:
        return list(self.splits)


def load(folder: Path, run: Run) -> Data:
    """The folder's data sets, cut to a part for a quick run.

    Raises:
        typer.BadParameter: a file lacks, or is not what it should be.
    """
    lacking = [name for pair in NEEDED.values() for name in pair if not (folder / name).is_file()]
    if not folder.is_dir():
        raise typer.BadParameter(f"{folder} is no folder; it must hold {', '.join(lacking)}")
    if lacking:
        raise typer.BadParameter(f"{folder} lacks {', '.join(lacking)}")
    splits = {
        name: (cut(read_items(folder / train), 100, run), cut(read_items(folder / test), 60, run))
        for name, (train, test) in pairs(folder).items()
    }
    models = sorted(next(iter(splits.values()))[0][0].scores)
    for name, items in splits.items():
        if any(sorted(item.scores) != models for split in items for item in split):
            raise typer.BadParameter(f"{folder}: the models of {name} are not those of the other data sets")
    return Data(models, splits)


def pairs(folder: Path) -> dict[str, tuple[str, str]]:
    """The data sets that the targets are about, and whatever else has both splits here."""
    found = dict(NEEDED)
    known = {name for pair in NEEDED.values() for name in pair}
    for train in sorted(folder.glob("*train*.json")):
        test = folder / train.name.replace("train", "test")
        if train.name not in known and test.is_file():
            found[re.sub(r"[-_]?train", "", train.stem)] = (train.name, test.name)
    return found


def read_items(file: Path) -> list[Item]:
    try:
        items = msgspec.json.decode(file.read_bytes(), type=list[Item])
    except msgspec.DecodeError as error:
        raise typer.BadParameter(f"{file} is no list of questions and scores: {error}") from error
    if not items:
        raise typer.BadParameter(f"{file} holds no question")
    return items


def cut(items: list[Item], most: int, run: Run) -> list[Item]:
    """All of them, or for a quick run at most so many, drawn at random."""
    if not run.quick or len(items) <= most:
        return items
    return [items[place] for place in sorted(run.rng("cut").choice(len(items), most, replace=False))]


def read(scores: Floats, reading: str) -> Floats:
    """A data set's scores as `reading` says."""
    if reading == "mean_score" or len(np.unique(scores)) <= SHARES_MAX:
        return scores
    return (scores > 0).astype(np.float64)


def embedded(kind: str, data: Data) -> dict[str, Vector]:
    """By text its vector.

    Raises:
        LocalError: the embedder is not installed.
    """
    texts = sorted({item.question for splits in data.splits.values() for items in splits for item in items})
    return dict(zip(texts, EMBEDDERS[kind]().embed(texts), strict=True))


def vectors_of(data: Data) -> dict[str, dict[str, Vector] | str]:
    """By embedder the vectors, or what lacks."""
    found: dict[str, dict[str, Vector] | str] = {}
    for kind in EMBEDDERS:
        try:
            found[kind] = embedded(kind, data)
        except LocalError as error:
            found[kind] = f"{error}; {error.hint}"
    return found
