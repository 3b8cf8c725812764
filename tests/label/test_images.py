import io
import os
import sys

import numpy as np
import pytest
from PIL import Image

from laplace_al.label.images import (
    UnreadableImageError,
    check_image,
    for_browser,
    on_white,
    small_pixels,
    unreadable,
)

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.fixture
def ghostscript(tmp_path, monkeypatch):
    """A file that is there when somebody has run ``gs``."""
    ran, program = tmp_path / "ran", tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {ran}\necho 10.0\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    return ran


@pytest.mark.skipif(os.name == "nt", reason="a script is no program there")
@pytest.mark.parametrize("ending", ["png", "jpg", "tif", "ppm"])
def test_eps_is_never_decoded(tmp_path, ghostscript, ending):
    path = tmp_path / f"a.{ending}"
    path.write_bytes(EPS)
    for read in (check_image, lambda path: small_pixels(path, 4)):
        with pytest.raises(UnreadableImageError, match="is in none of the formats"):
            read(path)
    if ending in ("tif", "ppm"):
        with pytest.raises(UnreadableImageError):
            for_browser(path)
    assert not ghostscript.exists()


def test_large_ones_are_named_before_they_are_decoded(tmp_path, monkeypatch):
    Image.new("L", (13_000, 13_000)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("It was decoded."))
    with pytest.raises(UnreadableImageError, match=r"a\.png'.* 13000 x 13000 pixels, more than"):
        check_image(tmp_path / "a.png", whole=True)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    with pytest.raises(UnreadableImageError, match="exceeds limit of 20000 pixels"):
        check_image(tmp_path / "a.png", whole=True)


def test_some_that_cannot_be_read(tmp_path):
    Image.new("L", (2, 2)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    paths = {4: tmp_path / "a.png", 7: tmp_path / "b.png", 9: tmp_path / "gone.png"}
    found = unreadable(paths)
    assert list(found) == [7, 9]
    assert "gone.png" in found[9]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "I;16", "I", "F"])
def test_every_mode_becomes_colours(mode):
    values = {"I;16": 65535, "I": 65535, "F": 1.0, "CMYK": (0, 0, 0, 0), "RGB": (255, 255, 255)}
    white = Image.new(mode, (8, 4), values.get(mode, 1 if mode == "1" else 255))
    if mode == "P":
        white = Image.new("L", (8, 4), 255).convert("P")
    small = on_white(white, (4, 2))
    assert (small.mode, small.size) == ("RGB", (4, 2))
    np.testing.assert_array_equal(np.asarray(small), 255)


def test_what_browsers_do_not_show_is_converted(tmp_path):
    image = Image.new("L", (30, 10))
    image.paste(255, (0, 0, 15, 10))
    image.save(tmp_path / "a.tif")
    media_type, content = for_browser(tmp_path / "a.tif")
    assert media_type == "image/png"
    (tmp_path / "b.png").write_bytes(content)
    with Image.open(tmp_path / "b.png") as sent:
        assert sent.size == (30, 10)
        np.testing.assert_array_equal(np.asarray(sent)[0, :, 0], [255] * 15 + [0] * 15)


@pytest.mark.parametrize(
    ("kind", "media_type"),
    [
        ("TIFF", "image/png"),
        ("JPEG2000", "image/png"),
        ("PPM", "image/png"),
        ("PNG", "image/png"),
        ("WEBP", "image/webp"),
        ("MPO", "image/jpeg"),
    ],
)
def test_what_it_is_counts_not_what_it_is_called(kind, media_type, tmp_path):
    photo = Image.new("RGB", (30, 10), "red")
    pages = {"save_all": True, "append_images": [photo]} if kind == "MPO" else {}
    photo.save(tmp_path / "a.jpg", kind, **pages)
    sent, content = for_browser(tmp_path / "a.jpg")
    assert sent == media_type
    with Image.open(io.BytesIO(content)) as image:
        assert Image.MIME.get(image.format) in (media_type, "image/mpo")


def test_what_is_converted_is_small(tmp_path):
    Image.new("L", (5000, 100)).save(tmp_path / "a.tif")
    (tmp_path / "b.png").write_bytes(for_browser(tmp_path / "a.tif")[1])
    with Image.open(tmp_path / "b.png") as sent:
        assert sent.size == (2048, 41)


def test_what_browsers_show_is_sent_as_it_is(tmp_path, monkeypatch):
    (tmp_path / "a.jfif").write_bytes(b"whatever")
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert for_browser(tmp_path / "a.jfif") == ("image/jpeg", b"whatever")
