"""Pictures of any kind as plain RGB: encoded bytes, size, and a digest of the pixels.

An RGB picture that needs no turning keeps its bytes. Every other one becomes an RGB PNG: transparency over white, the
EXIF orientation applied, palettes and greys spelled out, 16-bit greys scaled to 8 bits.
"""

import hashlib
import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from othink_mr1.data.copies import thumbnail

# Formats that Pillow decodes by itself, without another program.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
_KEPT = ("PNG", "JPEG", "WEBP")  # formats that every reader of the dataset knows
# Qwen-VL's processors refuse a picture with a side under one patch of tokens, or longer than 200 times its width.
LEAST_SIDE = 28
MOST_ASPECT = 200
MOST_PIXELS = 64_000_000  # 192 MB of RGB; a small file can claim far more
_ORIENTATION = 0x0112


class RowError(Exception):
    """A picture or a row that cannot be used: a reason (one word, for counting) and what exactly was found."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Picture:
    """An RGB picture: encoded, size in pixels, digest of its pixels, thumbnail, and whether it was encoded anew."""

    encoded: bytes
    width: int
    height: int
    pixels_sha256: str
    thumbnail: bytes  # see `copies`
    encoded_anew: bool


def read_picture(encoded: bytes) -> Picture:
    """The picture in `encoded`, as RGB.

    Raises:
        RowError: it cannot be read, is cut off, or has a size that models refuse.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of sizes that are refused below, and of odd metadata
        return _read(encoded)


def _read(encoded: bytes) -> Picture:
    try:
        source = Image.open(io.BytesIO(encoded), formats=_FORMATS)
    except Image.DecompressionBombError as error:
        raise RowError("picture_too_large", str(error)) from None
    except UnidentifiedImageError:
        what = "empty file" if not encoded else "not " + ", ".join(_FORMATS)
        raise RowError("picture_unreadable", what) from None
    except Exception as error:  # a broken header can raise nearly anything in a decoder
        raise RowError("picture_unreadable", _line(error)) from None
    _check_size(*source.size)
    try:
        source.load()
        plain = _is_plain(source)
        picture = source if plain else as_rgb(source)
        pixels = picture.tobytes()
    except OSError as error:
        reason = "picture_truncated" if "truncated" in str(error) else "picture_unreadable"
        raise RowError(reason, _line(error)) from None
    except Exception as error:  # as above
        raise RowError("picture_unreadable", _line(error)) from None
    width, height = picture.size
    _check_size(width, height)
    digest = hashlib.sha256(f"{width}x{height}:".encode())
    digest.update(pixels)
    kept = encoded if plain else encode(picture)
    return Picture(kept, width, height, digest.hexdigest(), thumbnail(picture), encoded_anew=not plain)


def _check_size(width: int, height: int) -> None:
    if width * height > MOST_PIXELS:
        raise RowError("picture_too_large", f"{width}x{height} pixels; at most {MOST_PIXELS}")
    if min(width, height) < LEAST_SIDE:
        raise RowError("picture_too_small", f"{width}x{height} pixels; each side at least {LEAST_SIDE}")
    if max(width, height) > MOST_ASPECT * min(width, height):
        raise RowError("picture_too_long", f"{width}x{height} pixels; one side at most {MOST_ASPECT} times the other")


def _is_plain(source: Image.Image) -> bool:
    """Whether the bytes can be kept: RGB, upright, one frame, nothing transparent."""
    return (
        source.mode == "RGB"
        and source.format in _KEPT
        and getattr(source, "n_frames", 1) == 1
        and "transparency" not in source.info
        and source.getexif().get(_ORIENTATION, 1) == 1
    )


def as_rgb(source: Image.Image) -> Image.Image:
    """Any loaded picture as it looks on a white page, upright, in RGB."""
    picture = ImageOps.exif_transpose(source)
    if picture.mode.startswith("I") or picture.mode == "F":
        picture = _eight_bits(picture)
    if picture.has_transparency_data:
        over = picture.convert("RGBA")
        page = Image.new("RGBA", over.size, (255, 255, 255, 255))
        page.alpha_composite(over)
        picture = page
    return picture.convert("RGB")


def _eight_bits(picture: Image.Image) -> Image.Image:
    """A grey picture with more than 8 bits, scaled rather than cut off at 255."""
    values = np.asarray(picture)
    if values.dtype.kind == "f":
        values = np.nan_to_num(values, nan=0.0, posinf=255.0, neginf=0.0)
        values = values * 255 if values.size and values.max() <= 1 else values
    elif values.size and values.max() > 255:
        values = values // 257
    return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))


def encode(picture: Image.Image) -> bytes:
    """An RGB picture as PNG, the same bytes on every machine with the same Pillow."""
    buffer = io.BytesIO()
    # Run-length matches (zlib's strategy 3) do not hash, and hashing is what zlib does differently on each processor.
    picture.save(buffer, "PNG", compress_level=6, compress_type=3)
    return buffer.getvalue()


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
