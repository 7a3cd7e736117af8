"""Chat templates: how a model's prompt is written from the turns of a conversation, in Jinja.

They find what transformers gives them (5.19, utils/chat_template_utils.py, `_cached_compile_jinja_template`), so that a
prompt is here, byte for byte, what vLLM makes of it.
"""

import datetime
import json
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment


def compiled(text: str) -> Template:
    """The template in `text`. What it cannot write, `render` refuses by a `TemplateError`.

    Raises:
        TemplateError: it does not parse.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, LoopControlExtension]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = _now
    return environment.from_string(text)


class _Generation(Extension):
    """`{% generation %}` marks what a model is trained on; in a prompt it is text like any other."""

    tags = {"generation"}  # noqa: RUF012 - as jinja2 declares it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(value: object, **options: Any) -> str:
    return json.dumps(value, **({"ensure_ascii": False} | options))


def _raise(message: str) -> None:
    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.datetime.now().strftime(form)
