"""An engine that answers as told."""

from collections.abc import Callable

import trio

from p2pagent.engine.base import Capabilities, Completion, Delta, EngineStatistics, GenerateRequest
from p2pagent.types import ChatMessage, Usage


class ScriptedEngine:
    """Answers as told, in two pieces, and counts how many questions it works on at once."""

    def __init__(self, answer: Callable[[str], str], slots: int = 3) -> None:
        self.answer, self.slots = answer, slots
        self.running = self.most = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()

    async def generate(self, request: GenerateRequest, emit: Callable[[Delta], None]) -> Completion:
        self.running += 1
        self.most = max(self.most, self.running)
        await trio.lowlevel.checkpoint()
        self.running -= 1
        text = self.answer(request.messages[-1].content)
        emit(Delta(text[:1]))
        emit(Delta(text[1:]))
        return Completion(Usage(1, 0, len(text)), "stop")

    async def count_tokens(self, messages: tuple[ChatMessage, ...]) -> int:
        return len(messages)

    def capabilities(self) -> Capabilities:
        return Capabilities("scripted", 4096, self.slots, reports_cached_tokens=False, reports_token_ids=False)

    def statistics(self) -> EngineStatistics:
        return EngineStatistics(ready=True, running=self.running, completed=0, failed=0, restarts=0)
