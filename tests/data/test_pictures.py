"""Pictures of every kind become RGB, or say why they cannot."""

import io

import numpy as np
import pytest
from makers import encoded, plain, png
from PIL import Image

from othink_mr1.data import pictures
from othink_mr1.data.pictures import RowError, read_picture


def seen(encoded_bytes: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(read_picture(encoded_bytes).encoded)))


def reason(encoded_bytes: bytes) -> str:
    with pytest.raises(RowError) as caught:
        read_picture(encoded_bytes)
    assert "/" not in caught.value.detail
    return caught.value.reason


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_rgb_keeps_its_bytes(kind: str) -> None:
    given = encoded(plain(), kind)
    picture = read_picture(given)
    assert picture.encoded is given
    assert not picture.encoded_anew
    assert (picture.width, picture.height) == (40, 32)


def test_transparency_is_shown_on_white() -> None:
    source = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    source.paste((200, 0, 0, 255), (0, 0, 20, 40))
    shown = seen(encoded(source))
    assert shown.shape == (40, 40, 3)
    assert shown[0, 0].tolist() == [200, 0, 0]
    assert shown[0, 39].tolist() == [255, 255, 255]


def test_half_transparency_is_mixed_with_white() -> None:
    assert seen(encoded(Image.new("RGBA", (40, 40), (0, 0, 0, 128))))[5, 5].tolist() == [127, 127, 127]


def test_palette_and_palette_with_a_transparent_colour() -> None:
    source = Image.new("P", (40, 40), 1)
    source.putpalette([0, 0, 0, 10, 20, 30, 9, 9, 9])
    source.paste(2, (0, 0, 20, 40))
    assert seen(encoded(source))[0, 39].tolist() == [10, 20, 30]
    shown = seen(encoded(source, transparency=1))
    assert shown[0, 39].tolist() == [255, 255, 255]
    assert shown[0, 0].tolist() == [9, 9, 9]


def test_rgb_png_with_a_transparent_colour() -> None:
    assert seen(encoded(Image.new("RGB", (40, 40), (1, 2, 3)), transparency=(1, 2, 3)))[0, 0].tolist() == [255] * 3


@pytest.mark.parametrize("mode", ["1", "L"])
def test_grey(mode: str) -> None:
    assert seen(encoded(Image.new(mode, (40, 40), 255)))[0, 0].tolist() == [255, 255, 255]


def test_grey_with_alpha() -> None:
    assert seen(encoded(Image.new("LA", (40, 40), (90, 255))))[0, 0].tolist() == [90, 90, 90]


def test_sixteen_bit_grey_is_scaled_not_cut_off() -> None:
    source = Image.fromarray(np.full((40, 40), 32896, np.uint16))
    assert seen(encoded(source))[0, 0].tolist() == [128, 128, 128]


def test_cmyk_jpeg_becomes_rgb() -> None:
    assert seen(encoded(Image.new("CMYK", (40, 40), (0, 0, 0, 0)), "JPEG"))[0, 0].tolist() == [255, 255, 255]


def test_exif_rotation_is_applied() -> None:
    source = Image.new("RGB", (60, 40), (255, 255, 255))
    source.paste((0, 0, 0), (0, 0, 60, 10))  # a dark bar at the top
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    picture = read_picture(encoded(source, "JPEG", exif=exif, quality=95))
    assert (picture.width, picture.height) == (40, 60)
    shown = np.asarray(Image.open(io.BytesIO(picture.encoded)))
    assert shown[30, 38].max() < 60
    assert shown[30, 2].min() > 200


def test_the_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ((250, 0, 0), (0, 0, 250))]
    assert seen(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))[0, 0].tolist() == [250, 0, 0]


def test_the_digest_is_of_the_pixels_not_of_the_file() -> None:
    source = plain(5)
    same = [read_picture(given).pixels_sha256 for given in (png(5), encoded(source, compress_level=0))]
    assert same[0] == same[1] != read_picture(png(6)).pixels_sha256
    # 40x32 and 32x40 of one colour hold the same bytes.
    assert read_picture(png(5)).pixels_sha256 != read_picture(png(5, (32, 40))).pixels_sha256


def test_what_cannot_be_read() -> None:
    assert reason(b"") == "picture_unreadable"
    assert reason(b"no picture at all") == "picture_unreadable"
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90, 3), np.uint8))
    assert reason(encoded(noise)[:5000]) == "picture_truncated"
    assert reason(encoded(noise, "JPEG")[:2000]) == "picture_truncated"
    damaged = bytearray(encoded(noise))
    damaged[60:90] = bytes(30)
    assert reason(bytes(damaged)) in ("picture_unreadable", "picture_truncated")


def test_formats_that_run_other_programs_are_not_opened() -> None:
    assert reason(encoded(plain(), "EPS")) == "picture_unreadable"


def test_sizes_that_models_refuse() -> None:
    assert reason(png(0, (27, 300))) == "picture_too_small"
    assert reason(png(0, (28, 5601))) == "picture_too_long"
    assert read_picture(png(0, (28, 5600))).height == 5600


def test_a_bomb_is_refused_before_it_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    def unpack(*_: object) -> None:
        raise AssertionError("the pixels were unpacked")

    bomb = encoded(Image.new("1", (9000, 8000)))
    assert len(bomb) < 20_000
    monkeypatch.setattr(Image.Image, "tobytes", unpack)
    monkeypatch.setattr(Image.Image, "convert", unpack)
    assert pictures.MOST_PIXELS < 9000 * 8000
    assert reason(bomb) == "picture_too_large"


def test_a_bomb_beyond_what_pillow_opens() -> None:
    header = bytearray(png())
    header[16:24] = (60_000).to_bytes(4, "big") * 2
    header[29:33] = __import__("zlib").crc32(bytes(header[12:29])).to_bytes(4, "big")
    assert reason(bytes(header)) == "picture_too_large"


def test_encoding_is_the_same_bytes_each_time() -> None:
    source = plain(9)
    assert pictures.encode(source) == pictures.encode(source.copy())
