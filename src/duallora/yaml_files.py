"""Read YAML files, a user's or one that comes with the package, with messages that say what to type."""

from __future__ import annotations

from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from duallora.errors import DualLoRAError, unknown
from duallora.files import user_path


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML as plain data, in which no key may stand twice: the last one would win without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: list[Any] = []
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key}' stands there twice; keep one of them", key_node.start_mark
                )
            seen.append(key)
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


def parse_yaml(text: str) -> Any:
    """Plain data from YAML text.

    Raises:
        yaml.YAMLError: it is none, a key stands twice in one mapping, or a value looks like a number or a date that
            does not exist.
    """
    try:
        return yaml.load(text, _Loader)
    except (ValueError, RecursionError) as error:
        raise yaml.YAMLError(f"a value cannot be read ({error}); put it in quotes") from error


def shipped(folder: str) -> dict[str, Traversable]:
    """The YAML files of a folder of the package, by name without ending, sorted by that.

    >>> list(shipped("configs"))
    ['cifar100-10', 'digits']
    """
    entries = {e.name: e for e in resources.files("duallora").joinpath(*folder.split("/")).iterdir()}
    names = sorted(name.removesuffix(".yaml") for name in entries if name.endswith(".yaml"))
    return {name: entries[f"{name}.yaml"] for name in names}


def read_yaml(path: str | Path, what: str, folder: str, example: str) -> dict[str, Any]:
    """The mapping in a file, or in the shipped file of that bare name; empty where the file is.

    Args:
        path: of a YAML file; or a name among `shipped(folder)`, unless a file is called so.
        what: what it is, for messages: "config", "suite".
        folder: of the package, where the shipped ones lie; parts apart by "/".
        example: a key that such a file may have, for messages.

    Raises:
        DualLoRAError: the file is missing (with the nearest shipped name), unreadable, no YAML, or no mapping.
    """
    file, known = user_path(path), shipped(folder)
    try:
        source = known[str(path)] if str(path) in known and not file.is_file() else file
        data = parse_yaml(source.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if file.suffix or len(file.parts) > 1:
            raise DualLoRAError(
                f"{what} file '{path}' does not exist; give a YAML file, or one of those that come with duallora: "
                f"{', '.join(known)}"
            ) from error
        raise unknown(what, str(path), list(known)) from error
    except OSError as error:
        raise DualLoRAError(f"{what} file '{path}' cannot be read ({error.strerror}); give a YAML file") from error
    except UnicodeDecodeError as error:
        raise DualLoRAError(f"{what} file '{path}' is no text in UTF-8; give a YAML file") from error
    except yaml.YAMLError as error:
        raise DualLoRAError(f"{what} file '{path}' is no valid YAML: {' '.join(str(error).split())}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise DualLoRAError(f"{what} file '{path}' holds a {type(data).__name__}, expected keys such as '{example}:'")
    return data
