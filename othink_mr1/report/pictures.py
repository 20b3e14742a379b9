"""Pictures inside the page, small enough that the page stays one light file."""

import base64
from io import BytesIO

from PIL import Image

LONGEST_SIDE = 280


def data_uri(picture: Image.Image) -> str:
    """The picture as a data URI, shrunk to `LONGEST_SIDE`; PNG or JPEG, whichever is smaller."""
    small = picture.convert("RGB")
    small.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.LANCZOS)
    encoded = min((_encode(small, "PNG"), _encode(small, "JPEG")), key=lambda found: len(found[1]))
    return f"data:image/{encoded[0].lower()};base64,{base64.b64encode(encoded[1]).decode()}"


def _encode(picture: Image.Image, kind: str) -> tuple[str, bytes]:
    buffer = BytesIO()
    if kind == "PNG":
        picture.save(buffer, "PNG", optimize=True)
    else:
        picture.save(buffer, "JPEG", quality=85)
    return kind, buffer.getvalue()
