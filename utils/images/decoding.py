"""The one image decoder: a file or an upload becomes RGB, or one clear line says why not.

JPEG, PNG, WEBP and BMP are read, told apart by content, never by name. What is decided here holds wherever an image is
read (training, validation, test, the page):

- EXIF orientation is applied. Colour profiles are not: pixel values are taken as sRGB.
- Transparency (an alpha channel, a transparent palette entry or colour) is laid over white, as image viewers show it.
- 16-bit grey is scaled, round(v / 257); of 16-bit colours Pillow keeps the high byte, within one level of that.
- CMYK and YCCK JPEGs are taken as inverted, Adobe's convention that browsers follow too, with or without its marker.
- Of a JPEG that holds several pictures (MPO, a phone's depth or gain map) the first is read. Animations are refused.
- An image is refused by its header where it has more than MAX_PIXELS, before memory is asked for. Tiny and very thin
  images are read, and `inspect_image` warns of them.
- A damaged image is refused, never filled up: a JPEG must hold its end marker, a PNG all its chunks and checksums.
- All pixels are Pillow's. OpenCV gives the same of ordinary JPEGs about a tenth sooner, but its own libjpeg writes to
  stderr of damaged files.

Nothing of Pillow's global state is read or changed, and any number of threads may decode at once.
"""

from __future__ import annotations

import stat
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from utils.errors import DataError
from utils.pillow_pixels import rgb_array

MAX_PIXELS = 64 * 1024 * 1024
"""Width times height of the largest image that is read: 8192 x 8192."""

MAX_FILE_BYTES = 640 * 1024 * 1024
"""No image of MAX_PIXELS in the four formats needs a file this large (64-bit pixels that do not compress: 512 MiB)."""

DECODING_RULES = 1
"""Raised whenever an image may be decoded or judged in another way than before: stored findings are then void."""

SMALL_SIDE = 16
THIN_RATIO = 10
"""`inspect_image` warns below SMALL_SIDE pixels on the shorter side, and beyond THIN_RATIO times it on the longer."""

BACKGROUND = (255, 255, 255)
"""What transparent pixels are laid over."""

_READERS: dict[str, Callable[[BytesIO], ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "WEBP": WebPImageFile,
    "BMP": BmpImageFile,
}
_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png",),
    "WEBP": (".webp",),
    "BMP": (".bmp", ".dib"),
}
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SIGNATURES = {
    b"GIF87a": "a GIF",
    b"GIF89a": "a GIF",
    b"%PDF": "a PDF document",
    b"%!PS": "an EPS or PostScript file",
    b"\xc5\xd0\xd3\xc6": "an EPS file",
    b"II*\0": "a TIFF",
    b"MM\0*": "a TIFF",
    b"8BPS": "a Photoshop file",
    b"\0\0\1\0": "a Windows icon",
    b"\0\0\0\x0cjP  ": "a JPEG 2000 image",
    b"\0\5\x16\7": "a macOS metadata file",
    b"PK\3\4": "a ZIP archive",
    b"version https://git-lfs": "a Git LFS pointer, whose file was never fetched",
}
_MP4_BRANDS = {b"heic": "a HEIC image", b"heix": "a HEIC image", b"mif1": "a HEIF image", b"avif": "an AVIF image"}
_EXIF_ORIENTATION = 0x0112
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class ImageFinding:
    """What is wrong with one image: `problem` where it cannot be used, `warning` where it can but looks doubtful."""

    problem: str | None = None
    warning: str | None = None


def read_rgb(path: Path) -> np.ndarray:
    """The image in `path` as uint8 (H, W, 3), writable. Raises DataError: the file, what is wrong, the remedy."""
    return decode_rgb(_read_bytes(path), str(path))


def decode_rgb(data: bytes, name: str) -> np.ndarray:
    """The image in `data` (an upload) as uint8 (H, W, 3), writable. Raises DataError, which calls it `name`."""
    image = _load(data, name, _image_format(data, name))
    try:
        return _to_rgb(image, data)
    except MemoryError:
        raise
    except Exception as error:  # a hostile file may trip any line of a decoder
        raise DataError(
            f"{name}: its pixels cannot be converted to RGB ({_reason(error)}); save it anew as JPEG or PNG"
        ) from error


def inspect_image(path: Path) -> ImageFinding:
    """Decodes the whole image and says what is wrong or doubtful, in words that begin with the path. Raises nothing."""
    try:
        data = _read_bytes(path)
        kind = _image_format(data, str(path))
        width, height = _load(data, str(path), kind).size
    except DataError as error:
        return ImageFinding(problem=str(error))
    doubts = []
    if path.suffix and path.suffix.lower() not in _SUFFIXES[kind]:
        doubts.append(f"is a {kind} file named {path.suffix}; it is read as {kind}")
    if min(width, height) < SMALL_SIDE:
        doubts.append(f"is only {width} x {height} pixels")
    elif max(width, height) > THIN_RATIO * min(width, height):
        doubts.append(f"is very thin, {width} x {height} pixels")
    return ImageFinding(warning=f"{path}: " + ", and ".join(doubts) if doubts else None)


def _read_bytes(path: Path) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would block, a device would never end
            raise DataError(f"{path}: is not a file; give the path of an image")
        if status.st_size > MAX_FILE_BYTES:
            raise DataError(
                f"{path}: has {status.st_size:,} bytes, more than any image that is read; shrink or remove it"
            )
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path}: is missing; restore the file or remove its row") from error
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror or error}); check the file and its permissions"
        ) from error
    except ValueError as error:  # a NUL in the name
        raise DataError(f"{str(path)!r}: is not a file name ({error})") from error


def _image_format(data: bytes, name: str) -> str:
    """One of the four formats, by content. Raises DataError saying what else it is."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(_PNG_SIGNATURE):
        return "PNG"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "WEBP"
    if data.startswith(b"BM"):
        return "BMP"
    raise DataError(f"{name}: {_describe(data)}")


def _describe(data: bytes) -> str:
    """What the bytes are that are none of the four formats, and what to do about it."""
    if not data.strip(b"\0"):
        return f"{'holds nothing but zero bytes' if data else 'is empty (0 bytes)'}; copy or download it again"
    text = data[:2048].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body", b"<script")):
        return "is an HTML page, not an image (a download that failed?); download the image again"
    if b"<svg" in text:
        return "is an SVG drawing; convert it to JPEG or PNG"
    if data[4:8] == b"ftyp":
        what = _MP4_BRANDS.get(data[8:12], "a video")
    else:
        what = next((what for signature, what in _SIGNATURES.items() if data.startswith(signature)), "")
    if what:
        return f"is {what}; JPEG, PNG, WEBP and BMP are read: convert it, or put an image in its place"
    return f"is not JPEG, PNG, WEBP or BMP (it begins with {data[:8]!r}); put an image in its place"


def _load(data: bytes, name: str, kind: str) -> ImageFile:
    """The decoded image in the file's own mode. Raises DataError."""
    stream = BytesIO(data)
    try:
        if kind == "WEBP":  # Pillow makes the whole canvas on opening
            _check_size(*_webp_size(data), name)
        image = _READERS[kind](stream)
        _check_size(*image.size, name)
        if getattr(image, "is_animated", False):
            raise DataError(f"{name}: is an animated {kind}; save the one frame you want as an image")
        if kind == "PNG":
            _check_png_chunks(data)
        if kind == "JPEG" and data.rfind(b"\xff\xd9", stream.tell()) < 0:
            # Pillow alone lets a file pass whose tail is zeros, and shows the missing part grey
            raise OSError("cut short: its end marker is missing")
        image.load()
    except (DataError, MemoryError):
        raise
    except Exception as error:  # a hostile file may trip any line of a decoder
        raise DataError(f"{name}: is a damaged {kind} file ({_reason(error)}); copy or download it again") from error
    return image


def _reason(error: Exception) -> str:
    return str(error).strip() or type(error).__name__


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


def _check_png_chunks(data: bytes) -> None:
    """Every chunk is whole and has its checksum, up to the end chunk; Pillow skips the checksums of the pixels.

    Raises OSError with the reason."""
    place, kind = len(_PNG_SIGNATURE), b""
    while kind != b"IEND":
        kind = data[place + 4 : place + 8]
        end = place + 8 + int.from_bytes(data[place : place + 4], "big")
        if end + 4 > len(data):
            raise OSError("cut short")
        if zlib.crc32(memoryview(data)[place + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise OSError(f"wrong checksum of a chunk {kind.decode('ascii', 'replace')!r}")
        place = end + 4


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none, or none that can be read."""
    if not any(key in image.info for key in ("exif", "Raw profile type exif")):
        return 1
    try:
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
    except Exception:  # a damaged EXIF block says nothing against the pixels
        return 1
    return value if isinstance(value, int) else 1


def _to_rgb(image: Image.Image, data: bytes) -> np.ndarray:
    transposition = _TRANSPOSITIONS.get(_orientation(image))
    if image.mode.startswith("I"):
        return _wide_grey_to_rgb(image if transposition is None else image.transpose(transposition))
    if isinstance(image, PngImageFile) and image.mode in ("L", "RGB") and "transparency" in image.info:
        image.info["transparency"] = _eight_bit_colour(image.info["transparency"], bit_depth=data[24])
    rgb = image.convert("RGBA") if image.has_transparency_data else image
    if rgb.mode == "RGBA":
        background = Image.new("RGB", rgb.size, BACKGROUND)
        background.paste(rgb, mask=rgb)
        rgb = background
    elif rgb.mode != "RGB":
        rgb = rgb.convert("RGB")
    if transposition is not None:
        rgb = rgb.transpose(transposition)
    return rgb_array(rgb)


def _eight_bit_colour(colour: int | tuple[int, ...], bit_depth: int) -> int | tuple[int, ...]:
    """The transparent colour of a PNG at the depth that Pillow gives the pixels; Pillow leaves it at the file's."""
    if isinstance(colour, tuple):
        return tuple(part >> 8 for part in colour) if bit_depth == 16 else colour
    return colour * 255 // (2**bit_depth - 1)


def _wide_grey_to_rgb(image: Image.Image) -> np.ndarray:
    """16-bit grey (modes I;16 and I), with or without a transparent value."""
    values = np.asarray(image).astype(np.int64)
    grey = ((np.clip(values, 0, 65535) + 128) // 257).astype(np.uint8)
    rgb = np.stack([grey, grey, grey], axis=-1)
    if isinstance(image.info.get("transparency"), int):
        rgb[values == image.info["transparency"]] = BACKGROUND
    return rgb
