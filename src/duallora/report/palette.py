"""Colours of the page: a ramp for shares that stays readable under its numbers, and hues that tell methods apart."""

from __future__ import annotations

from collections.abc import Sequence

RGB = tuple[float, float, float]

LEVELS = 20
DARK_INK, LIGHT_INK = "#05080d", "#ffffff"
LIGHT_RAMP = ("#f1f5fa", "#c4dcf0", "#7fb2dd", "#3a7fbd", "#174a86", "#0d2b55")
DARK_RAMP = ("#1a212c", "#1f3856", "#245a8f", "#3d8bca", "#85c1ec", "#d7effc")
LIGHT_SERIES = ("#2257d0", "#c8460a", "#08805f", "#9238bd", "#946500", "#c01f58", "#0a789b", "#586474")
DARK_SERIES = ("#7ea8ff", "#ff965e", "#4fd3a6", "#d797f7", "#e6bf55", "#ff80a6", "#5fcbea", "#aab5c4")


def level_of(share: float) -> int:
    """The step of the ramp, 0 to LEVELS, for a share from 0 to 1."""
    return round(min(1.0, max(0.0, share)) * LEVELS)


def ramp(anchors: Sequence[str], levels: int = LEVELS) -> list[tuple[str, str]]:
    """Pairs of background and the more readable ink, evenly spaced along the anchors in OKLab."""
    points = [_oklab(_linear(anchor)) for anchor in anchors]
    pairs = []
    for level in range(levels + 1):
        place = level / levels * (len(points) - 1)
        i = min(int(place), len(points) - 2)
        mixed = [a + (b - a) * (place - i) for a, b in zip(points[i], points[i + 1], strict=True)]
        background = _hexadecimal(_from_oklab((mixed[0], mixed[1], mixed[2])))
        pairs.append((background, max((DARK_INK, LIGHT_INK), key=lambda ink: contrast(ink, background))))
    return pairs


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours, 1 to 21 (WCAG 2.1).

    >>> contrast("#000000", "#ffffff")
    21.0
    """
    low, high = sorted(_luminance(colour) + 0.05 for colour in (one, other))
    return high / low


def css_variables(dark: bool) -> str:
    """Declarations `--h0`, `--i0` ... (ramp and ink) and `--s0` ... (series) for one theme."""
    shades = ramp(DARK_RAMP if dark else LIGHT_RAMP)
    hues = DARK_SERIES if dark else LIGHT_SERIES
    return "".join(f"--h{n}:{back};--i{n}:{ink};" for n, (back, ink) in enumerate(shades)) + "".join(
        f"--s{n}:{hue};" for n, hue in enumerate(hues)
    )


def _linear(colour: str) -> RGB:
    r, g, b = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return _expand(r), _expand(g), _expand(b)


def _expand(channel: float) -> float:
    return channel / 12.92 if channel <= 0.04045 else float(((channel + 0.055) / 1.055) ** 2.4)


def _compress(channel: float) -> float:
    channel = min(1.0, max(0.0, channel))
    return channel * 12.92 if channel <= 0.0031308 else float(1.055 * channel ** (1 / 2.4) - 0.055)


def _hexadecimal(linear: RGB) -> str:
    return "#" + "".join(f"{round(_compress(channel) * 255):02x}" for channel in linear)


def _luminance(colour: str) -> float:
    r, g, b = _linear(colour)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def _oklab(linear: RGB) -> RGB:
    """Linear sRGB to OKLab (B. Ottosson, 2020), in which equal steps look equal."""
    r, g, b = linear
    long = (0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b) ** (1 / 3)
    middle = (0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b) ** (1 / 3)
    short = (0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b) ** (1 / 3)
    return (
        0.2104542553 * long + 0.7936177850 * middle - 0.0040720468 * short,
        1.9779984951 * long - 2.4285922050 * middle + 0.4505937099 * short,
        0.0259040371 * long + 0.7827717662 * middle - 0.8086757660 * short,
    )


def _from_oklab(lab: RGB) -> RGB:
    lightness, a, b = lab
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    middle = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        4.0767416621 * long - 3.3077115913 * middle + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * middle - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * middle + 1.7076147010 * short,
    )
