"""Images as they come: every kind of pixels, turned and damaged files, archives, and threads."""

import hashlib
import io
import re
import threading
import warnings
import zipfile
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from experiments.data import images
from experiments.data.images import (
    picture_of_array,
    picture_of_file,
    pictures_of_zip,
    pixels,
    size_of_file,
)

RANDOM = np.random.default_rng(0)
RGB = RANDOM.integers(0, 256, (3, 4, 3), dtype=np.uint8)  # 4 wide, 3 high
ORIENTATION = 0x0112


def saved(folder, image, name="a.png", **options):
    image.save(folder / name, **options)
    return folder / name


def loaded(path):
    image = picture_of_file(path).load()
    assert image.mode == "RGB"
    return np.array(image)


def test_rgb_and_its_size(tmp_path):
    path = saved(tmp_path, Image.fromarray(RGB))
    np.testing.assert_array_equal(loaded(path), RGB)
    assert picture_of_file(path).name == str(path)
    assert size_of_file(path) == (4, 3)


def test_grey_levels_of_8_and_of_1_bit(tmp_path):
    grey = RGB[..., 0]
    np.testing.assert_array_equal(loaded(saved(tmp_path, Image.fromarray(grey))), grey[..., None] + 0 * RGB)
    found = loaded(saved(tmp_path, Image.fromarray(grey > 99)))
    np.testing.assert_array_equal(found[..., 1], 255 * (grey > 99))


def test_grey_levels_of_16_bits(tmp_path):
    """A ramp over all levels: every one at most half a level of 8 bits away; no value is cut off."""
    ramp = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    exact = ramp / 65535 * 255
    for name in ("a.png", "a.tif"):
        found = loaded(saved(tmp_path, Image.fromarray(ramp), name))
        assert abs(found - exact[..., None]).max() <= 0.5
    wide = ramp.astype(np.int32)
    assert abs(loaded(saved(tmp_path, Image.fromarray(wide), "b.tif")) - exact[..., None]).max() <= 0.5
    with pytest.raises(ValueError, match=r"c.tif: .* grey levels from 1 to 65,536, not of 16 bits"):
        loaded(saved(tmp_path, Image.fromarray(wide + 1), "c.tif"))
    with pytest.raises(ValueError, match=r"d.tif: .* floating-point pixels"):
        loaded(saved(tmp_path, Image.fromarray(wide.astype(np.float32)), "d.tif"))


def test_a_transparent_grey_level_of_16_bits(tmp_path):
    levels = np.array([[0, 257, 2570]], np.uint16)
    found = loaded(saved(tmp_path, Image.fromarray(levels), transparency=257))
    assert found[0, :, 0].tolist() == [0, 255, 10]


def test_palettes(tmp_path):
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.putdata([2, 0, 1])
    colours = [[70, 80, 90], [10, 20, 30], [40, 50, 60]]
    assert loaded(saved(tmp_path, image)).tolist() == [colours]
    assert loaded(saved(tmp_path, image, "a.gif")).tolist() == [colours]
    one = loaded(saved(tmp_path, image, transparency=0))  # a number of a colour
    assert one.tolist() == [[colours[0], [255] * 3, colours[2]]]
    each = loaded(saved(tmp_path, image, transparency=bytes([255, 0, 51])))  # one for every colour
    assert each.tolist() == [[[218, 220, 222], colours[1], [255] * 3]]


def test_alpha_lets_white_through(tmp_path):
    alpha = np.array([[0, 51, 255]], np.uint8)
    colours = np.array([[[100, 0, 200], [100, 0, 200], [100, 0, 200]]], np.uint8)
    found = loaded(saved(tmp_path, Image.fromarray(np.dstack([colours, alpha]))))
    assert found.tolist() == [[[255, 255, 255], [224, 204, 244], [100, 0, 200]]]
    found = loaded(saved(tmp_path, Image.fromarray(np.dstack([colours[..., :1], alpha]))))
    assert found[0, :, 2].tolist() == [255, 224, 100]
    found = loaded(saved(tmp_path, Image.fromarray(colours), transparency=(100, 0, 200)))
    assert (found == 255).all()


def test_cmyk(tmp_path):
    image = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    cyan = loaded(saved(tmp_path, image, "a.jpg", quality=95))
    assert abs(cyan[8, 8].astype(int) - [0, 255, 255]).max() <= 4


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.swapaxes(0, 1)),
        (6, lambda a: np.rot90(a, -1)),  # the camera was held so that the right side was up: turn right
        (7, lambda a: a[::-1, ::-1].swapaxes(0, 1)),
        (8, lambda a: np.rot90(a)),
    ],
)
def test_turned_cameras(tmp_path, orientation, upright):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    for name in ("a.png", "a.tif"):
        found = loaded(saved(tmp_path, Image.fromarray(RGB), name, exif=exif))
        np.testing.assert_array_equal(found, upright(RGB))
    blocks = RGB.repeat(16, 0).repeat(16, 1)
    found = loaded(saved(tmp_path, Image.fromarray(blocks), "a.jpg", exif=exif, quality=95, subsampling=0))
    assert found.shape == upright(blocks).shape
    assert abs(found.astype(int) - upright(blocks)).mean() < 3


def test_a_damaged_orientation_turns_nothing(tmp_path):
    path = saved(tmp_path, Image.fromarray(RGB), exif=b"Exif\0\0nonsense")
    np.testing.assert_array_equal(loaded(path), RGB)


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp"])
def test_the_first_frame(tmp_path, name):
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if name == "a.webp" else {}
    path = saved(tmp_path, frames[0], name, save_all=True, append_images=frames[1:], **options)
    with Image.open(path) as image:
        assert image.n_frames == 3
    np.testing.assert_array_equal(loaded(path), np.full((4, 5, 3), [255, 0, 0]))


def test_pixels_are_squashed_and_smooth(tmp_path):
    wide = np.zeros((40, 80, 3), np.uint8)
    wide[:, 40:] = 200  # the right half; and a pattern of single pixels below
    wide[20:, :] = 255 * (np.indices((20, 80)).sum(0) % 2)[..., None]
    found = pixels(picture_of_array("wide", wide), 8)
    assert found.shape == (8, 8, 3)
    assert found.dtype == np.uint8
    assert (found[:3, :3] == 0).all()
    assert abs(found[:3, 5:].astype(int) - 200).max() <= 5
    assert abs(found[5:, 1:-1].astype(int) - 127).max() <= 8  # every other pixel alone would be 0 or 255
    one = saved(tmp_path, Image.new("RGB", (1, 1), (1, 2, 3)))
    assert (pixels(picture_of_file(one), 5) == [1, 2, 3]).all()


def test_pixels_of_that_size_are_unchanged():
    array = RANDOM.integers(0, 256, (7, 7, 3), dtype=np.uint8)
    found = pixels(picture_of_array("own", array), 7)
    np.testing.assert_array_equal(found, array)
    found[:] = 0  # a copy, which one may write to
    assert array.any()


@pytest.mark.parametrize("array", [RGB[..., 0], RGB.astype(float), RGB[:0], RGB[..., :2]])
def test_arrays_that_are_refused(array):
    with pytest.raises(ValueError, match=r"own: expected an array \(height, width, 3\) of uint8, got"):
        picture_of_array("own", array)


def test_a_large_jpeg_is_decoded_smaller(tmp_path, monkeypatch):
    """And not below what is enough; what comes of it is that of the whole."""
    monkeypatch.setattr(images, "ENOUGH_PIXELS_A_SIDE", 64)
    smooth = Image.fromarray(RGB).resize((400, 300), Image.Resampling.BICUBIC)
    path = saved(tmp_path, smooth, "a.jpg", quality=95)
    assert picture_of_file(path).load().size == (100, 75)
    small = pixels(picture_of_file(path), 16).astype(int)
    assert abs(small - np.array(smooth.resize((16, 16), Image.Resampling.BICUBIC))).max() < 8
    assert picture_of_file(saved(tmp_path, smooth)).load().size == (400, 300)
    monkeypatch.setattr(images, "ENOUGH_PIXELS_A_SIDE", 151)
    assert picture_of_file(path).load().size == (400, 300)


def damaged(folder, kind):
    """A path to what is no image."""
    path = folder / f"{kind.replace(' ', '_')}.jpg"
    noise = Image.fromarray(RANDOM.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    if kind == "folder":
        path.mkdir()
    elif kind == "text":
        path.write_text("no image\n" * 50)
    elif kind == "empty":
        path.touch()
    elif kind.startswith("cut"):
        content = io.BytesIO()
        noise.save(content, kind.split()[1])
        path.write_bytes(content.getvalue()[: len(content.getvalue()) // 2])
    elif kind == "long":
        path = folder / ("a" * 500)
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "expected an image file, got: no file there"),
        ("folder", "expected an image file, got: a folder"),
        ("long", "expected an image file, got: "),
        ("text", "expected an image, PNG or JPEG, say, got: something else"),
        ("empty", "expected an image, PNG or JPEG, say, got: an empty file"),
        ("cut JPEG", "expected a whole image, got: "),
        ("cut PNG", "expected a whole image, got: "),
        ("cut BMP", "expected a whole image, got: "),
    ],
)
def test_what_is_no_image(tmp_path, kind, message):
    path = damaged(tmp_path, kind)
    with pytest.raises(ValueError, match=re.escape(f"{path}: {message}")):
        picture_of_file(path).load()
    if kind.startswith("cut"):
        assert size_of_file(path) == (64, 64)  # its header is whole
    else:
        with pytest.raises(ValueError, match=re.escape(f"{path}: {message}")):
            size_of_file(path)


def png_header(width, height):
    """A PNG that claims a size, and has no pixels."""

    def chunk(kind, content):
        checked = kind + content
        return len(content).to_bytes(4) + checked + zlib.crc32(checked).to_bytes(4)

    size = width.to_bytes(4) + height.to_bytes(4) + bytes([8, 2, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(10_001, 1), (1, 10_001), (10_001, 10_000), (20_000, 20_000)])
@pytest.mark.parametrize("action", ["default", "error"])
def test_too_many_pixels(tmp_path, size, action):
    path = tmp_path / "a.png"
    path.write_bytes(png_header(*size))
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        for read in (size_of_file, lambda path: picture_of_file(path).load()):
            with pytest.raises(ValueError, match=r"a\.png: expected at most 10,000 pixels a side, got"):
                read(path)


def test_as_many_pixels_as_may_be(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png_header(10_000, 10_000))  # beyond what Pillow warns of
    assert size_of_file(path) == (10_000, 10_000)
    path = saved(tmp_path, Image.new("L", (10_000, 1), 7))
    assert loaded(path).shape == (1, 10_000, 3)


@pytest.fixture
def archive(tmp_path):
    """Twenty images of one colour each, a text, and an image that is cut off."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as file:
        for number in range(20):
            content = io.BytesIO()
            Image.new("RGB", (30, 20), (number, 0, 0)).save(content, "PNG")
            file.writestr(f"photos/{number}.png", content.getvalue())
        file.writestr("text.png", "no image")
        file.writestr("cut.png", content.getvalue()[:60])
    return path


def test_archives_are_opened_once_whatever_the_thread(archive, monkeypatch):
    opened = []

    class Counted(zipfile.ZipFile):
        def __init__(self, *arguments):
            opened.append(threading.get_ident())
            super().__init__(*arguments)

    monkeypatch.setattr(images.zipfile, "ZipFile", Counted)
    members = [f"photos/{number}.png" for number in range(20)]
    pictures = pictures_of_zip(archive, members)
    assert [picture.name for picture in pictures] == members
    assert not opened
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda picture: pixels(picture, 4)[0, 0, 0], pictures * 5))
    assert found == [*range(20)] * 5
    assert len(opened) == 1


def test_archives_that_are_refused(archive, tmp_path):
    text, cut, none = pictures_of_zip(archive, ["text.png", "cut.png", "none.png"])
    with pytest.raises(ValueError, match=r"a\.zip: text\.png: expected an image, PNG or JPEG, say, got:"):
        text.load()
    with pytest.raises(ValueError, match=r"a\.zip: cut\.png: expected a whole image, got:"):
        cut.load()
    with pytest.raises(ValueError, match=r"a\.zip: expected none\.png in the archive, got: none"):
        none.load()
    broken = tmp_path / "b.zip"
    broken.write_bytes(archive.read_bytes().replace(b"no image", b"no  mage"))  # by its checksum
    (tmp_path / "c.zip").write_bytes(b"no archive")
    for path, got in (
        (broken, "Bad CRC-32"),
        (tmp_path / "c.zip", "File is not a zip file"),
        (tmp_path / "d.zip", ".*No such file"),
    ):
        with pytest.raises(ValueError, match=rf"{path.name}: expected a whole zip archive, got: {got}"):
            pictures_of_zip(path, ["text.png"])[0].load()


def test_the_digest_is_that_of_the_content(tmp_path):
    path, array = tmp_path / "a.png", np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    Image.fromarray(array).save(path)
    whole = hashlib.sha256(path.read_bytes()).digest()
    assert picture_of_file(path).digest() == whole
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(path, "a.png")
    assert pictures_of_zip(tmp_path / "a.zip", ["a.png"])[0].digest() == whole
    assert picture_of_array("a", array).digest() == hashlib.sha256(bytes(range(12))).digest()
    assert picture_of_file(tmp_path / "b.png").digest() == hashlib.sha256().digest()
