"""`p2pagent` with an embedded engine that counts half as many output tokens again, and eight.

Its receipts are signed, well-formed, within the quoted cap, and wrong.
"""

from collections.abc import Callable

from msgspec import structs

from p2pagent.cli import main
from p2pagent.engine.base import Completion, Delta, GenerateRequest
from p2pagent.engine.embedded import EmbeddedEngine
from p2pagent.sim.liars import PADDING_TOKENS

honestly = EmbeddedEngine.generate


async def generate(engine: EmbeddedEngine, request: GenerateRequest, emit: Callable[[Delta], None]) -> Completion:
    done = await honestly(engine, request, emit)
    output = done.usage.output_tokens
    padded = structs.replace(done.usage, output_tokens=output + output // 2 + PADDING_TOKENS)
    return structs.replace(done, usage=padded)


EmbeddedEngine.generate = generate  # type: ignore[method-assign]
main()
