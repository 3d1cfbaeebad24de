"""Typed models as Markdown: a table of their fields, from types, defaults and descriptions."""

from __future__ import annotations

import json
import types
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

_WORDS = {int: "integer", float: "number", str: "text", bool: "true or false", type(None): "null", Any: "anything"}


def model_table(model: type[BaseModel]) -> str:
    """A heading, the first paragraph of the docstring and a table of fields, in Markdown."""
    first = (model.__doc__ or "").split("\n\n")[0].strip()
    rows = [
        f"| `{name}` | {_field_words(field)} | {_cell(field.description)} |"
        for name, field in model.model_fields.items()
    ]
    return "\n".join([f"## {model.__name__}", "", first, "", "| key | type | meaning |", "|---|---|---|", *rows, ""])


def settings_table(
    model: type[BaseModel], prefix: str = "", described: Mapping[str, str] = MappingProxyType({})
) -> str:
    """A table of what can be set, with the defaults as one would type them.

    Args:
        model: its fields, and those of models in it by their path, are the rows.
        prefix: before each key.
        described: what to say of a field that says nothing of itself, by name.
    """
    return "\n".join(
        ["| key | type | default | meaning |", "|---|---|---|---|", *_settings_rows(model, prefix, described)]
    )


def _cell(text: str | None) -> str:
    return (text or "").replace("|", "\\|")


def _settings_rows(model: type[BaseModel], prefix: str, described: Mapping[str, str]) -> list[str]:
    rows = []
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            rows += _settings_rows(field.annotation, f"{prefix}{name}.", described)
            continue
        default = json.dumps(field.get_default(call_default_factory=True), ensure_ascii=False)
        meaning = _cell(field.description or described.get(name))
        rows.append(f"| `{prefix}{name}` | {_field_words(field)} | `{default.strip(chr(34))}` | {meaning} |")
    return rows


def type_words(annotation: Any) -> str:
    """A type in words.

    >>> type_words(dict[str, list[float] | None])
    'mapping of text to (list of number, or null)'
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_words(arguments[0]) + _range_words(arguments[1:])
    if origin is Literal:
        return " or ".join(f"`{value!r}`".replace("'", '"') for value in arguments)
    if origin is list or (origin is tuple and arguments[-1] is Ellipsis):
        return f"list of {_grouped(arguments[0])}"
    if origin is tuple:
        return f"[{', '.join(type_words(argument) for argument in arguments)}]"
    if origin is dict:
        inner = _grouped(arguments[1])
        return "mapping" if arguments[1] is Any else f"mapping of {type_words(arguments[0])} to {inner}"
    if origin in (Union, types.UnionType):
        return ", or ".join(type_words(argument) for argument in arguments)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return f"[{annotation.__name__}](#{annotation.__name__.lower()})"
    return _WORDS.get(annotation, "time")


def _grouped(annotation: Any) -> str:
    words = type_words(annotation)
    return f"({words})" if ", or " in words else words


def _field_words(field: FieldInfo) -> str:
    words, null = type_words(field.annotation), ", or null"
    bounds = _range_words(tuple(field.metadata))
    return words.removesuffix(null) + bounds + (null if words.endswith(null) else "")


def _range_words(constraints: tuple[Any, ...]) -> str:
    flat = [part for c in constraints for part in (c.metadata if isinstance(c, FieldInfo) else [c])]
    low = next((part.ge for part in flat if isinstance(part, Ge)), None)
    high = next((part.le for part in flat if isinstance(part, Le)), None)
    if low is not None and high is not None:
        return f" {low} to {high}"
    above = next((part.gt for part in flat if isinstance(part, Gt)), None)
    below = next((part.lt for part in flat if isinstance(part, Lt)), None)
    bounds = ((">=", low), (">", above), ("<=", high), ("<", below))
    return "".join(f" {sign} {bound}" for sign, bound in bounds if bound is not None)
