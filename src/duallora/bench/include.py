"""What many suites share: `include: standard` puts rows before a suite's own, and a protocol may start from a file."""

from __future__ import annotations

from typing import Any

from duallora.bench.cells import merged
from duallora.errors import DualLoRAError, unknown
from duallora.yaml_files import parse_yaml, shipped


def shared(kind: str) -> list[str]:
    """Names that `include` takes, among "rows" or in one of "protocols".

    >>> shared("rows")
    ['resized', 'searched', 'standard', 'vit-b']
    """
    return list(shipped(f"bench/{kind}"))


def with_included(data: dict[str, Any], where: str) -> dict[str, Any]:
    """A suite's mapping with what its `include` keys name; what stands in the suite itself is laid over that.

    Args:
        data: as read from the file.
        where: which suite, for messages.

    Raises:
        DualLoRAError: a name that there is not, or something else than names.

    >>> rows = with_included({"include": "standard", "rows": {"lora": {"seed": 1}}}, "here")["rows"]
    >>> rows["lora"], "slda" in rows
    ({'method': {'name': 'lora'}, 'seed': 1}, True)
    """
    data = dict(data)
    if "include" in data:
        own = data.get("rows") or {}
        if not isinstance(own, dict):
            raise DualLoRAError(f"{where}: rows is {own!r}, expected names of rows with what each changes")
        held = _files("rows", data.pop("include"), where)
        data["rows"] = merged(held, {name: change or {} for name, change in own.items()})
    protocols = data.get("protocols")
    if isinstance(protocols, dict):
        data["protocols"] = {name: _protocol(held, f"{where}: protocol '{name}'") for name, held in protocols.items()}
    return data


def _protocol(held: Any, where: str) -> Any:
    if not isinstance(held, dict) or "include" not in held:
        return held
    own = {key: value for key, value in held.items() if key != "include"}
    return merged(_files("protocols", held["include"], where), own)


def _files(kind: str, names: Any, where: str) -> dict[str, Any]:
    held: dict[str, Any] = {}
    known = shipped(f"bench/{kind}")
    for name in map(str, names if isinstance(names, list) else [names]):
        if name not in known:
            raise unknown(f"name in {where}: include", name, known)
        held = merged(held, parse_yaml(known[name].read_text(encoding="utf-8")))
    return held
