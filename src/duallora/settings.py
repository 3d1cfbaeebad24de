"""Checking of closed, typed settings, with messages that say what to type."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from duallora.errors import DualLoRAError

Model = TypeVar("Model", bound=BaseModel)


def validated(model: type[Model], values: Mapping[str, Any] | BaseModel, where: str) -> Model:
    """Build a closed settings model, or say which key or value is wrong and which is nearest.

    Args:
        model: a pydantic model that forbids extra keys.
        values: its fields; an instance of it is passed through.
        where: what the settings are of, for the message.

    Raises:
        DualLoRAError: an unknown key (with the nearest known one), a value that does not fit (with what was
            expected) or a key that must be there and is not.
    """
    if isinstance(values, model):
        return values
    if isinstance(values, BaseModel):
        raise DualLoRAError(f"{where}: got settings of {type(values).__name__}, expected {model.__name__}")
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        told: dict[tuple[str, ...], list[Any]] = {}
        for e in error.errors():
            path = [str(p) for p in e["loc"]]
            field = _field(model, path)
            kinds = len(path) > len(field) and isinstance(e["loc"][len(field)], str)  # else a place in a list
            told.setdefault(field if kinds else tuple(path), []).append(e)
        lacking = [path for path, errors in told.items() if [e["type"] for e in errors] == ["missing"]]
        said = [_told(errors, model, where) for path, errors in told.items() if path not in lacking]
        if lacking:  # last: where a key is misspelt, that is what to mend
            said.append(_lacks(lacking, model, where))
        raise DualLoRAError("; ".join(said)) from error


def _field(model: type[BaseModel], path: list[str]) -> tuple[str, ...]:
    """The part of a place that names a field: behind it stand positions in lists and the kinds that a value may be."""
    for end in range(1, len(path) + 1):
        if path[end - 1] not in _fields_at(model, path[: end - 1]):
            return tuple(path) if end == 1 else tuple(path[: end - 1])
        if _fields_at(model, path[:end]) == _fields_at(model, path[: end - 1]):  # no settings of its own
            return tuple(path[:end])
    return tuple(path)


def _told(errors: list[Any], model: type[BaseModel], where: str) -> str:
    """What pydantic has to say of a field in our words: one error for each kind of value that would have done."""
    error = errors[0]
    path = [str(p) for p in error["loc"]]
    name = ".".join(path)
    if error["type"] == "extra_forbidden":
        known = _fields_at(model, path[:-1])
        near = [key for key in _keys_below(model) if key.split(".")[-1] == path[-1]]  # the right name in a wrong place
        near = near or difflib.get_close_matches(path[-1], known, n=1, cutoff=0.6)
        hint = f"did you mean '{near[0]}'? " if near else ""
        keys = f"Known: {', '.join(sorted(known))}" if known else "There are none to set"
        return f"{where}: unknown key '{name}'; {hint}{keys}"
    if len(errors) > 1:
        name = ".".join(_field(model, path))
        kinds = dict.fromkeys(e["msg"].removeprefix("Input should be ") for e in errors)
        return f"{where}: {name} = {error.get('input')!r}: expected {', or '.join(kinds)}"
    return f"{where}: {name or 'value'} = {error.get('input')!r}: {error['msg']}"


def _lacks(paths: Sequence[tuple[str, ...]], model: type[BaseModel], where: str) -> str:
    """Which keys are missing, and what each is for; pydantic would show all that is there instead."""
    names = []
    for path in paths:
        field = model.model_fields.get(path[0]) if len(path) == 1 else None
        names.append(f"'{'.'.join(path)}'" + (f" ({field.description})" if field and field.description else ""))
    what, them = ("key", "it") if len(names) == 1 else ("keys", "them")
    return f"{where} lacks the {what} {', '.join(names)}; add {them}"


def _keys_below(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Full names of all fields, those of nested models too."""
    keys = []
    for name, field in model.model_fields.items():
        inner, key = field.annotation, prefix + name
        keys.append(key)
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            keys += _keys_below(inner, f"{key}.")
    return keys


def _fields_at(model: type[BaseModel], path: list[str]) -> list[str]:
    """Names of the fields of a nested model."""
    current: type[BaseModel] = model
    for step in path:
        field = current.model_fields.get(step)
        inner = field.annotation if field else None
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            current = inner
    return list(current.model_fields)
