"""Read a suite: a YAML file, or one that comes with the package."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from duallora.bench.include import with_included
from duallora.bench.suite import Figure, Protocol, Row, Settings, Suite
from duallora.errors import DualLoRAError, unknown
from duallora.settings import validated


def shipped_suites() -> list[str]:
    """Names of the suites that come with the package.

    >>> "cifar100-10" in shipped_suites()
    True
    """
    folder = resources.files("duallora") / "bench" / "suites"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_suite(path: str | Path) -> tuple[str, Suite]:
    """A suite and its name, by the path of a YAML file or the bare name of a shipped one.

    Raises:
        DualLoRAError: no such file or name (with the nearest one); or a key or value in it is wrong (with the nearest
            known key).

    >>> load_suite("cifar100-10")[1].base.stream["increment"]
    10
    """
    name = Path(path).stem
    where = f"suite '{name}'"
    data = with_included(_read(path), where)
    parts = _part(data, "rows", Row, f"{where}: row") | _part(data, "protocols", Protocol, f"{where}: protocol")
    if isinstance(data.get("base"), dict):
        parts["base"] = validated(Settings, data["base"], f"{where}: base")
    return name, validated(Suite, data | parts, where)


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


def _read(path: str | Path) -> dict[str, Any]:
    """The mapping in a suite's file."""
    file = Path(path).expanduser()
    shipped = str(path) in shipped_suites() and not file.is_file()
    try:
        source = resources.files("duallora") / "bench" / "suites" / f"{path}.yaml" if shipped else file
        data = yaml.safe_load(source.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if file.suffix or len(file.parts) > 1:
            raise DualLoRAError(
                f"suite file '{path}' does not exist; give a YAML file, or one of those that come with duallora: "
                f"{', '.join(shipped_suites())}"
            ) from error
        raise unknown("suite", str(path), shipped_suites()) from error
    except OSError as error:
        raise DualLoRAError(f"suite file '{path}' cannot be read ({error.strerror}); give a YAML file") from error
    except UnicodeDecodeError as error:
        raise DualLoRAError(f"suite file '{path}' is no text in UTF-8; give a YAML file") from error
    except yaml.YAMLError as error:
        raise DualLoRAError(f"suite file '{path}' is no valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        kind = "nothing" if data is None else f"a {type(data).__name__}"
        raise DualLoRAError(f"suite file '{path}' holds {kind}, expected keys: {', '.join(Suite.model_fields)}")
    return data
