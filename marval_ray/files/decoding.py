"""Encoded images (PNG, JPEG, ...) as they are meant to be seen: upright, without transparency, 8 bits a channel."""

import os
import struct
import warnings
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "AVIF", "PPM", "JPEG2000", "TGA", "ICO", "PCX", "SGI", "QOI")
"""Pillow's decoders that are used. It has more, among them EPS, which runs Ghostscript."""

# Pillow reports damage by whichever of these its decoders run into.
_UNREADABLE = (
    OSError, ValueError, SyntaxError, RuntimeError, LookupError, TypeError, ArithmeticError, EOFError, MemoryError,
    struct.error, Image.DecompressionBombError,
)  # fmt: skip


def suffixes() -> frozenset[str]:
    """Return the endings of image files, in lower case, as Pillow knows them."""
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS)


def decode(file: BinaryIO, background: int = 255) -> Image.Image:
    """Read the first picture of an encoded image: mode "L" when it is grey, else "RGB".

    It is turned as its EXIF orientation says. Transparent parts show `background` (0 black, 255 white), never the
    colours stored under them. 16 bits become 8. More pixels than Pillow takes for an attack (179 million) are damage.

    Raises ValueError, `cannot be decoded: WHY`.
    """
    try:
        with warnings.catch_warnings():  # about damage and size, which either end below or do no harm
            warnings.simplefilter("ignore")
            with Image.open(file, formats=FORMATS) as stored:
                ImageOps.exif_transpose(stored, in_place=True)
                return _flatten(_eight_bits(stored, background), background)
    except UnidentifiedImageError as error:
        raise ValueError(f"cannot be decoded: {_what_it_is(file)}") from error
    except _UNREADABLE as error:
        raise ValueError(f"cannot be decoded: {error or type(error).__name__}") from error


def _what_it_is(file: BinaryIO) -> str:
    file.seek(0)
    head = file.read(24)
    return f"it is no image but begins with {head!r}" if head else "it is empty"


def _eight_bits(image: Image.Image, background: int) -> Image.Image:
    """Scale the range of wider modes: Pillow clips their values to 255 when it converts them."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image)
    if image.mode == "F":
        full = 1.0
    elif image.mode != "I" or image.format == "PPM":  # the only 32-bit integers that are known to hold 16 bits
        full = 65535.0
    else:
        raise ValueError("it has 32-bit integers of unknown range: save it with 8 or 16 bits")
    if not (values.min() >= 0 and values.max() <= full):  # also NaN
        raise ValueError(f"its values are {values.min():g} to {values.max():g}, not 0 to {full:g}: save it with 8 or 16 bits")
    grey = np.rint(values * (255 / full))
    if "transparency" in image.info:
        grey[values == image.info["transparency"]] = background
    return Image.fromarray(grey.astype(np.uint8))


def _flatten(image: Image.Image, background: int) -> Image.Image:
    if image.has_transparency_data:
        canvas = Image.new("RGBA", image.size, (background,) * 3 + (255,))
        canvas.alpha_composite(image.convert("RGBA"))
        return canvas.convert("L" if image.mode in ("L", "LA", "La", "1") else "RGB")
    return image.convert("L" if image.mode in ("L", "1") else "RGB")


def cut_square(image: Image.Image, size: int) -> Image.Image:
    """Scale the shorter side to `size` and keep the central square, as ADM prepares ImageNet (arXiv 2105.05233).

    It is halved by box averages while that leaves enough, then bicubic. A smaller image is cut before it is scaled up:
    of a strip of 4000 x 1 pixels one pixel is needed, not 1,024,000 x 256.
    """
    image = _centre(image, min(image.size)) if min(image.size) < size else image
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    return _centre(image, size)


def _centre(image: Image.Image, size: int) -> Image.Image:
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def pad_square(image: Image.Image, size: int) -> Image.Image:
    """Put `image` on a black square, centred as `marval_ray.files.images.pad_to` does. Raises ValueError when it is larger."""
    if max(image.size) > size:
        raise ValueError(f"has {image.width} x {image.height} pixels, too many to pad to {size}: use --fit crop")
    square = Image.new(image.mode, (size, size))
    square.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    return square


def shown(path: str) -> str:
    """Return a file's name for people: bytes that are not UTF-8 as \\xe9."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
