"""The bench of quality of service without an engine: its targets, the traces it keeps, its account in the README."""

import json

import msgspec
import pytest

from scripts.benches import qos, qos_readme
from scripts.benches.intervals import Interval
from scripts.benches.qos_replay import MEANT, TARGETS, Trace, Window
from scripts.benches.run import Run
from tests.qos_streams import stream


def seen(against: float = 0.7, coverage: float = 0.9) -> Window:
    return Window(1.0, Interval(coverage, 0.85, 0.95, 10), Interval(against, 0.6, 0.8, 10))


def found(**changed: Window) -> dict[str, dict[str, Window]]:
    """All figures as they should be, but `changed` when warm."""
    windows = ("cold", "warm", "drift", "after")
    return {
        figure: {window: changed.get(figure, seen()) if window == "warm" else seen() for window in windows}
        for figure in TARGETS
    }


def missed(ours: dict[str, dict[str, Window]]) -> set[str]:
    return {target.name for target in qos.targets(ours, measured=True) if not target.met}


def test_every_figure_is_held_to_the_trees_in_every_window_and_its_bands_are() -> None:
    assert not missed(found())
    assert len(qos.targets(found(), measured=True)) == 3 * (len(TARGETS) + 1) + 3 * len(TARGETS)
    for figure in TARGETS:
        assert missed(found(**{figure: seen(against=0.95)})) == {f"{figure} error over the tree's, warm"}
        for coverage in (0.86, 0.94):
            assert missed(found(**{figure: seen(coverage=coverage)})) == {f"{figure} band coverage, warm"}


def test_the_mean_is_of_the_four_that_are_not_made_of_others() -> None:
    mean = "mean of 4 figures' errors over the tree's, warm"
    assert mean in missed(found(**dict.fromkeys(MEANT, seen(against=0.91))))
    assert mean not in missed(found(total_us=seen(against=9.0)))


def test_a_short_trace_is_held_to_nothing() -> None:
    assert {target.met for target in qos.targets(found(ttft_us=seen(against=9.0)), measured=False)} == {None}


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Trace]:
    """What was recorded: synthetic traces in place of an engine's."""
    made: list[Trace] = []

    async def record(rng: object, python: object, count: int, onset: int, advance: object) -> Trace:
        made.append(stream(len(made), 160, onset=100))
        return made[-1]

    named = "physical", "knowing how lengths are drawn", "Hoeffding tree"
    few = {name: make for name, make in qos.CONTENDERS.items() if name in named}
    monkeypatch.setattr(qos, "CONTENDERS", few)
    monkeypatch.setattr(qos, "record", record)
    monkeypatch.setattr(qos, "TRACES", 2)
    monkeypatch.setattr(qos, "ANSWERS", 160)
    return made


def test_traces_that_are_kept_are_replayed_in_place_of_new_ones(recorded, tmp_path) -> None:
    first = qos.bench(Run(), tmp_path, tmp_path)
    kept = sorted(tmp_path.iterdir())
    assert [msgspec.msgpack.decode(file.read_bytes(), type=Trace) for file in kept] == recorded
    again = qos.bench(Run(), tmp_path, tmp_path)
    assert len(recorded) == 2
    assert again.figures == first.figures
    kept[1].unlink()
    qos.bench(Run(), tmp_path, tmp_path)
    assert len(recorded) == 3
    qos.bench(Run(seed=1), tmp_path, tmp_path)
    assert len(recorded) == 5


def test_the_readme_tells_misses_and_every_predictor(recorded, tmp_path) -> None:
    report = qos.bench(Run(), tmp_path)
    ours = found(cost_microcredits=seen(against=0.95))
    targets = qos.targets(ours, measured=True)
    told = qos_readme.tables(json.loads(msgspec.json.encode({**report.figures, "targets": targets})))
    assert "32 of 33 targets are met; these are not:" in told
    assert told.count(", missed |") == 1
    assert "| cost_microcredits error over the tree's, warm | <= 0.9 | 0.950, missed |" in told
    assert "nobody can err less: " in told
    for predictor in qos.CONTENDERS:
        assert f"| {predictor} |" in told
