"""What every page is rendered with: look, filters, and the templates that pages share."""

from __future__ import annotations

import json

import jinja2
from markupsafe import Markup

from duallora.report import palette
from duallora.report.charts import MARKERS
from duallora.report.numbers import seconds, share, size, whole
from duallora.versions import duallora_version

HERE = "duallora.report"
LARGE = 12  # matrices with more tasks are shown without decimals and in full width


def rendered(template: str, package: str = HERE, **context: object) -> str:
    """A page from a template, which may include those of this package; ends with a line break.

    What a template names without being given it is an error; what it is given is escaped.

    Args:
        template: name of the file among the templates of `package`.
        package: dotted name.
        **context: what the template gets beside the filters and constants of all pages.
    """
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(name) for name in dict.fromkeys((package, HERE))]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "share": share,
        "seconds": seconds,
        "size": size,
        "whole": whole,
        "level": palette.level_of,
        "pretty": lambda data: json.dumps(data, indent=2, ensure_ascii=False),
    }
    environment.globals |= {
        "markers": MARKERS,
        "large": LARGE,
        "levels": palette.LEVELS,
        "hues": len(palette.LIGHT_SERIES),
        "version": duallora_version(),
        "light": Markup(palette.css_variables(dark=False)),  # numbers and colours of ours: nothing to escape
        "dark": Markup(palette.css_variables(dark=True)),
    }
    return environment.get_template(template).render(context).rstrip("\n") + "\n"
