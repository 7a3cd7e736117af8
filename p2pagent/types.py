"""The nouns that every layer shares: identities, requests, usage, prices. Values only."""

from typing import Literal, NewType

from msgspec import Struct

PeerId = NewType("PeerId", str)
"""A libp2p peer id in base58; an ed25519 one holds the public key itself."""

Microcredits = int
"""Money: one credit is 1,000,000 microcredits. Always an integer."""

PrivacyClass = Literal["local", "trusted", "any"]
"""How far a prompt may travel: this device, peers the owner trusts, everyone."""


class AgentRef(Struct, frozen=True, array_like=True, order=True):
    """One agent in the network: the peer that hosts it and its name there."""

    peer: PeerId
    name: str

    @property
    def short(self) -> str:
        """As people are shown it: its name, and the end of its peer's id."""
        return f"{self.name}@…{self.peer[-8:]}"


class ChatMessage(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One turn of a conversation, in the roles of the OpenAI chat format."""

    role: Literal["system", "user", "assistant"]
    content: str


class Sampling(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How an answer is drawn. Integers only, so that a request means the same on every machine."""

    max_tokens: int = 256
    temperature_milli: int = 0
    seed: int = 0


class Usage(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Tokens of one answer. `cached_tokens` are those of the prompt that the engine did not compute again."""

    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
