"""Every kind of good and bad image file, made for real."""

from __future__ import annotations

import io
import pickle
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from duallora.data.images import MAX_PIXELS, UnreadableImage, check, decode
from duallora.errors import DualLoRAError


def noisy(size: tuple[int, int] = (60, 50)) -> Image.Image:
    rng = np.random.default_rng(0)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def png_claiming(path: Path, width: int, height: int) -> Path:
    """A PNG whose header claims a size that its data do not have."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b""))
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return path


def colour_of(image: torch.Tensor) -> list[int]:
    assert image.dtype == torch.uint8 and image.ndim == 3 and image.shape[0] == 3
    colours = image.flatten(1).unique(dim=1)
    assert colours.shape[1] == 1, "expected one colour"
    return colours[:, 0].tolist()


def test_rgb_keeps_its_pixels_rows_and_columns(tmp_path: Path) -> None:
    noisy().save(tmp_path / "a.png")
    assert torch.equal(decode(tmp_path / "a.png"), torch.from_numpy(np.array(noisy())).permute(2, 0, 1))
    assert torch.equal(decode(str(tmp_path / "a.png")), decode((tmp_path / "a.png").read_bytes()))
    assert torch.equal(decode(tmp_path / "a.png"), decode(noisy()))
    assert torch.equal(decode(tmp_path / "a.png"), decode(np.array(noisy())))
    assert decode(tmp_path / "a.png").is_contiguous()


def test_a_pil_image_is_left_as_it_was() -> None:
    image = noisy()
    decode(image)
    assert image.getpixel((0, 0)) == noisy().getpixel((0, 0))


@pytest.mark.parametrize(
    ("mode", "value", "ending", "expected"),
    [
        ("L", 77, "png", [77, 77, 77]),
        ("1", 1, "png", [255, 255, 255]),
        ("RGBA", (255, 0, 0, 0), "png", [255, 255, 255]),  # transparent: white, whatever colour lies below
        ("RGBA", (255, 0, 0, 255), "png", [255, 0, 0]),
        ("RGBA", (0, 0, 0, 51), "png", [204, 204, 204]),
        ("LA", (0, 0), "png", [255, 255, 255]),
        ("CMYK", (0, 255, 255, 0), "tif", [255, 0, 0]),
        ("I;16", 257 * 100, "png", [100, 100, 100]),
        ("I;16", 65535, "tif", [255, 255, 255]),
        ("F", 0.5, "tif", [128, 128, 128]),
        ("F", 200.0, "tif", [200, 200, 200]),
    ],
)
def test_modes(tmp_path: Path, mode: str, value: object, ending: str, expected: list[int]) -> None:
    path = tmp_path / f"a.{ending}"
    Image.new(mode, (6, 4), value).save(path)  # type: ignore[arg-type]
    check(path)
    assert colour_of(decode(path)) == expected


def test_cmyk_jpeg(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    red = colour_of(decode(tmp_path / "a.jpg"))
    assert red[0] > 250 and red[1] < 5 and red[2] < 5


def test_palette_with_and_without_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (6, 4), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(tmp_path / "plain.png")
    image.save(tmp_path / "clear.png", transparency=1)
    assert colour_of(decode(tmp_path / "plain.png")) == [10, 20, 30]
    assert colour_of(decode(tmp_path / "clear.png")) == [255, 255, 255]


def test_sixteen_bit_pgm_is_scaled_not_cut(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 24).reshape(4, 6).astype(">u2")
    (tmp_path / "a.pgm").write_bytes(b"P5 6 4 65535\n" + values.tobytes())
    expected = np.rint(values.astype(float) / 257).astype(int)
    assert decode(tmp_path / "a.pgm")[0].tolist() == expected.tolist()


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=50)
    with Image.open(tmp_path / "a.gif") as image:
        assert image.n_frames == 3
    assert colour_of(decode(tmp_path / "a.gif")) == [255, 0, 0]


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it upright
    noisy((60, 50)).save(tmp_path / "a.png", exif=exif)
    upright = decode(tmp_path / "a.png")
    assert upright.shape == (3, 60, 50)
    assert torch.equal(upright, torch.rot90(decode(noisy()), -1, (1, 2)))


def bad_file(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.jpg"
    buffer = io.BytesIO()
    if kind == "zero-byte":
        path.touch()
    elif kind == "text":
        path.write_text("this is a shopping list, not a photograph\n" * 20)
    elif kind == "truncated-jpeg":
        noisy().save(buffer, "JPEG")
        path.write_bytes(buffer.getvalue()[:-400])
    elif kind == "truncated-png":
        noisy().save(buffer, "PNG")
        path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    elif kind == "truncated-gif":
        noisy().quantize().save(buffer, "GIF")
        path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    elif kind == "truncated-header":
        noisy().save(buffer, "JPEG")
        path.write_bytes(buffer.getvalue()[:30])
    elif kind == "random-bytes":
        path.write_bytes(np.random.default_rng(0).bytes(500))
    elif kind == "huge":
        png_claiming(path, 100_000, 100_000)
    elif kind == "large":
        png_claiming(path, 8_001, 8_000)
    elif kind == "ribbon":
        Image.new("L", (20_000, 2)).save(path)
    elif kind == "wide-range":
        Image.new("F", (4, 4), 1e6).save(path, "TIFF")
    elif kind == "not-a-number":
        Image.new("F", (4, 4), float("nan")).save(path, "TIFF")
    elif kind == "folder":
        path.mkdir()
    return path


BAD = {
    "missing": "does not exist",
    "zero-byte": "0 bytes",
    "text": "no image of a known format",
    "truncated-jpeg": "truncated",
    "truncated-png": "truncated",
    "truncated-gif": "truncated",
    "truncated-header": "no image of a known format|truncated",
    "random-bytes": "no image of a known format",
    "huge": f"at most {MAX_PIXELS:,} pixels",
    "large": f"8001 x 8000 pixels.*at most {MAX_PIXELS:,} pixels",
    "ribbon": "20000 x 2 pixels.*at most 100 times",
    "wide-range": "values from 1e.06 to 1e.06.*8 or 16 bits",
    "not-a-number": "8 or 16 bits",
    "folder": "is a folder",
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bad_files_are_named_with_the_reason(tmp_path: Path, kind: str) -> None:
    path = bad_file(tmp_path, kind)
    with pytest.raises(DualLoRAError, match=BAD[kind]) as caught:
        decode(path)
    assert str(path) in str(caught.value)
    for whole in (True, False):
        if not whole and kind in ("truncated-gif", "wide-range", "not-a-number"):
            continue  # the quick check reads no pixels of these
        with pytest.raises(UnreadableImage, match=BAD[kind]) as caught:
            check(path, whole=whole)
        assert str(path) not in caught.value.reason


def test_quick_check_reads_no_pixels_of_a_sound_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noisy().save(tmp_path / "a.jpg")
    noisy().save(tmp_path / "b.png")
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("pixels were read"))
    check(tmp_path / "a.jpg", whole=False)
    check(tmp_path / "b.png", whole=False)


@pytest.mark.parametrize("ending", [".bmp", ".tif", ".gif", ".webp", ".ppm"])
def test_quick_check_reads_formats_without_an_end_marker_whole(tmp_path: Path, ending: str) -> None:
    noisy().save(tmp_path / f"a{ending}")
    data = (tmp_path / f"a{ending}").read_bytes()
    (tmp_path / f"cut{ending}").write_bytes(data[: len(data) * 2 // 3])
    check(tmp_path / f"a{ending}", whole=False)
    with pytest.raises(UnreadableImage):
        check(tmp_path / f"cut{ending}", whole=False)


def test_tensors_with_channels_first_or_last() -> None:
    image = decode(noisy())
    assert torch.equal(decode(image), image)
    assert torch.equal(decode(image.permute(1, 2, 0)), image)
    assert torch.equal(decode(image[:1]), decode(image[0]))
    with pytest.raises(DualLoRAError, match=r"<torch.float32 tensor of .*: is no image"):
        decode(image.float())


def test_bad_bytes_and_arrays() -> None:
    with pytest.raises(DualLoRAError, match="0 bytes"):
        decode(b"")
    with pytest.raises(DualLoRAError, match="<9 bytes>: is no image"):
        decode(b"not image")
    with pytest.raises(DualLoRAError, match=r"float64 array of shape \(4, 4, 3\).*uint8"):
        decode(np.zeros((4, 4, 3)))
    with pytest.raises(DualLoRAError, match="uint8 of shape"):
        decode(np.zeros((4, 4, 7), np.uint8))


def test_the_error_travels_between_processes() -> None:
    error = pickle.loads(pickle.dumps(UnreadableImage("a.jpg", "is empty")))
    assert (error.name, error.reason, str(error)) == ("a.jpg", "is empty", "a.jpg: is empty")


def test_names_with_spaces_and_unicode(tmp_path: Path) -> None:
    path = tmp_path / "Käse (größer) 猫.png"
    noisy().save(path)
    assert decode(path).shape == (3, 50, 60)


def test_what_is_too_large_is_refused_without_a_warning_of_pillows_own(tmp_path: Path) -> None:
    Image.new("1", (10_000, 9_500)).save(tmp_path / "huge.png")  # over Pillow's limit for warnings, not its error
    with warnings.catch_warnings(), pytest.raises(UnreadableImage, match="more than is read"):
        warnings.simplefilter("error")
        decode(tmp_path / "huge.png")


def test_no_file_is_given_to_ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("Ghostscript was started")

    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", never)
    Image.new("RGB", (8, 8)).save(tmp_path / "drawing.eps")
    (tmp_path / "photo.png").write_bytes((tmp_path / "drawing.eps").read_bytes())
    with pytest.raises(UnreadableImage, match="is no image of a known format, whatever its name says"):
        decode(tmp_path / "photo.png")


def test_what_phones_save_is_told_from_what_is_no_image(tmp_path: Path) -> None:
    photo = tmp_path / "IMG_0001.HEIC"
    photo.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    for read in (decode, check):
        with pytest.raises(UnreadableImage, match="is HEIC, which is not read; save it as JPEG or PNG"):
            read(photo)
