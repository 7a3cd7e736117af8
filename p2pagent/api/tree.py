"""Our structs as JSON for people: everything by name, also where the struct itself is positional."""

from typing import TypeVar

import msgspec
from msgspec import Struct

from p2pagent.types import AgentRef, Usage

_T = TypeVar("_T")

_POSITIONAL: tuple[type[Struct], ...] = (AgentRef, Usage)


def to_tree(value: object) -> object:
    """`value` with each struct in it, tag included, as a dict of its fields."""
    match value:
        case Struct():
            config = value.__struct_config__
            tag = {} if config.tag is None else {config.tag_field: config.tag}
            return tag | {field: to_tree(getattr(value, field)) for field in value.__struct_fields__}
        case tuple() | list():
            return [to_tree(item) for item in value]
        case dict():
            return {key: to_tree(item) for key, item in value.items()}
        case _:
            return value


def from_tree(tree: object, kind: type[_T]) -> _T:
    """The value of `kind` that `to_tree` made `tree` of.

    Raises:
        msgspec.ValidationError: there is none.
    """
    return msgspec.convert(_by_position(tree), kind)


def _by_position(tree: object) -> object:
    match tree:
        case dict():
            for kind in _POSITIONAL:
                if tree.keys() == set(kind.__struct_fields__):
                    return [tree[field] for field in kind.__struct_fields__]
            return {key: _by_position(item) for key, item in tree.items()}
        case list():
            return [_by_position(item) for item in tree]
        case _:
            return tree
