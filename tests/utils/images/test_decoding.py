"""The decoder against what was drawn, against formulas worked out here, and against files broken on purpose."""

from __future__ import annotations

import os
import struct
import warnings
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile

from utils.errors import DataError
from utils.images import BitsUsed, ImageFinding, decode_rgb, inspect_image, read_rgb
from utils.images.decoding import MAX_PIXELS

pytestmark = pytest.mark.filterwarnings("error")


def _photo(height: int = 48, width: int = 32) -> np.ndarray:
    """Smooth but uneven, so that JPEG changes it little and no flip or turn leaves it as it was."""
    y, x = np.mgrid[:height, :width]
    waves = [127 + 100 * np.sin(0.05 * x * (1 + band) + 0.08 * y + band) for band in range(3)]
    return np.stack(waves, axis=-1).astype(np.uint8)


def _encoded(image: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    stream = BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, kind, **options)
    return stream.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, bit_depth: int, colour_type: int, rows: list[bytes], *extra: bytes) -> bytes:
    """A PNG written by hand, for the depths that Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = [_chunk(b"IHDR", header), *extra, _chunk(b"IDAT", pixels), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


LOSSLESS = [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})]


@pytest.mark.parametrize(("kind", "options"), LOSSLESS)
@pytest.mark.parametrize("bits", [16, 12, "own_maximum"])
def test_lossless_formats_give_back_what_was_drawn(kind: str, options: dict[str, Any], bits: BitsUsed) -> None:
    photo = _photo()
    decoded = decode_rgb(_encoded(photo, kind, **options), "photo", bits)
    assert decoded.dtype == np.uint8
    assert decoded.flags.writeable
    assert decoded.flags.c_contiguous
    np.testing.assert_array_equal(decoded, photo)


def _by_pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"subsampling": "4:4:4"},
        {"subsampling": "4:2:2"},
        {"subsampling": "4:2:0"},
        {"quality": 10},
        {"quality": 98, "optimize": True},
        {"keep_rgb": True},
        {"restart_marker_rows": 1},
        {"grey": True},
    ],
    ids=str,
)
def test_jpegs_have_the_bits_that_pillow_gives(options: dict[str, Any], progressive: bool) -> None:
    for height, width in [(1, 1), (1, 9), (9, 1), (2, 3), (8, 8), (17, 33), (101, 203), (480, 360)]:
        noisy = _photo(height, width) // 2 + np.random.default_rng(height).integers(0, 99, (height, width, 3))
        image = Image.fromarray(noisy.astype(np.uint8))
        data = _encoded(
            image.convert("L") if options.get("grey") else image, "JPEG", progressive=progressive, **options
        )
        decoded = decode_rgb(data, "photo")
        assert decoded.flags.writeable
        np.testing.assert_array_equal(decoded, _by_pillow(data))


REAL_FACES = Path(__file__).parents[4] / "shared" / "data" / "real_faces"


@pytest.mark.skipif(not REAL_FACES.is_dir(), reason="the real photographs are not here")
def test_real_photographs_have_the_bits_that_pillow_gives() -> None:
    paths = [path for path in REAL_FACES.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg")]
    assert paths
    for path in paths:
        np.testing.assert_array_equal(read_rgb(path), _by_pillow(path.read_bytes()), str(path))


# From the EXIF standard's table of the sides of the view where the stored first row and first column are
STORED: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda view: view,
    2: lambda view: view[:, ::-1],
    3: lambda view: view[::-1, ::-1],
    4: lambda view: view[::-1],
    5: lambda view: view.swapaxes(0, 1),
    6: lambda view: view.swapaxes(0, 1)[::-1],
    7: lambda view: view.swapaxes(0, 1)[::-1, ::-1],
    8: lambda view: view.swapaxes(0, 1)[:, ::-1],
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 95})])
def test_exif_orientation_is_applied(kind: str, options: dict[str, Any], orientation: int) -> None:
    view = _photo(16, 24)
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode_rgb(_encoded(np.ascontiguousarray(STORED[orientation](view)), kind, exif=exif, **options), "photo")
    np.testing.assert_allclose(decoded.astype(int), view, atol=0 if kind != "JPEG" else 40)
    assert np.abs(decoded.astype(int) - view).mean() < 4


def test_orientation_holds_for_16_bit_grey_and_alpha() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    grey = (np.arange(6).reshape(2, 3) * 257 * 40).astype(np.uint16)
    clockwise = np.array([[3, 0], [4, 1], [5, 2]]) * 40
    np.testing.assert_array_equal(decode_rgb(_encoded(grey, "PNG", exif=exif), "g")[..., 0], clockwise)
    rgba = np.dstack([np.arange(6).reshape(2, 3) * 40] * 3 + [np.full((2, 3), 255)]).astype(np.uint8)
    np.testing.assert_array_equal(decode_rgb(_encoded(rgba, "PNG", exif=exif), "g")[..., 1], clockwise)


@pytest.mark.parametrize("exif", [b"Exif\0\0rubbish", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"])
def test_a_damaged_exif_block_does_not_cost_the_image(exif: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's "Corrupt EXIF data"
        assert decode_rgb(_encoded(_photo(), "JPEG", exif=exif), "photo").shape == (48, 32, 3)


def test_grey_and_one_bit_become_rgb() -> None:
    grey = _photo()[..., 0]
    np.testing.assert_array_equal(decode_rgb(_encoded(grey, "PNG"), "g"), np.stack([grey] * 3, axis=-1))
    bits = grey > 127
    for kind in ("PNG", "BMP"):
        decoded = decode_rgb(_encoded(Image.fromarray(bits), kind), "b")
        np.testing.assert_array_equal(decoded, np.stack([bits * 255] * 3, axis=-1))
    assert np.ptp(decode_rgb(_encoded(grey, "JPEG"), "g"), axis=-1).max() == 0


def test_16_bit_grey_is_scaled_and_rounded() -> None:
    values = np.arange(0, 65536, 17, dtype=np.uint16)[None]
    expected = np.array([round(int(value) / 257) for value in values[0]])
    decoded = decode_rgb(_encoded(values, "PNG"), "wide")
    for band in range(3):
        np.testing.assert_array_equal(decoded[0, :, band], expected)


@pytest.mark.parametrize(("colour_type", "bands"), [(0, 1), (2, 3), (6, 4), (4, 2)])
@pytest.mark.parametrize("bits", [10, 12, 16])
def test_values_of_more_than_8_bits_are_scaled_to_the_whole_range(bits: int, colour_type: int, bands: int) -> None:
    values = np.random.default_rng(2).integers(0, 2**bits, (5, 7, bands))
    decoded = decode_rgb(_wide_png(values, colour_type), "wide", bits)
    tolerance = 2.1 if bits == 16 else 0.5 if bands in (1, 3) else 1.6
    assert np.abs(decoded - _scaled(values, 2**bits - 1)).max() <= tolerance
    if bits < 16:
        assert decode_rgb(_wide_png(np.full((1, 1, 3), 2**bits), 2), "brighter than the bits", bits).max() == 255


def test_a_file_may_be_scaled_by_its_own_maximum() -> None:
    colours = np.random.default_rng(3).integers(0, 3000, (5, 7, 3))
    expected = np.rint(colours / colours.max() * 255)
    np.testing.assert_array_equal(decode_rgb(_wide_png(colours, 2), "wide", "own_maximum"), expected)
    assert decode_rgb(_wide_png(np.zeros((2, 2, 1)), 0), "black", "own_maximum").max() == 0


def test_the_largest_value_of_a_16_bit_image_is_found(tmp_path: Path) -> None:
    values = np.random.default_rng(4).integers(0, 4096, (20, 20, 4))
    values[..., 3], values[7, 8, 1] = 65535, 4095
    (tmp_path / "a.png").write_bytes(_wide_png(values, 6))
    assert inspect_image(tmp_path / "a.png") == ImageFinding(None, None, 4095)
    (tmp_path / "b.png").write_bytes(_encoded(_photo(), "PNG"))
    assert inspect_image(tmp_path / "b.png") == ImageFinding()


def _wide_png(values: np.ndarray, colour_type: int) -> bytes:
    return _png(values.shape[1], values.shape[0], 16, colour_type, [line.astype(">u2").tobytes() for line in values])


def _scaled(values: np.ndarray, white: int) -> np.ndarray:
    """(H, W, bands) of grey or RGB, with or without alpha, over white, before they are rounded."""
    bands = values.shape[2]
    colours = values[..., :1].repeat(3, axis=-1) if bands < 3 else values[..., :3]
    alpha = values[..., -1:] / white if bands in (2, 4) else 1.0
    return colours / white * 255 * alpha + 255 * (1 - alpha)


def _over_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return np.rint(colours * share + 255 * (1 - share))


@pytest.mark.parametrize(
    ("bands", "kind", "options"), [(4, "PNG", {}), (4, "WEBP", {"lossless": True, "exact": True}), (2, "PNG", {})]
)
def test_alpha_is_composited_over_white(bands: int, kind: str, options: dict[str, Any]) -> None:
    values = np.random.default_rng(0).integers(0, 256, (16, 20, bands), dtype=np.uint8)
    values[0, :, -1], values[1, :, -1] = 0, 255
    channels = [Image.fromarray(np.ascontiguousarray(values[..., band])) for band in range(bands)]
    decoded = decode_rgb(_encoded(Image.merge("RGBA" if bands == 4 else "LA", channels), kind, **options), "alpha")
    colours = values[..., :3] if bands == 4 else values[..., :1].repeat(3, -1)
    assert (decoded[0] == 255).all()
    np.testing.assert_array_equal(decoded[1], colours[1])
    np.testing.assert_allclose(decoded, _over_white(colours, values[..., -1]), atol=1)


@pytest.mark.parametrize("transparency", [1, bytes([255, 0, 128])])
def test_palette_transparency_is_composited_over_white(transparency: int | bytes) -> None:
    palette = np.array([[10, 20, 30], [200, 0, 0], [0, 100, 50]])
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    image.putpalette(palette.astype(np.uint8).tobytes())
    alphas = np.array(list(transparency) if isinstance(transparency, bytes) else [255, 0, 255])
    decoded = decode_rgb(_encoded(image, "PNG", transparency=transparency), "palette")
    np.testing.assert_allclose(decoded[0], _over_white(palette, alphas), atol=1)


@pytest.mark.parametrize(
    ("bit_depth", "colour_type", "pixels", "key"),
    [
        (8, 2, b"\x01\x02\x03\x09\x09\x09", (1, 2, 3)),
        (8, 0, b"\x05\x09", (5,)),
        (4, 0, b"\x5a", (5,)),
        (2, 0, b"\x60", (1,)),
        (1, 0, b"\x40", (0,)),
        (16, 0, b"\x12\x34\x12\x35", (0x1234,)),
        (16, 2, b"\x12\x34\x12\x34\x12\x34\x99\x00\x99\x00\x99\x00", (0x1234,) * 3),
    ],
)
def test_a_transparent_colour_shows_white_at_every_depth(
    bit_depth: int, colour_type: int, pixels: bytes, key: tuple[int, ...]
) -> None:
    transparent = _chunk(b"tRNS", struct.pack(f">{len(key)}H", *key))
    decoded = decode_rgb(_png(2, 1, bit_depth, colour_type, [pixels], transparent), "keyed")
    assert decoded[0, 0].tolist() == [255, 255, 255]
    if bit_depth > 1:
        assert decoded[0, 1].max() < 200


def _cmyk_to_rgb(cmyk: np.ndarray) -> np.ndarray:
    ink = cmyk.astype(float) / 255
    return 255 * (1 - ink[..., :3]) * (1 - ink[..., 3:])


def test_cmyk_jpeg_is_converted() -> None:
    for inks in ([255, 0, 0, 0], [0, 255, 0, 0], [0, 0, 255, 0], [0, 0, 0, 255], [0, 0, 0, 0], [40, 80, 120, 60]):
        cmyk = np.full((16, 16, 4), inks, np.uint8)
        decoded = decode_rgb(_encoded(Image.fromarray(cmyk, "CMYK"), "JPEG", quality=100), "cmyk")
        np.testing.assert_allclose(decoded, _cmyk_to_rgb(cmyk), atol=3)


@pytest.mark.parametrize("inks", [(40, 80, 120, 60), (200, 30, 10, 0), (0, 0, 0, 100)])
def test_ycck_jpeg_is_converted(inks: tuple[int, int, int, int]) -> None:
    """As Photoshop stores it (Adobe transform 2): the inks C, M, Y as if they were R, G, B in YCbCr, and K inverted."""
    c, m, y, k = inks
    luma = 0.299 * c + 0.587 * m + 0.114 * y
    stored = np.array([luma, 128 + (y - luma) / 1.772, 128 + (c - luma) / 1.402, 255 - k])
    image = Image.fromarray(np.full((16, 16, 4), np.rint(255 - stored), np.uint8), "CMYK")  # Pillow inverts on writing
    data = bytearray(_encoded(image, "JPEG", quality=100))
    data[data.index(b"Adobe") + 11] = 2
    expected = _cmyk_to_rgb(np.array(inks))
    np.testing.assert_allclose(decode_rgb(bytes(data), "ycck")[8, 8], expected, atol=5)


JPEG = _encoded(_photo(), "JPEG")
GIF = _encoded(Image.fromarray(_photo()), "GIF", save_all=True, append_images=[Image.fromarray(255 - _photo())])
HUGE = struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)
HUGE_JPEG = bytearray(_encoded(_photo(), "JPEG"))
HUGE_JPEG[HUGE_JPEG.index(b"\xff\xc0") + 5 : HUGE_JPEG.index(b"\xff\xc0") + 9] = struct.pack(">HH", 20000, 20000)
HUGE_BMP = bytearray(_encoded(_photo(), "BMP"))
HUGE_BMP[18:26] = struct.pack("<ii", 20000, 20000)
HUGE_WEBP = bytearray(_encoded(Image.fromarray(_photo()).convert("RGBA"), "WEBP", lossless=True))
HUGE_WEBP[21:25] = struct.pack("<I", (16383 << 14) | 16383)
HUGE_LOSSY_WEBP = bytearray(_encoded(_photo(), "WEBP"))
HUGE_LOSSY_WEBP[26:30] = struct.pack("<HH", 16383, 16383)
ANIMATION = [Image.fromarray(_photo()), Image.fromarray(255 - _photo())]

BAD = {
    "zero bytes": (b"", "empty"),
    "nothing but zeros": (bytes(5000), "zero bytes"),
    "html": (b"\n<!DOCTYPE html><html><body>404</body></html>", "HTML"),
    "svg": (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "xml"),
    "animated gif": (GIF, "GIF"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "EPS"),
    "pdf": (b"%PDF-1.7\n", "PDF"),
    "tiff": (_encoded(_photo(), "TIFF"), r"II\*"),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0", "heic"),
    "zip": (b"PK\3\4\x14\0\0\0", "PK"),
    "git lfs pointer": (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs"),
    "text": (b"hello, world", "no JPEG"),
    "animated png": (_encoded(ANIMATION[0], "PNG", save_all=True, append_images=ANIMATION[1:]), "animated PNG"),
    "animated webp": (
        _encoded(ANIMATION[0], "WEBP", save_all=True, append_images=ANIMATION[1:]),
        "animated WEBP",
    ),
    "huge png": (b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", HUGE) + _chunk(b"IDAT", zlib.compress(b"")), "20000 x 20000"),
    "huge jpeg": (bytes(HUGE_JPEG), "20000 x 20000"),
    "huge bmp": (bytes(HUGE_BMP), "20000 x 20000"),
    "huge webp": (bytes(HUGE_WEBP), "16384 x 16384"),
    "huge lossy webp": (bytes(HUGE_LOSSY_WEBP), "16383 x 16383"),
    "png of no width": (_png(0, 5, 8, 2, [b""]), "PNG"),
    "only a jpeg's magic": (b"\xff\xd8\xff\xe0", "damaged JPEG"),
    "only a png's magic": (b"\x89PNG\r\n\x1a\n", "damaged PNG"),
    "only a webp's magic": (b"RIFF\0\0\0\0WEBPVP8 ", "WEBP"),
    "only a bmp's magic": (b"BM", "damaged BMP"),
    "a jpeg whose tail is zeros": (JPEG[: len(JPEG) // 2] + bytes(len(JPEG) // 2), "damaged JPEG"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_images_are_refused_with_name_reason_and_remedy(tmp_path: Path, case: str) -> None:
    data, reason = BAD[case]
    with pytest.raises(DataError, match=rf"^an upload: .*{reason}.*; .*\w{{4}}") as refusal:
        decode_rgb(data, "an upload")
    assert "\n" not in str(refusal.value)
    path = tmp_path / "face.jpg"
    path.write_bytes(data)
    assert inspect_image(path) == ImageFinding(str(refusal.value).removeprefix("an upload: "))


def test_an_image_of_the_greatest_size_is_read_and_one_more_row_is_not() -> None:
    row = np.zeros((1, 8192), bool)
    assert MAX_PIXELS == 8192 * 8192
    data = _encoded(Image.fromarray(row).resize((8192, 8192)), "PNG")
    assert decode_rgb(data, "large").shape == (8192, 8192, 3)
    with pytest.raises(DataError, match="8192 x 8193 pixels"):
        decode_rgb(_encoded(Image.fromarray(row).resize((8192, 8193)), "PNG"), "larger")


@pytest.mark.parametrize(
    ("kind", "options"), [("JPEG", {}), ("JPEG", {"progressive": True}), *LOSSLESS, ("WEBP", {"quality": 80})]
)
def test_a_cut_anywhere_is_refused(kind: str, options: dict[str, Any]) -> None:
    data = _encoded(_photo(), kind, **options)
    for length in [*range(1, len(data) - 1, max(1, len(data) // 97)), len(data) - 2, len(data) - 1]:
        with pytest.raises(DataError):
            decode_rgb(data[:length], "cut")


def test_a_flipped_bit_in_a_png_never_passes() -> None:
    data = _encoded(_photo(), "PNG")
    for place in range(8, len(data)):
        broken = bytearray(data)
        broken[place] ^= 1 << place % 8
        with pytest.raises(DataError, match="PNG"):
            decode_rgb(bytes(broken), "flipped")


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {}), ("JPEG", {"progressive": True}), *LOSSLESS])
def test_a_damaged_file_is_refused_or_has_pillows_pixels(kind: str, options: dict[str, Any]) -> None:
    random = np.random.default_rng(7)
    data = np.frombuffer(_encoded(_photo(), kind, **options), np.uint8)
    for _ in range(300):
        broken = data.copy()
        places = random.integers(4, len(data), 3)
        broken[places] = random.integers(0, 256, 3)
        try:
            decoded = decode_rgb(broken.tobytes(), "broken")
        except DataError:
            continue
        if (image := Image.open(BytesIO(broken.tobytes()))).mode in ("RGB", "L"):
            np.testing.assert_array_equal(decoded, np.asarray(image.convert("RGB")))


def test_what_is_no_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    for name, reason in [("pipe.jpg", "not a file"), ("folder.jpg", "not a file"), ("a.jpg", "missing")]:
        with pytest.raises(DataError, match=f"{name}: .*{reason}"):
            read_rgb(tmp_path / name)


def test_the_first_picture_of_an_mpo_is_read() -> None:
    data = _encoded(ANIMATION[0], "MPO", save_all=True, append_images=ANIMATION[1:])
    assert np.abs(decode_rgb(data, "phone").astype(int) - _photo()).mean() < 6


@pytest.mark.parametrize(
    ("name", "kind", "height_width", "warning"),
    [
        ("a.jpg", "PNG", (48, 32), "PNG file named .jpg"),
        ("b.png", "PNG", (1, 1), "1 x 1 pixels"),
        ("c.png", "PNG", (1, 30000), "30000 x 1 pixels"),
        ("d.png", "PNG", (400, 20), "20 x 400 pixels"),
        ("e.JPEG", "JPEG", (48, 32), None),
        ("f.webp", "WEBP", (48, 32), None),
        ("g.bmp", "BMP", (48, 32), None),
        ("no_suffix", "PNG", (48, 32), None),
    ],
)
def test_doubtful_images_are_read_with_a_warning(
    tmp_path: Path, name: str, kind: str, height_width: tuple[int, int], warning: str | None
) -> None:
    (tmp_path / name).write_bytes(_encoded(_photo(*height_width), kind))
    finding = inspect_image(tmp_path / name)
    assert finding.problem is None
    assert (warning in finding.warning) if warning and finding.warning else finding.warning is warning
    assert read_rgb(tmp_path / name).shape == (*height_width, 3)


def test_threads_decode_as_one_does_and_pillow_stays_as_it_was() -> None:
    before = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
    files = [_encoded(np.roll(_photo(), shift, axis=0), kind) for shift in range(8) for kind in ("JPEG", "PNG", "WEBP")]
    alone = [decode_rgb(data, "file") for data in files]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(decode_rgb, files * 4, ["file"] * len(files) * 4))
    for index, image in enumerate(together):
        np.testing.assert_array_equal(image, alone[index % len(files)])
    assert before == (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
