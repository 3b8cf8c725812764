"""Image files: which are taken, which can be read, and what a browser is sent."""

import contextlib
import importlib.util
import io
import pathlib
import threading
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from laplace_al._common.typing import Path

if TYPE_CHECKING:
    from PIL.Image import Image

# Endings of the files that are taken, with the format that Pillow knows them by. No other format is
# ever decoded, whatever a file holds: that of EPS would run Ghostscript on it.
FORMATS = {
    ".avif": "AVIF",
    ".bmp": "BMP",
    ".gif": "GIF",
    ".j2k": "JPEG2000",
    ".jfif": "JPEG",
    ".jp2": "JPEG2000",
    ".jpe": "JPEG",
    ".jpeg": "JPEG",
    ".jpg": "JPEG",
    ".pbm": "PPM",
    ".pgm": "PPM",
    ".png": "PNG",
    ".pnm": "PPM",
    ".ppm": "PPM",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
}
# What browsers show; the others are sent as PNG.
_MEDIA_TYPES = {
    "AVIF": "image/avif",
    "BMP": "image/bmp",
    "GIF": "image/gif",
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "WEBP": "image/webp",
}
_MAX_SHOWN = 2048  # pixels in width and height, of what is sent as PNG
_ONE_AT_A_TIME = threading.Lock()  # decoded, some take 400 MB


class UnreadableImageError(ValueError):
    """A file holds no image of a known format, or too large a one."""


@contextlib.contextmanager
def opened(path: Path) -> Iterator["Image"]:
    """Open an image of which no more than the head has been read.

    It raises ``UnreadableImageError`` if it cannot be read, then or while it is decoded, or has
    more than ``PIL.Image.MAX_IMAGE_PIXELS`` pixels (89 million); ``ValueError`` without Pillow.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise ValueError(
            "Pixels of images need Pillow: python -m pip install pillow (it comes with "
            "laplace_al[examples] too), or give --features."
        ) from error
    Image.init()
    formats = sorted({name for name in FORMATS.values() if name in Image.OPEN})
    try:
        with Image.open(path, formats=formats) as image:
            most = Image.MAX_IMAGE_PIXELS
            if most is not None and image.width * image.height > most:
                raise OSError(f"{image.width} x {image.height} pixels, more than {most:,}")
            yield image
    except UnidentifiedImageError as error:
        raise UnreadableImageError(
            f"{str(path)!r} cannot be read as an image: it is in none of the formats "
            f"{', '.join(formats)}."
        ) from error
    except Exception as error:  # whatever decoders raise of what a stranger made
        raise UnreadableImageError(
            f"{str(path)!r} cannot be read as an image: {str(error).rstrip('.')}."
        ) from error


def check_image(path: Path, *, whole: bool = False) -> None:
    """Refuse an image whose head, or ``whole``, cannot be read."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large images, which are refused
        with opened(path) as image:
            if whole:
                image.draft("RGB", (64, 64))
                image.load()


def unreadable(paths: Mapping[int, pathlib.Path], *, whole: bool = False) -> dict[int, str]:
    """Return what is wrong with images that cannot be read, or not be shown, by position."""
    if importlib.util.find_spec("PIL") is None:  # all that browsers do not show
        return {
            position: f"{str(path)!r} can be shown only with Pillow: python -m pip install pillow."
            for position, path in paths.items()
            if FORMATS[path.suffix.lower()] not in _MEDIA_TYPES
        }
    found = {}
    for position, path in tqdm(paths.items(), "Looking at images", delay=1, leave=False):
        try:
            check_image(path, whole=whole)
        except UnreadableImageError as error:
            found[position] = str(error)
    return found


def on_white(image: "Image", size: tuple[int, int]) -> "Image":
    """Return an image of mode RGB at another (width, height), on white where it is transparent.

    White is 65535 in grey images of 16 or 32 bits, 1 in those of floats.
    """
    from PIL import Image

    if image.mode.startswith(("I", "F")):  # all above 255 Pillow would convert to white
        white = 1 if image.mode == "F" else 65535
        shades = np.asarray(image.convert("F").resize(size, Image.Resampling.BOX)) / white
        eight_bit = np.rint(255 * np.clip(shades, 0, 1)).astype(np.uint8)
        return Image.fromarray(eight_bit).convert("RGB")
    # each copy of the whole image may take 400 MB
    if "transparency" not in image.info and image.mode not in ("LA", "La", "PA", "RGBA", "RGBa"):
        whole = image.convert("RGB") if image.mode in ("1", "P") else image
        return whole.resize(size, Image.Resampling.BOX).convert("RGB")
    whole = image if image.mode == "RGBA" else image.convert("RGBA")
    image = whole.resize(size, Image.Resampling.BOX)
    return Image.alpha_composite(Image.new("RGBA", size, "white"), image).convert("RGB")


def small_pixels(path: Path, size: int) -> NDArray[np.uint8]:
    """Return the pixels of an image at (size, size, 3), uint8."""
    with opened(path) as image:
        from PIL import ImageOps

        image.draft("RGB", (4 * size, 4 * size))  # large photos decode faster
        ImageOps.exif_transpose(image, in_place=True)
        return np.asarray(on_white(image, (size, size)))


def _format_of(path: pathlib.Path) -> str:
    """Return the format of what an image holds, or else of its ending."""
    kind = FORMATS[path.suffix.lower()]
    if importlib.util.find_spec("PIL") is None:
        return kind
    with contextlib.suppress(UnreadableImageError), opened(path) as image:
        found = image.format or kind
        kind = "JPEG" if found == "MPO" else found  # of two photos, the first of which is shown
    return kind


def for_browser(path: pathlib.Path) -> tuple[str, bytes]:
    """Return the media type and bytes of an image as a browser shows it.

    They are those of the file itself, or of a PNG of at most 2048 x 2048 pixels. Raises ``OSError``
    if the file has gone, ``UnreadableImageError`` if it cannot be converted.
    """
    kind = _format_of(path)
    if kind in _MEDIA_TYPES:
        return _MEDIA_TYPES[kind], path.read_bytes()
    with _ONE_AT_A_TIME, opened(path) as image, io.BytesIO() as content:
        from PIL import ImageOps

        ImageOps.exif_transpose(image, in_place=True)
        share = min(1, _MAX_SHOWN / max(image.size))
        width, height = (max(1, round(share * length)) for length in image.size)
        on_white(image, (width, height)).save(content, "PNG")
        return "image/png", content.getvalue()
