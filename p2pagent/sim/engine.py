"""A simulated engine: how long an answer takes, and which answer. Shared by both drivers in tests of sameness."""

from collections.abc import Callable

from msgspec import Struct

from p2pagent.types import ChatMessage, Usage


class EngineModel(Struct, frozen=True):
    """Prefill and decode at constant speed; `answer` says what the model answers."""

    answer: Callable[[str], str]
    prefill_ms_per_token: int = 1
    decode_ms_per_token: int = 5

    def pieces(self, turns: tuple[ChatMessage, ...], max_tokens: int) -> tuple[list[tuple[int, str]], Usage]:
        """The pieces of an answer, each with the ms after the start at which it is decoded, and the usage in all.

        A token is a character, as for the shipped experts.
        """
        prompt_tokens = sum(len(turn.content) for turn in turns)
        answer = self.answer(turns[-1].content)[:max_tokens]
        first_ms = self.prefill_ms_per_token * prompt_tokens
        pieces = [(first_ms + self.decode_ms_per_token * (i + 1), text) for i, text in enumerate(answer)]
        return pieces, Usage(prompt_tokens, 0, len(answer))
