"""The figures of a simulated run, drawn with matplotlib (extra `plots`)."""

from importlib.util import find_spec
from pathlib import Path

from p2pagent.sim.results import Results, Samples


def can_plot() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def draw(results: Results, samples: Samples, file: Path) -> None:
    """Draw answers, waits, traffic and what is known of deaths into `file`, whose suffix says as what."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    waits, shares, traffic, deaths = figure.subplots(2, 2).flat
    figure.suptitle(f"simulated: {results.scenario}, {results.peers} peers, seed {results.seed}")

    waits.scatter([ms / 60_000 for ms in samples.asked_ms], [ms / 1000 for ms in samples.latency_ms], s=4)
    waits.set(xlabel="asked at, minutes", ylabel="whole answer after, s", title="latency")
    waits.set_yscale("log")

    named = {
        "own agent": results.accuracy_local,
        "network": results.accuracy,
        "seeing all": results.accuracy_informed,
        "best claim": results.accuracy_claimed,
        "best skill": results.accuracy_oracle,
    }
    known = {name: share for name, share in named.items() if share is not None}
    shares.bar(list(known), list(known.values()))
    shares.set(ylim=(0, 1), title="share of right answers")

    traffic.hist(samples.gossip_bytes_per_s, bins=30)
    traffic.set(xlabel="gossip of one peer, in and out, bytes/s", ylabel="peers", title="traffic")

    for label, times_ms in (("suspected", samples.suspected_ms), ("declared gone", samples.known_ms)):
        if times_ms:
            deaths.ecdf([ms / 1000 for ms in times_ms], label=label)
            deaths.legend()
    deaths.set(xlabel="s after a death, until 99 % of its cell know", ylabel="share of deaths", title="deaths")

    figure.savefig(file, dpi=120)
