"""The crowd's trace: who talks how much, and what it says of prompts against the texts."""

from collections import Counter
from itertools import pairwise
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from p2pagent.sim.conversations import Shape
from p2pagent.sim.crowds import QUESTION, Crowd, draw_crowd, prompt, topics
from p2pagent.sim.engine_blocks import BLOCK_TOKENS, names
from p2pagent.sim.prefixes import tokens_of

CROWDS = st.builds(
    lambda owners, more, skew, per_document: Crowd(owners, owners + more, skew, per_document),
    st.integers(1, 8),
    st.integers(0, 60),
    st.sampled_from((0.0, 0.8, 1.5)),
    st.integers(1, 6),
)


@given(CROWDS)
def test_every_owner_has_conversations_the_first_most_and_documents_of_its_own(crowd: Crowd) -> None:
    found = topics(crowd)
    shares = Counter(topic.owner for topic in found)
    assert len(found) == crowd.conversations
    assert set(shares) == set(range(crowd.owners))
    counts = [shares[owner] for owner in range(crowd.owners)]
    assert all(later <= before + 1 for before, later in pairwise(counts))  # rounded
    assert len({(topic.owner, topic.document) for topic in found}) == len({topic.document for topic in found})


def test_few_owners_have_most_conversations() -> None:
    shares = Counter(topic.owner for topic in topics(Crowd(10, 400, skew=0.8)))
    assert shares[0] > 4 * shares[9]
    even = Counter(topic.owner for topic in topics(Crowd(10, 400, skew=0.0)))
    assert max(even.values()) - min(even.values()) <= 1


@given(CROWDS, st.integers(0, 9))
@settings(max_examples=20, deadline=None)
def test_prompts_are_as_long_as_the_trace_says_and_have_its_blocks_in_common(crowd: Crowd, seed: int) -> None:
    turns = draw_crowd(crowd, BLOCK_TOKENS, Random(seed))
    found = topics(crowd)
    assert [(turn.conversation, turn.number) for turn in turns] == [
        (conversation, number) for conversation in range(crowd.conversations) for number in range(crowd.each.turns)
    ]
    named: dict[tuple[int, int], int] = {}
    for turn in Random(seed).sample(turns, min(40, len(turns))):
        said = prompt(crowd, found[turn.conversation], turn.conversation, turn.number)
        assert turn.domain == found[turn.conversation].owner
        assert sum(tokens_of(one.content) for one in said) == turn.prompt_tokens
        assert said[-1].content.startswith(QUESTION)
        assert [one.role for one in said[1:]] == (["user", "assistant"] * crowd.each.turns)[: len(said) - 1]
        blocks = names(str(turn.domain), tuple(one.content for one in said))
        assert len(blocks) == len(turn.chain)
        for block, text in zip(turn.chain, blocks, strict=True):
            assert named.setdefault((turn.domain, block), text) == text
    assert len(set(named.values())) == len(named)


def test_a_turn_goes_on_from_the_prompt_before() -> None:
    crowd = Crowd(1, 2, each=Shape(turns=4))
    (topic, _) = topics(crowd)
    shorter, longer = (prompt(crowd, topic, 0, number) for number in (2, 3))
    assert longer[: len(shorter)] == shorter
    assert len(longer) == len(shorter) + 2
