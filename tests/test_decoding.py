"""Every way in which a picture is stored is decoded to what a viewer shows, and damage to a sentence."""

import io

import numpy as np
import pytest
from PIL import Image

from marval_ray.files.decoding import cut_square, decode, pad_square, suffixes
from marval_ray.files.images import decode_image, encode_png

RAMP = np.tile(np.linspace(0, 255, 28), (14, 1)).astype(np.uint8)
"""28 x 14 pixels, dark left, bright right."""
GREY = Image.fromarray(RAMP)
COLOUR = Image.merge("RGB", (GREY, GREY.transpose(Image.Transpose.ROTATE_180), GREY))


def stored(image: Image.Image, format: str = "PNG", **options: object) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file


def pixels(file: io.BytesIO, background: int = 255) -> np.ndarray:
    return np.asarray(decode(file, background))


def test_plain_grey_and_colour_keep_their_pixels():
    assert np.array_equal(pixels(stored(GREY)), RAMP)
    assert np.array_equal(pixels(stored(COLOUR)), np.asarray(COLOUR))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
def test_exif_orientation_is_followed(format):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be seen after a quarter turn clockwise
    turned = COLOUR.transpose(Image.Transpose.ROTATE_90)
    seen = pixels(stored(turned, format, exif=exif, **({"lossless": True} if format == "WEBP" else {})))
    assert seen.shape == (14, 28, 3) and np.abs(seen.astype(int) - np.asarray(COLOUR)).mean() < 10


def test_damaged_exif_does_no_harm():
    assert np.abs(pixels(stored(GREY, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\0\x12\1")).astype(int) - RAMP).max() < 8


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_sixteen_bits_are_scaled(format):
    assert np.array_equal(pixels(stored(Image.fromarray(RAMP.astype(np.uint16) * 257), format)), RAMP)


def test_fractions_are_scaled():
    assert np.array_equal(pixels(stored(Image.fromarray(RAMP.astype(np.float32) / 255), "TIFF")), RAMP)


@pytest.mark.parametrize("values", [RAMP.astype(np.int32), RAMP.astype(np.float32), np.full((2, 2), np.nan, np.float32)])
def test_values_of_unknown_range_are_refused(values):
    with pytest.raises(ValueError, match="cannot be decoded: .* save it with 8 or 16 bits"):
        decode(stored(Image.fromarray(values), "TIFF"))


def hidden(mode: str) -> io.BytesIO:
    """A picture that is opaque in its left half, and hides the ramp under transparency in its right half."""
    if mode in ("LA", "RGBA"):
        image = Image.fromarray(RAMP).convert(mode)
        image.putalpha(Image.fromarray(np.repeat([[255] * 14 + [0] * 14], 14, axis=0).astype(np.uint8)))
        return stored(image)
    if mode == "P":  # grey 128 and more are transparent
        return stored(GREY.convert("P"), transparency=bytes([255] * 128 + [0] * 128))
    one_colour = np.where(np.arange(28) < 14, RAMP, 200).astype(np.uint16 if mode == "I;16" else np.uint8)
    image = Image.fromarray(one_colour * 257 if mode == "I;16" else one_colour).convert(mode)
    return stored(image, transparency={"L": 200, "RGB": (200, 200, 200), "I;16": 200 * 257}[mode])


@pytest.mark.parametrize("background", [0, 255])
@pytest.mark.parametrize("mode", ["LA", "RGBA", "P", "L", "RGB", "I;16"])
def test_hidden_pixels_are_not_seen(mode, background):
    seen = pixels(hidden(mode), background)
    seen = seen if seen.ndim == 2 else seen[..., 0]
    assert np.array_equal(seen[:, :14], RAMP[:, :14])
    assert np.unique(seen[:, 14:]).tolist() == [background]


def test_half_transparent_pixels_are_mixed():
    image = COLOUR.convert("RGBA")
    image.putalpha(128)
    assert np.abs(pixels(stored(image)).astype(int) - (np.asarray(COLOUR) * 128.0 + 255 * 127) / 255).max() <= 1


@pytest.mark.parametrize("image", [GREY.convert("1"), COLOUR.quantize(64), COLOUR.convert("LAB")], ids=lambda image: image.mode)
def test_other_modes_look_like_the_original(image):
    seen = decode(stored(image, "TIFF")).convert("RGB")
    assert np.abs(np.asarray(seen).astype(int) - np.asarray(image.convert("RGB"))).max() == 0


def test_inverted_cmyk_of_jpeg_is_put_right():
    white = decode(stored(Image.new("CMYK", (8, 8)), "JPEG"))
    assert white.mode == "RGB" and np.asarray(white).min() > 250


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_counts(format):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("white", "black")]
    assert pixels(stored(frames[0], format, save_all=True, append_images=frames[1:])).min() > 250


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><html>", "it is no image but begins with b'<!DOCTYPE html>"),
        (stored(COLOUR, "JPEG").getvalue()[:-30], "truncated|incomplete|Truncated"),
        (stored(GREY).getvalue()[:60], "runcated|incomplete|broken"),
        (stored(Image.new("1", (20_000, 20_000))).getvalue(), r"400000000 pixels.* exceeds"),
    ],
    ids=["empty", "html", "jpeg", "png", "huge"],
)
def test_damage_is_said_in_a_sentence(content, reason):
    with pytest.raises(ValueError, match=f"^cannot be decoded: .*({reason})"):
        decode(io.BytesIO(content))


def test_random_damage_is_never_another_error():
    random = np.random.default_rng(0)
    for format in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "PPM", "AVIF", "TGA"):
        whole = np.frombuffer(stored(COLOUR, format).getvalue(), np.uint8)
        for _ in range(100):
            content = whole[: random.integers(len(whole) // 2, len(whole))].copy()
            content[random.integers(0, len(content), 3)] = random.integers(0, 256, 3)
            try:
                decode(io.BytesIO(content.tobytes()))
            except ValueError as error:
                assert str(error).startswith("cannot be decoded: ")


def test_a_strip_is_cut_before_it_is_scaled_up():
    strip = Image.new("L", (4001, 1))
    strip.putpixel((2000, 0), 255)
    assert np.asarray(cut_square(strip, 64)).tolist() == [[255] * 64] * 64


@pytest.mark.parametrize("size", [(500, 375), (97, 203), (64, 64), (1, 300), (30, 20)])
def test_every_shape_becomes_a_square(size):
    assert cut_square(Image.new("RGB", size), 64).size == (64, 64)


def test_padding_refuses_what_is_larger():
    assert pad_square(GREY, 32).size == (32, 32) and np.asarray(pad_square(GREY, 32)).sum() == RAMP.sum()
    with pytest.raises(ValueError, match="has 28 x 14 pixels, too many to pad to 16: use --fit crop"):
        pad_square(GREY, 16)


def test_suffixes_of_pictures():
    assert suffixes() >= {".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".ppm", ".jp2"}
    assert not suffixes() & {".pdf", ".eps", ".mpg", ".txt", ".npy"}


def test_png_keeps_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    assert np.array_equal(decode_image(encode_png(pixels)), pixels)
    assert np.array_equal(decode_image(encode_png(pixels[..., :1])), pixels[..., :1])


def test_images_of_parquet_are_decoded_alike():
    content = hidden("LA").getvalue()
    assert np.array_equal(decode_image(content)[..., 0], pixels(io.BytesIO(content)))
