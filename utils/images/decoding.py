"""The one image decoder: a file or an upload becomes RGB, or a DataError with the reason.

JPEG, PNG, WEBP and BMP are read, distinguished by content, never by name. The same rules hold in training,
validation, test and on the page:

- EXIF orientation is applied. Colour profiles are not: pixel values are taken as sRGB.
- Transparency (an alpha channel, a transparent palette entry or colour) is composited over white.
- 16-bit grey is scaled, round(v / 257); of 16-bit colours Pillow keeps the high byte, within one level of that. Files
  whose values use fewer of the 16 bits are scaled by `bits_used_of_16`.
- CMYK and YCCK JPEGs are read as inverted, Adobe's convention, with or without its marker.
- Of a JPEG with several pictures (MPO, a phone's depth or gain map) the first is read. Animations are refused.
- An image with more than MAX_PIXELS is refused by its header, before memory is allocated; so is a JPEG of more than
  MAX_SCANS, each of which costs the time of the whole picture.
- A damaged image is refused, never filled up: a JPEG must hold its end marker, a PNG all its chunks and checksums.
- An undamaged JPEG in RGB, YCbCr or grey is decoded by simplejpeg, which gives Pillow's bits in half the time; all
  others, and all damaged files, by Pillow.

Nothing of Pillow's global state is read or changed, and any number of threads may decode at once.
"""

from __future__ import annotations

import re
import stat
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, TypeVar

import cv2
import numpy as np
import simplejpeg
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from utils.errors import DataError
from utils.images.fingerprint import fingerprint_of

MAX_PIXELS = 64 * 1024 * 1024
"""Width times height of the largest image that is read: 8192 x 8192."""

MAX_FILE_BYTES = 640 * 1024 * 1024
"""No image of MAX_PIXELS in the four formats needs a file this large (64-bit pixels that do not compress: 512 MiB)."""

MAX_SCANS = 64
"""Of a JPEG; encoders write a dozen at most into a progressive one."""

DECODING_RULES = 1
"""Raised whenever an image may be decoded in another way than before: what is cached is then invalid."""

SMALL_SIDE = 16
THIN_RATIO = 10
"""`inspect_image` warns below SMALL_SIDE pixels on the shorter side, and beyond THIN_RATIO times it on the longer."""

BitsUsed = int | Literal["own_maximum"]
"""How many bits the values of a 16-bit PNG use, 8 to 16; or "own_maximum": each file is scaled by its largest value."""

_FORMATS: dict[str, tuple[Callable[[BytesIO], ImageFile], tuple[str, ...]]] = {
    "JPEG": (JpegImageFile, (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo")),
    "PNG": (PngImageFile, (".png",)),
    "WEBP": (WebPImageFile, (".webp",)),
    "BMP": (BmpImageFile, (".bmp", ".dib")),
}
"""By name: the reader, and the suffixes of such files."""

_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
"""Of a JPEG's segment. Within a scan's data none occurs."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_VALUES_AT_ONCE = 2**22

LARGE_PIXELS = 4 * 1024 * 1024
_LARGE_IMAGES = ThreadPoolExecutor(1, "large-image")
"""The one thread that decodes images of more pixels for `visit_rgb` and `inspect_image`."""

Result = TypeVar("Result")

_EXIF_ORIENTATION = 0x0112
_UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: image[::-1, ::-1].transpose(1, 0, 2),
    8: lambda image: np.rot90(image),
}
"""By EXIF orientation, how the stored image (H, W, 3) becomes upright."""


@dataclass(frozen=True)
class ImageFinding:
    """What the check of one image found.

    problem: why it cannot be used
    warning: what looks doubtful about it
    largest_value: of the colours of a 16-bit PNG
    fingerprint: of the picture, see utils/images/fingerprint.py; None where it cannot be used
    """

    problem: str | None = None
    warning: str | None = None
    largest_value: int | None = None
    fingerprint: str | None = field(default=None, compare=False)


def read_rgb(path: Path, bits_used_of_16: BitsUsed = 16) -> np.ndarray:
    """The image in `path` as uint8 (H, W, 3), writable. Raises DataError: the file, what is wrong, the remedy."""
    return decode_rgb(_read_bytes(path), str(path), bits_used_of_16)


def visit_rgb(path: Path, visit: Callable[[np.ndarray], Result], bits_used_of_16: BitsUsed = 16) -> Result:
    """What `visit` returns for the image in `path`. Whatever the number of threads, one large image is in memory at a
    time. Raises DataError as `read_rgb` does."""
    data, name = _read_bytes(path), str(path)
    return _decode(data, name, _image_format(data, name), bits_used_of_16, visit)


def decode_rgb(data: bytes, name: str, bits_used_of_16: BitsUsed = 16) -> np.ndarray:
    """The image in `data` (an upload) as uint8 (H, W, 3), writable. Raises DataError, which calls it `name`."""
    return _decode(data, name, _image_format(data, name), bits_used_of_16)


def inspect_image(path: Path) -> ImageFinding:
    """Decodes the whole image. Raises nothing: a problem and a warning are without the path."""

    def look(rgb: np.ndarray) -> tuple[tuple[int, int], int | None, str]:
        with _damage(str(path), kind):
            largest = _largest_value(_sixteen_bit_values(data)) if _is_sixteen_bit(data, kind) else None
        return (rgb.shape[0], rgb.shape[1]), largest, fingerprint_of(rgb)

    try:
        data = _read_bytes(path)
        kind = _image_format(data, str(path))
        (height, width), largest, fingerprint = _decode(data, str(path), kind, 16, look)
    except DataError as error:
        return ImageFinding(problem=str(error).removeprefix(f"{path}: "))
    doubts = []
    if path.suffix and path.suffix.lower() not in _FORMATS[kind][1]:
        doubts.append(f"is a {kind} file named {path.suffix}; it is read as {kind}")
    if min(width, height) < SMALL_SIDE:
        doubts.append(f"is only {width} x {height} pixels")
    elif max(width, height) > THIN_RATIO * min(width, height):
        doubts.append(f"is very thin, {width} x {height} pixels")
    return ImageFinding(None, ", and ".join(doubts) or None, largest, fingerprint)


def _read_bytes(path: Path) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would block, a device would never end
            raise DataError(f"{path}: is not a file; give the path of an image")
        if status.st_size > MAX_FILE_BYTES:
            raise DataError(f"{path}: has {status.st_size:,} bytes, more than is read; shrink or remove it")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path}: is missing; restore the file or remove its row") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the file and its permissions") from error


def _image_format(data: bytes, name: str) -> str:
    """One of the four formats, by content. Raises DataError for anything else."""
    for kind, signature in {"JPEG": b"\xff\xd8\xff", "PNG": _PNG_SIGNATURE, "BMP": b"BM"}.items():
        if data.startswith(signature):
            return kind
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if not data.strip(b"\0"):
        found = "holds nothing but zero bytes" if data else "is empty (0 bytes)"
        raise DataError(f"{name}: {found}; copy or download it again")
    if data[:2048].removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise DataError(f"{name}: is an HTML page, not an image (a download that failed?); download the image again")
    begin = repr(data[:24])[2:-1]
    raise DataError(f'{name}: is no JPEG, PNG, WEBP or BMP (it begins with "{begin}"); convert it, or replace it')


def _decode(
    data: bytes, name: str, kind: str, bits_used_of_16: BitsUsed, visit: Callable[[np.ndarray], Any] | None = None
) -> Any:
    """The image, (H, W, 3) uint8, or what `visit` returns for it: see `visit_rgb`. Raises DataError."""
    with _damage(name, kind):
        image = _open(data, name, kind)

    def decode_and_visit() -> Any:
        with _damage(name, kind):
            rgb = _pixels(image, data, kind, bits_used_of_16)
        return rgb if visit is None else visit(rgb)

    if visit is None or image.width * image.height <= LARGE_PIXELS:
        return decode_and_visit()
    return _LARGE_IMAGES.submit(decode_and_visit).result()


@contextmanager
def _damage(name: str, kind: str) -> Iterator[None]:
    """A decoder's errors, of which a hostile file may trip any, are raised as DataError."""
    try:
        yield
    except (DataError, MemoryError):
        raise
    except Exception as error:
        reason = str(error).strip() or type(error).__name__
        raise DataError(f"{name}: is a damaged {kind} file ({reason}); copy or download it again") from error


def _open(data: bytes, name: str, kind: str) -> ImageFile:
    """The image by its header, whose pixels may be decoded. Raises DataError, and whatever Pillow raises."""
    stream = BytesIO(data)
    if kind == "WEBP":  # Pillow makes the whole canvas on opening
        _check_size(*_webp_size(data), name)
    image = _FORMATS[kind][0](stream)
    _check_size(*image.size, name)
    if getattr(image, "is_animated", False):
        raise DataError(f"{name}: is an animated {kind}; save the one frame you want as an image")
    if kind == "PNG":
        _check_png_chunks(data)
    if kind == "JPEG" and data.rfind(b"\xff\xd9", stream.tell()) < 0:
        # Pillow alone accepts a file whose tail is zeros, and leaves the missing part grey
        raise OSError("cut short: its end marker is missing")
    if kind == "JPEG" and data.count(b"\xff\xda") > MAX_SCANS and (scans := _jpeg_scans(data)) > MAX_SCANS:
        raise DataError(f"{name}: is a JPEG of {scans} scans, more than the {MAX_SCANS} that are read; save it anew")
    return image


def _pixels(image: ImageFile, data: bytes, kind: str, bits_used_of_16: BitsUsed) -> np.ndarray:
    """(H, W, 3) uint8."""
    rgb = _jpeg_pixels(image, data) if kind == "JPEG" else None
    if rgb is None:
        image.load()
        wide = _is_sixteen_bit(data, kind) and (bits_used_of_16 != 16 or image.mode.startswith("I"))
        rgb = _to_rgb(_eight_bit_image(image, data, bits_used_of_16) if wide else image, data)
    upright = _UPRIGHT.get(_orientation(image))
    return rgb if upright is None else np.ascontiguousarray(upright(rgb))


def _jpeg_pixels(image: ImageFile, data: bytes) -> np.ndarray | None:
    """(H, W, 3) uint8 by simplejpeg; None where Pillow is needed: other colours, or a damaged file."""
    if image.mode not in ("RGB", "L"):
        return None
    try:
        rgb: np.ndarray = simplejpeg.decode_jpeg(data, "RGB", strict=True)
    except ValueError:
        return None
    return rgb if rgb.shape[:2] == (image.height, image.width) else None


def _check_size(width: int, height: int, name: str) -> None:
    if width < 1 or height < 1:
        raise DataError(f"{name}: has {width} x {height} pixels, which is no image; replace or remove it")
    if width * height > MAX_PIXELS:
        raise DataError(f"{name}: has {width} x {height} pixels, more than the {MAX_PIXELS:,} that are read; shrink it")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height as a WEBP file's first chunk has them (RFC 9649, sections 2.5 to 2.7). Raises OSError."""
    if len(data) < 30:
        raise OSError("cut short")
    if data[12:16] == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF


def _jpeg_scans(data: bytes) -> int:
    """How many scans the picture has, without those of thumbnails and of what follows it."""
    scans, start = 0, 2
    while marker := _MARKER.search(data, start):
        if marker[0][1] == 0xD9:
            break
        scans += marker[0][1] == 0xDA
        start = marker.end() + int.from_bytes(data[marker.end() : marker.end() + 2], "big")
    return scans


def _check_png_chunks(data: bytes) -> None:
    """Every chunk is whole and has its checksum, up to the end chunk; Pillow skips the checksums of the pixels.

    Raises OSError with the reason."""
    start, kind = len(_PNG_SIGNATURE), b""
    while kind != b"IEND":
        kind = data[start + 4 : start + 8]
        end = start + 8 + int.from_bytes(data[start : start + 4], "big")
        if end + 4 > len(data):
            raise OSError("cut short")
        if zlib.crc32(memoryview(data)[start + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise OSError(f"wrong checksum of a chunk {kind.decode('ascii', 'replace')!r}")
        start = end + 4


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none, or none that can be read."""
    if not any(key in image.info for key in ("exif", "Raw profile type exif")):
        return 1
    try:
        value = image.getexif().get(_EXIF_ORIENTATION)
    except Exception:  # the pixels may be sound although the EXIF block is damaged
        return 1
    return value if isinstance(value, int) else 1


def _to_rgb(image: Image.Image, data: bytes) -> np.ndarray:
    if isinstance(image, PngImageFile) and image.mode in ("L", "RGB") and "transparency" in image.info:
        # Pillow gives the pixels 8 bits, and leaves the transparent colour at the file's bit depth.
        colour, bit_depth = image.info["transparency"], data[24]
        if image.mode == "L":
            image.info["transparency"] = colour * 255 // (2**bit_depth - 1)
        elif bit_depth == 16:
            image.info["transparency"] = tuple(channel >> 8 for channel in colour)
    if image.has_transparency_data:
        transparent = image.convert("RGBA")
        image = Image.new("RGB", image.size, "white")
        image.paste(transparent, mask=transparent)
    return np.array(image.convert("RGB") if image.mode != "RGB" else image)


def _is_sixteen_bit(data: bytes, kind: str) -> bool:
    return kind == "PNG" and data[24] == 16


def _sixteen_bit_values(data: bytes) -> np.ndarray:
    """A sound 16-bit PNG as uint16: (H, W) grey, (H, W, 3) BGR or (H, W, 4) BGR and alpha."""
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert values is not None, "OpenCV reads what Pillow has read"
    return values


def _largest_value(values: np.ndarray) -> int:
    """Of the colours of `_sixteen_bit_values`."""
    return int((values[..., :3] if values.ndim == 3 else values).max())


def _eight_bit_image(image: Image.Image, data: bytes, bits_used_of_16: BitsUsed) -> Image.Image:
    """A 16-bit PNG at 8 bits: round(255 v / highest), where `highest` is what becomes white."""
    values = _sixteen_bit_values(data)
    highest = max(1, _largest_value(values)) if bits_used_of_16 == "own_maximum" else 2**bits_used_of_16 - 1
    levels = ((np.arange(65536) * 255 + highest // 2) // highest).clip(max=255).astype(np.uint8)
    made = np.empty(values.shape, np.uint8)
    flat_values, flat_made = values.reshape(-1), made.reshape(-1)
    for start in range(0, values.size, _VALUES_AT_ONCE):  # numpy makes 8 bytes of each value that it looks up
        part = slice(start, start + _VALUES_AT_ONCE)
        flat_made[part] = levels[flat_values[part]]
    if values.ndim == 3:
        cv2.cvtColor(made, cv2.COLOR_BGR2RGB if values.shape[2] == 3 else cv2.COLOR_BGRA2RGBA, dst=made)
    eight_bit = Image.fromarray(made)
    if values.ndim == 2 and isinstance(key := image.info.get("transparency"), int):
        eight_bit.putalpha(Image.fromarray(np.where(values == key, np.uint8(0), np.uint8(255))))
    return eight_bit
