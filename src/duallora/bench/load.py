"""Read a suite: a YAML file, or one that comes with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from duallora.bench.include import with_included
from duallora.bench.suite import NO_ADAPTATION, Figure, Protocol, Row, Settings, Suite
from duallora.errors import DualLoRAError
from duallora.settings import validated
from duallora.yaml_files import read_yaml, shipped

FOLDER = "bench/suites"  # of the package: those that come with it


def shipped_suites() -> list[str]:
    """Names of the suites that come with the package.

    >>> "cifar100-10" in shipped_suites()
    True
    """
    return list(shipped(FOLDER))


def load_suite(path: str | Path) -> tuple[str, Suite]:
    """A suite and its name, by the path of a YAML file or the bare name of a shipped one.

    A row without adaptation is added where there is none.

    Raises:
        DualLoRAError: no such file or name (with the nearest one); or a key or value in it is wrong (with the nearest
            known key).

    >>> load_suite("cifar100-10")[1].base.stream["increment"]
    10
    """
    name = Path(path).stem
    where = f"suite '{name}'"
    data = read_yaml(path, "suite", FOLDER, example="title")
    if not data:
        raise DualLoRAError(f"suite file '{path}' holds nothing, expected keys: {', '.join(Suite.model_fields)}")
    data = with_included(data, where)
    parts = _part(data, "rows", Row, f"{where}: row") | _part(data, "protocols", Protocol, f"{where}: protocol")
    if isinstance(data.get("base"), dict):
        parts["base"] = validated(Settings, data["base"], f"{where}: base")
    return name, _with_no_adaptation(validated(Suite, data | parts, where))


def _with_no_adaptation(suite: Suite) -> Suite:
    """A suite that has no row without adaptation gets one, as it belongs in every table.

    Not where the base has options of methods, which would be options of that row too.
    """
    base = suite.base.method
    named = {row.method.get("name", base.get("name")) for row in suite.rows.values()}
    if NO_ADAPTATION in named or NO_ADAPTATION in suite.rows or "options" in base:
        return suite
    return suite.model_copy(update={"rows": {NO_ADAPTATION: Row(method={"name": NO_ADAPTATION}), **suite.rows}})


def _part(data: dict[str, Any], key: str, model: type[Row] | type[Protocol], where: str) -> dict[str, Any]:
    """Entries checked one by one, so that a message names the entry and knows its keys."""
    held = data.get(key)
    if not isinstance(held, dict):
        return {}
    checked: dict[str, Any] = {}
    for entry, values in held.items():
        place = f"{where} '{entry}'"
        values = _mapping(values, place)
        if model is Protocol:
            values = _protocol(values, place)
        checked[str(entry)] = validated(model, values, place)
    return {key: checked}


def _protocol(values: dict[str, Any], place: str) -> dict[str, Any]:
    inner: dict[str, Any] = {}
    if "set" in values:
        inner["set"] = validated(Settings, _mapping(values["set"], f"{place}: set"), f"{place}: set")
    for key, model, what in (("rows", Settings, "row"), ("figures", Figure, "figures of")):
        held = _mapping(values.get(key), f"{place}: {key}")
        if held:
            inner[key] = {
                str(name): validated(model, _mapping(entry, f"{place}: {what} '{name}'"), f"{place}: {what} '{name}'")
                for name, entry in held.items()
            }
    return values | inner


def _mapping(values: object, where: str) -> dict[str, Any]:
    if values is None:  # a key with nothing behind it
        return {}
    if not isinstance(values, dict):
        raise DualLoRAError(f"{where} is {values!r}, expected keys with values, such as method: {{name: slda}}")
    return values
