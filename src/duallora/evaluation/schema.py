"""The page docs/results.md, written from the descriptions of the models' fields."""

from __future__ import annotations

import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel
from pydantic.fields import FieldInfo

INTRODUCTION = """\
# results.json

One file per run: one method on one stream with one seed. Every table and plot is derived from such files. The
matrices are measured, the metrics are computed from them ([formulas](metrics.md)) and checked against them whenever the
file is read; an unknown key or a figure that does not follow is an error. Accuracies are shares from 0 to 1.

```python
from duallora.evaluation.results import RunResults

results = RunResults.load("runs/demo/duallora/results.json")
print(results.a_last, results.forgetting)
```

This page is written by `python -m duallora.evaluation.results > docs/results.md`.
"""

_WORDS = {int: "integer", float: "number", str: "text", bool: "true or false", type(None): "null", Any: "anything"}


def results_page() -> str:
    """docs/results.md as it should be now."""
    from duallora.answers import SkippedImage
    from duallora.evaluation.results import BackboneRecord, MachineRecord, RunResults, TaskRecord

    models = (RunResults, TaskRecord, BackboneRecord, MachineRecord, SkippedImage)
    return "\n".join([INTRODUCTION, *(model_table(m) for m in models)])


def model_table(model: type[BaseModel]) -> str:
    """A heading, the first paragraph of the docstring and a table of fields, in Markdown."""
    first = (model.__doc__ or "").split("\n\n")[0].strip()
    rows = [f"| `{name}` | {_field_words(field)} | {field.description} |" for name, field in model.model_fields.items()]
    return "\n".join([f"## {model.__name__}", "", first, "", "| key | type | meaning |", "|---|---|---|", *rows, ""])


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
    if origin is list:
        return f"list of {_grouped(arguments[0])}"
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
    return type_words(field.annotation) + _range_words(tuple(field.metadata))


def _range_words(constraints: tuple[Any, ...]) -> str:
    flat = [part for c in constraints for part in (c.metadata if isinstance(c, FieldInfo) else [c])]
    low = next((part.ge for part in flat if isinstance(part, Ge)), None)
    high = next((part.le for part in flat if isinstance(part, Le)), None)
    above = next((part.gt for part in flat if isinstance(part, Gt)), None)
    if low is not None and high is not None:
        return f" {low} to {high}"
    if low is not None:
        return f" >= {low}"
    return f" > {above}" if above is not None else ""
