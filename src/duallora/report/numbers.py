"""Figures as people read them."""

from __future__ import annotations


def share(value: float | None, decimals: int = 1) -> str:
    """A share in percent, without the sign for it; a true minus sign.

    >>> share(0.8756), share(None)
    ('87.6', '\\u2013')
    """
    if value is None:
        return "\u2013"
    text = f"{100 * value:.{decimals}f}"
    return text.replace("-", "\u2212") if float(text) else f"{0:.{decimals}f}"


def seconds(value: float) -> str:
    """A duration in the unit that suits it.

    >>> seconds(0.034), seconds(75), seconds(3600)
    ('0.03\\xa0s', '75.0\\xa0s', '60.0\\xa0min')
    """
    if value < 120:
        return f"{value:.{2 if value < 10 else 1}f}\u00a0s"
    return f"{value / 60:.1f}\u00a0min" if value < 7200 else f"{value / 3600:.1f}\u00a0h"


def size(value: float) -> str:
    """A number of bytes in the decimal unit that suits it.

    >>> size(812_000_000)
    '812\\xa0MB'
    """
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= factor:
            return (
                f"{value / factor:.3g}\u00a0{unit}" if value < 999.5 * factor else f"{value / factor:.0f}\u00a0{unit}"
            )
    return f"{value:.0f}\u00a0B"


def whole(value: float) -> str:
    """A whole number with thin spaces between thousands.

    >>> whole(36864)
    '36\\u202f864'
    """
    return f"{value:,.0f}".replace(",", "\u202f")
