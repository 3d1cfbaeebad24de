"""`duallora methods`: what can be chosen."""

from __future__ import annotations

import inspect as introspection
from typing import TYPE_CHECKING, Any

from duallora.cli.options import AsJson, Debug
from duallora.cli.output import Answer

if TYPE_CHECKING:
    from rich.console import Console


def methods(as_json: AsJson = False, debug: Debug = False) -> Answer:
    """List the methods and their options.

    NAME+align is a method whose heads are aligned after each task; it also has the option "align", as slca has.

    Example: duallora methods --json
    """
    from duallora.methods.align import alignable
    from duallora.methods.registry import get_method, list_methods

    found = []
    for name in list_methods():
        method = get_method(name)
        lines = introspection.cleandoc(method.__doc__ or "").splitlines()
        options = method.Config.model_json_schema().get("properties", {})
        defaults = method.Config().model_dump(mode="json")
        found.append(
            {
                "name": name,
                "summary": lines[0] if lines else "",
                "align": alignable(method),
                "options": {
                    option: {"default": defaults[option], "description": schema.get("description", "")}
                    for option, schema in options.items()
                },
            }
        )
    return Answer(found, lambda console: _show(console, found))


def _show(console: Console, found: list[dict[str, Any]]) -> None:
    from rich.table import Table

    table = Table("name", "what it does", "options (--json tells of each)", show_lines=True)
    for method in found:
        table.add_row(method["name"], method["summary"], ", ".join(method["options"]))
    console.print(table)
    console.print(
        "NAME+align, for example lora+align, is a method whose heads are aligned after each task; these serve: "
        + ", ".join(method["name"] for method in found if method["align"])
    )
