"""The questions of a testnet run, who was asked what, and how well it went. Pure."""

from math import ceil
from random import Random

from msgspec import Struct

from p2pagent.experts.families import FAMILIES, Family, Question, check, questions
from p2pagent.ledger import AuditReport
from p2pagent.peer.updates import Answered
from p2pagent.types import AgentRef


class Task(Struct, frozen=True):
    """One question, the node whose user asks it, and the node that hosts the right expert."""

    question: Question
    asked_at: int
    expert_at: int


class Outcome(Struct, frozen=True):
    """One task done: the network's answer, the asking node's own, and the right expert's."""

    task: Task
    network: Answered | None
    local: Answered | None
    oracle: Answered | None


QUESTIONS_MEANINGFUL = 100


class Target(Struct, frozen=True):
    """A figure that a run is held to: what it should be, what it was."""

    name: str
    target: str
    measured: float
    met: bool


class Tally(Struct):
    """What churn did: daemons killed, and questions put again because their own device went down with them."""

    kills: int = 0
    asked_again: int = 0


class Report(Struct, frozen=True):
    """The figures of one run. Shares are of all questions; latencies are of the network's answers, end to end."""

    engine: str
    nodes: int
    questions: int
    seed: int
    answered: int
    accuracy_local: float
    accuracy_network: float
    accuracy_oracle: float
    delegated: int
    delegated_share: float
    restarts: int
    kills: int
    asked_again: int
    receipts: int
    signatures_bad: int
    receipts_one_sided: int
    balance_sum_microcredits: int
    latency_ms_p50: float
    latency_ms_p99: float
    startup_s: float
    asking_s: float
    targets: tuple[Target, ...] = ()


def family_of(node: int) -> Family:
    """The family whose expert a node hosts."""
    return FAMILIES[node % len(FAMILIES)]


def draw(nodes: int, count: int, seed: int) -> list[Task]:
    """`count` held-out questions, as even over the families that the nodes host as can be, at random nodes."""
    hosted = [family_of(node) for node in range(min(nodes, len(FAMILIES)))]
    random = Random(f"testnet {seed}")
    share = -(-count // len(hosted))
    drawn = [q for family in hosted for q in questions(family, "test", share, seed)]
    random.shuffle(drawn)
    return [Task(q, random.randrange(nodes), hosted.index(q.family)) for q in drawn[:count]]


def right(task: Task, answered: Answered | None) -> bool:
    """Whether a task was answered rightly."""
    return answered is not None and check(task.question, answered.text)


def earned(outcomes: list[Outcome]) -> dict[AgentRef, tuple[int, int, int]]:
    """Per agent that answered for the network: its answers, the right ones of them, and their price in microcredits."""
    table: dict[AgentRef, tuple[int, int, int]] = {}
    for outcome in outcomes:
        if outcome.network is not None:
            answers, good, price = table.get(outcome.network.agent, (0, 0, 0))
            good += right(outcome.task, outcome.network)
            table[outcome.network.agent] = (answers + 1, good, price + outcome.network.price_microcredits)
    return table


def report(
    outcomes: list[Outcome],
    audit: AuditReport,
    latencies_ms: list[float],
    *,
    engine: str,
    nodes: int,
    seed: int,
    startup_s: float,
    asking_s: float,
    churn: Tally,
) -> Report:
    """All figures of a run."""
    count = len(outcomes)
    given = [o.network for o in outcomes if o.network is not None]
    delegated = sum(a.delegated for a in given)
    return Report(
        engine=engine,
        nodes=nodes,
        questions=count,
        seed=seed,
        answered=len(given),
        accuracy_local=sum(right(o.task, o.local) for o in outcomes) / count,
        accuracy_network=sum(right(o.task, o.network) for o in outcomes) / count,
        accuracy_oracle=sum(right(o.task, o.oracle) for o in outcomes) / count,
        delegated=delegated,
        delegated_share=delegated / count,
        restarts=sum(a.restarts for a in given),
        kills=churn.kills,
        asked_again=churn.asked_again,
        receipts=audit.receipts,
        signatures_bad=len(audit.bad_signatures),
        receipts_one_sided=len(audit.one_sided),
        balance_sum_microcredits=audit.residue_microcredits,
        latency_ms_p50=percentile(latencies_ms, 50),
        latency_ms_p99=percentile(latencies_ms, 99),
        startup_s=round(startup_s, 1),
        asking_s=round(asking_s, 1),
    )


def targets(report: Report) -> tuple[Target, ...]:
    """What a testnet run is held to: by its accuracy only if there are questions enough for that to mean something."""
    behind = report.accuracy_oracle - report.accuracy_network
    unsound = report.signatures_bad + report.receipts_one_sided
    # Under churn a receipt stays whose answer was lost with its device, and a family's only expert may be down.
    wanted = f"{'>= ' if report.kills else ''}{report.delegated}, one per delegation"
    enough = report.receipts >= report.delegated if report.kills else report.receipts == report.delegated
    accuracy = (
        Target("accuracy_network", ">= 0.93", report.accuracy_network, report.accuracy_network >= 0.93),
        Target("accuracy_oracle - accuracy_network", "<= 0.02", behind, behind <= 0.02),
    )
    return (
        Target("answered", f"{report.questions}", report.answered, report.answered == report.questions),
        *(accuracy if report.questions >= QUESTIONS_MEANINGFUL and not report.kills else ()),
        Target("receipts", wanted, report.receipts, enough),
        Target("bad signatures + one-sided receipts", "0", unsound, unsound == 0),
        Target("balance_sum_microcredits", "0", report.balance_sum_microcredits, report.balance_sum_microcredits == 0),
    )


def percentile(values: list[float], percent: float) -> float:
    """The smallest value that at least `percent` of all do not exceed; 0 of none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return round(ordered[max(0, ceil(len(ordered) * percent / 100) - 1)], 1)
