"""One image file becomes one RGB tensor, whatever its mode, or an error that names the file and the reason."""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from duallora.errors import DualLoRAError
from duallora.files import user_path

MAX_PIXELS = 64_000_000
"""Larger images are refused: decoded, one of them takes 192 MB, and most often it is a mistake or an attack."""

MAX_ASPECT = 100
"""Images longer than this many times their width are refused: resizing the shorter side would blow them up."""

EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".dib", ".webp"}
    | {".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".tga", ".avif"}
)
"""File name endings (lower case) that folders of images are searched for."""

HEIC = frozenset({".heic", ".heif"})
"""Endings of what phones save by default, for which Pillow has no reader."""

Source = str | Path | bytes | Image.Image | np.ndarray | Tensor
"""What `decode` takes."""

_PLAIN_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")  # whose conversion always succeeds
_END_MARKERS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}


class UnreadableImage(DualLoRAError):
    """An image that cannot be used: `name` is the file, `reason` says why without naming it again."""

    def __init__(self, name: str, reason: str) -> None:
        """The message is "name: reason"."""
        super().__init__(f"{name}: {reason}")
        self.name, self.reason = name, reason

    def __reduce__(self) -> tuple[type[UnreadableImage], tuple[str, str]]:
        """Let it travel between processes: exceptions are rebuilt from their message alone otherwise."""
        return UnreadableImage, (self.name, self.reason)


def decode(source: Source) -> Tensor:
    """Decode an image to RGB, shape (3, height, width), uint8.

    Transparent pixels come out on white, 16-bit grey is scaled to 8 bits, CMYK, palette and grey images are converted,
    the EXIF orientation is applied, and of an animation the first frame is taken.

    Args:
        source: a file, the bytes of one, an opened PIL image (left unchanged), a uint8 array of shape (h, w),
            (h, w, 3) or (h, w, 4), or a uint8 tensor, whose channels may also come first.

    Raises:
        UnreadableImage: a `DualLoRAError` naming the file and the reason: missing, empty, truncated, no image, more
            than `MAX_PIXELS` pixels, one side over `MAX_ASPECT` times the other, values without a known range.

    >>> decode(Image.new("L", (4, 2), 200)).shape
    torch.Size([3, 2, 4])
    """
    name = _name(source)
    if isinstance(source, Tensor):
        source = _array(source)
    try:
        with _opened(source, name) as image:
            image.load()
            rgb = _to_rgb(_upright(image), name)
    except Exception as error:
        # Broad on purpose: on damaged files Pillow's plug-ins raise whatever their parsing meets
        # (OSError, SyntaxError, ValueError, struct.error, EOFError, IndexError, ...).
        raise _explained(error, name) from error
    return torch.from_numpy(np.array(rgb, dtype=np.uint8)).permute(2, 0, 1).contiguous()


def listed(images: Source | Iterable[Source]) -> list[Source]:
    """One image or several, as a list.

    An array or tensor of three axes is one image if one of them can be its channels, else several grey ones.

    >>> len(listed(np.zeros((8, 8, 3), np.uint8))), len(listed(np.zeros((5, 8, 8), np.uint8))), len(listed(["a.png"]))
    (1, 5, 1)
    """
    if isinstance(images, str | Path | bytes | Image.Image):
        return [images]
    if isinstance(images, np.ndarray | Tensor):
        first, last = (images.shape[0], images.shape[-1]) if images.ndim == 3 else (0, 0)
        if images.ndim == 2 or last in (3, 4) or (isinstance(images, Tensor) and first in (1, 3)):
            return [images]
    return list(images)


def check(path: Path, *, whole: bool = True) -> None:
    """Raise the error that `decode` would raise, at less cost.

    Args:
        path: the image file.
        whole: read all pixels (JPEG at an eighth of its size). Otherwise that is done only where the end of the file
            does not show the end marker of its format, or the format has none; of others header and limits suffice.

    Raises:
        UnreadableImage: as `decode`.
    """
    name = _name(path)
    try:
        with _opened(path, name) as image:
            marker = _END_MARKERS.get(image.format or "")
            if whole or marker is None or marker not in _tail(path):
                image.draft(image.mode, (1, 1))
                image.load()
                if image.mode not in _PLAIN_MODES:
                    _to_rgb(image, name)
    except Exception as error:  # see decode
        raise _explained(error, name) from error


def _array(image: Tensor) -> np.ndarray:
    """A tensor as numpy has images: channels last, and none where there is but one."""
    array = image.detach().cpu().numpy()
    if array.ndim == 3 and array.shape[0] in (1, 3) and array.shape[2] not in (3, 4):
        array = array.transpose(1, 2, 0)
    return np.ascontiguousarray(array[..., 0] if array.shape[2:] == (1,) else array)


def _name(source: Source) -> str:
    if isinstance(source, str | Path):
        return str(source)
    if isinstance(source, Tensor):
        return f"<{source.dtype} tensor of shape {tuple(source.shape)}>"
    if isinstance(source, np.ndarray):
        return f"<{source.dtype} array of shape {source.shape}>"
    if isinstance(source, bytes):
        return f"<{len(source)} bytes>"
    return f"<{source.mode} image>" if isinstance(source, Image.Image) else f"<{type(source).__name__}>"


def _opened(source: Source, name: str) -> Image.Image:
    """The image with its header read and its size judged, pixels not yet decoded."""
    if isinstance(source, Image.Image):
        image = source.copy()
    elif isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim not in (2, 3) or source.shape[2:] not in ((), (3,), (4,)):
            raise UnreadableImage(name, "is no image; expected uint8 of shape (h, w), (h, w, 3) or (h, w, 4)")
        image = Image.fromarray(source)
    elif isinstance(source, bytes | str | Path):
        if isinstance(source, bytes):
            empty = not source
        else:
            source = user_path(source)
            if source.is_dir():
                raise UnreadableImage(name, "is a folder, expected an image file")
            if source.exists() and not source.is_file():
                raise UnreadableImage(name, "is a pipe or a device, expected an image file; save it as one first")
            empty = source.stat().st_size == 0
        if empty:
            raise UnreadableImage(name, "is empty (0 bytes)")
        with warnings.catch_warnings():  # Pillow's own limit warns of sizes that are judged below
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_formats())
    else:
        raise UnreadableImage(name, "is no image; expected a file, bytes, a PIL image or a uint8 array")
    width, height = image.size
    if width * height > MAX_PIXELS or max(width, height) > MAX_ASPECT * min(width, height):
        image.close()
        raise UnreadableImage(name, f"is {width} x {height} pixels, {_limits()}")
    return image


@functools.cache
def _formats() -> tuple[str, ...]:
    """All that Pillow reads, but for EPS: for that it starts Ghostscript, whatever the file's name says."""
    Image.init()
    return tuple(name for name in Image.ID if name != "EPS")


def _limits() -> str:
    return (
        f"more than is read (at most {MAX_PIXELS:,} pixels, the longer side at most {MAX_ASPECT} times the shorter); "
        "make it smaller first"
    )


def _tail(path: Path, count: int = 4096) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - count))
        return file.read()


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # the pixels are sound, only the camera's notes are not: keep them as they lie
        return image


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode[0] == "I" or image.mode == "F":
        image = _to_eight_bits(image, name)
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _to_eight_bits(image: Image.Image, name: str) -> Image.Image:
    """Grey of 16 or 32 bits or floating point: Pillow's own conversion would cut everything off at 255."""
    values = np.asarray(image).astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if image.mode == "F":
        known, scale = (low >= 0 and high <= 255), (255.0 if high <= 1 else 1.0)
    else:
        known, scale = (low >= 0 and high <= 65535), 1 / 257
    if not known:  # NaN ends here as well
        raise UnreadableImage(name, f"has pixel values from {low:g} to {high:g}; save it with 8 or 16 bits per channel")
    return Image.fromarray(np.rint(values * scale).astype(np.uint8))


def unknown_format(name: str) -> str:
    """The reason for leaving out a file that no reader takes.

    >>> unknown_format("IMG_0001.HEIC")
    'is HEIC, which is not read; save it as JPEG or PNG'
    """
    if Path(name).suffix.lower() in HEIC:
        return "is HEIC, which is not read; save it as JPEG or PNG"
    return "is no image of a known format, whatever its name says"


def _explained(error: Exception, name: str) -> UnreadableImage:
    if isinstance(error, UnreadableImage):
        return error
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return UnreadableImage(name, f"is {_limits()}")
    if isinstance(error, FileNotFoundError):
        return UnreadableImage(name, "does not exist; check the spelling of the path")
    if isinstance(error, UnidentifiedImageError):
        return UnreadableImage(name, unknown_format(name))
    if isinstance(error, OSError) and error.strerror:
        return UnreadableImage(name, f"cannot be opened ({error.strerror})")
    return UnreadableImage(name, f"is damaged or truncated ({error or type(error).__name__})")
