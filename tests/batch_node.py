"""A scripted node that is asked many questions at once: what it says to each, and in which order."""

from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager

import trio

from p2pagent.api.node import Question
from p2pagent.errors import Exit, LocalError
from p2pagent.peer.events import Policy
from p2pagent.peer.updates import Update
from p2pagent.types import ChatMessage, Sampling
from tests.scripted_node import ScriptedNode


class BatchNode(ScriptedNode):
    """Says `scripts[question]`, or `script` where there is none; those in `silent` get no last word.

    A question in `after` gets its script only once the question that it names there was told in full.
    """

    def __init__(self) -> None:
        super().__init__()
        self.scripts: dict[str, tuple[Update, ...]] = {}
        self.silent: set[str] = set()
        self.after: dict[str, str] = {}
        self.batches: list[tuple[str, ...]] = []

    @asynccontextmanager
    async def ask_all(
        self, questions: Sequence[Question], sampling: Sampling, policy: Policy
    ) -> AsyncIterator[tuple[trio.MemoryReceiveChannel[Update], ...]]:
        texts = [question.text for question in questions]
        if any(len(text) > 10_000 for text in texts):
            raise LocalError("question 2: the question is longer than any context", "shorten it", Exit.TOO_LONG)
        self.batches.append(tuple(texts))
        self.asked += [((ChatMessage("user", text),), sampling, policy) for text in texts]
        self.expected += [question.expect for question in questions]
        told = {text: trio.Event() for text in texts}

        async def tell(question: str, send: trio.MemorySendChannel[Update]) -> None:
            if question in self.after:
                await told[self.after[question]].wait()
            for update in self.scripts.get(question, self.script):
                await send.send(update)
            told[question].set()
            if question not in self.silent:
                send.close()

        try:
            with ExitStack() as stack:
                async with trio.open_nursery() as nursery:
                    channels = []
                    for question in texts:
                        send, receive = trio.open_memory_channel[Update](0)
                        stack.enter_context(send)
                        channels.append(stack.enter_context(receive))
                        nursery.start_soon(tell, question, send)
                    yield tuple(channels)
                    nursery.cancel_scope.cancel()
        finally:
            self.left.set()
