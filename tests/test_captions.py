"""Pictures with captions: what files may hold, what is counted and reported, and Flickr8k."""

import hashlib
import re
import zipfile

import numpy as np
import pytest
from PIL import Image

from experiments.data import captions, corpora
from experiments.data.captions import (
    Captioned,
    digest,
    flickr8k,
    flickr8k_test,
    read_captions,
    split,
    take,
)
from experiments.data.corpora import RemoteFile
from experiments.data.images import pixels
from tests.commands import needs


def image(path, level=0):
    path.parent.mkdir(exist_ok=True, parents=True)
    Image.new("RGB", (8, 6), (level, 0, 0)).save(path)


def written(folder, text, encoding="utf-8"):
    (folder / "captions.tsv").write_bytes(text.encode(encoding))
    return folder / "captions.tsv"


def names(captioned):
    return [picture.name for picture in captioned.pictures]


@pytest.fixture
def folder(tmp_path):
    """Two images, a text that is called one, and one that is cut off."""
    image(tmp_path / "a.png", 10)
    image(tmp_path / "photos" / "b c.png", 20)
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:50])
    return tmp_path


def test_pictures_and_their_captions(folder):
    told = []
    absolute = folder / "photos" / ".." / "a.png"
    path = written(
        folder,
        "\ufeffphotos/b c.png\tA  dog\truns .\r\n\r\n./a.png\tcafe\u0301\r\n \t \nphotos/b c.png \t A cat\n"
        f"a.png\tcaf\u00e9\n{absolute}\tanother\n",
    )
    found = read_captions(path, told.append)
    assert names(found) == ["photos/b c.png", "a.png", str(absolute)]  # as first met
    assert found.captions == [["A dog runs .", "A cat"], ["caf\u00e9", "caf\u00e9"], ["another"]]
    assert [pixels(picture, 2)[0, 0, 0] for picture in found.pictures] == [20, 10, 10]
    assert told == []


def test_what_is_left_out(folder):
    told = []
    path = written(
        folder, "a.png\t \na.png\tone\nphotos/b c.png\t\ntext.jpg\ttwo\nmissing.png\tx\ncut.png\tthree\n"
    )
    found = read_captions(path, told.append)
    assert (names(found), found.captions) == (["a.png", "cut.png"], [["one"], ["three"]])
    assert told == [
        f"{path}: 2 blank captions are left out",
        f"{path}: 1 pictures have no other caption and are left out, first photos/b c.png",
        f"{path}: 2 of 5 pictures cannot be read and are left out, first {folder / 'text.jpg'}: expected "
        "an image, PNG or JPEG, say, got: something else",
    ]
    with pytest.raises(ValueError, match=r"cut\.png: expected a whole image"):
        found.pictures[1].load()  # only its header was read


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.png\tone\na.png two\n", "captions.tsv, line 2: expected path<TAB>caption, got no tab"),
        ("\n \tone\n", "captions.tsv, line 2: expected path<TAB>caption, got no path before the tab"),
        ("\n\n", "captions.tsv holds no picture with a caption"),
        ("a.png\t \n", "captions.tsv holds no picture with a caption"),
        ("~/a.png\tx\n", "holds no picture with a caption; 1 of 1 pictures cannot be read, first"),
        ("", "captions.tsv is empty"),
        ("caf\u00e9.png\tx\n", "is not UTF-8 text: invalid continuation byte at byte 3; --encoding"),
    ],
)
def test_files_that_are_refused(folder, text, message):
    path = written(folder, text, "latin-1")
    with pytest.raises(ValueError, match=re.escape(message)):
        read_captions(path, lambda told: None, "utf-8")


def test_other_encodings(folder):
    path = written(folder, "a.png\tcaf\u00e9\n", "latin-1")
    assert read_captions(path, print, encoding="latin-1").captions == [["caf\u00e9"]]


def drawn(count):
    return Captioned(
        [captions.Picture(f"{n}.png", lambda: Image.new("RGB", (1, 1)), bytes) for n in range(count)],
        [[f"caption {n}", "same"] for n in range(count)],
    )


def test_split_by_name():
    whole = drawn(40)
    train, valid, test = parts = split(whole, ["valid", "test"])
    assert [len(part.pictures) for part in parts] == [32, 4, 4]
    assert sorted(names(train) + names(valid) + names(test)) == sorted(names(whole))
    for part in parts:
        assert part.captions == [[f"caption {name[:-4]}", "same"] for name in names(part)]
    turned = split(take(whole, range(39, -1, -1)), ["valid", "test"])
    assert [sorted(names(part)) for part in turned] == [sorted(names(part)) for part in parts]


def test_digest():
    whole = drawn(3)
    assert digest(whole) == digest(drawn(3)) == digest(take(whole, range(3)))
    others = [
        take(whole, [0, 1]),
        take(whole, [0, 2, 1]),
        whole._replace(captions=[["caption 0 same"], *whole.captions[1:]]),
        whole._replace(pictures=[whole.pictures[0]._replace(name="x"), *whole.pictures[1:]]),
    ]
    assert len({digest(other) for other in (whole, *others)}) == 5


@pytest.fixture
def archives(tmp_path, monkeypatch):
    """A small Flickr8k: the two archives as they are downloaded, in the data directory."""
    monkeypatch.setenv("JAXRNN_DATA", str(tmp_path))
    monkeypatch.setattr(captions, "FLICKR8K_SIZES", {"train": 6, "dev": 2, "test": 2})
    monkeypatch.setattr(captions, "FLICKR8K_VALID", 2)
    monkeypatch.setattr(captions, "FLICKR8K_TEXT_FILES", {})
    folder = tmp_path / "flickr8k"
    folder.mkdir()
    parts = {"train": range(6), "dev": range(6, 8), "test": range(8, 10)}
    with zipfile.ZipFile(folder / "Flickr8k_text.zip", "w") as archive:
        for part, of in parts.items():
            archive.writestr(f"Flickr_8k.{part}Images.txt", "".join(f"{n}.jpg\n" for n in of))
        lines = [f"{n}.jpg#{k}\tCaption {k}  of {n} . \n" for n in range(10) for k in range(5)]
        archive.writestr("Flickr8k.token.txt", "".join(lines) + "1.jpg.1#0\tOf no photograph .\n")
    with zipfile.ZipFile(folder / "Flickr8k_Dataset.zip", "w") as archive:
        for n in range(10):
            image(tmp_path / "one.png", n)
            archive.write(tmp_path / "one.png", f"Flicker8k_Dataset/{n}.jpg")
    for name in ("FLICKR8K_TEXT", "FLICKR8K_PHOTOGRAPHS"):
        known(monkeypatch, name, folder)
    return folder


def known(monkeypatch, name, folder):
    """The file in the folder is the one that is expected; no other is to be downloaded."""
    file = getattr(captions, name).file
    digest = hashlib.md5((folder / file).read_bytes()).hexdigest()
    monkeypatch.setattr(captions, name, RemoteFile(file, "http://127.0.0.1:1/", digest, "md5"))


def levels(captioned):
    return [int(pixels(picture, 4)[0, 0, 0]) for picture in captioned.pictures]


def test_flickr8k_of_the_archives(archives, monkeypatch):
    told = []
    parts = flickr8k(told.append)
    # The two smallest SHA-256 of the names, in the order of the list.
    order = sorted(range(6), key=lambda n: hashlib.sha256(f"{n}.jpg".encode()).hexdigest())
    assert levels(parts.valid) == sorted(order[:2])
    assert levels(parts.train) == sorted(order[2:])
    assert (levels(parts.test), parts.test_name) == ([6, 7], "dev")
    assert levels(flickr8k_test(told.append)) == [8, 9]
    assert told == []
    for part in parts[:3]:
        assert names(part) == [f"{n}.jpg" for n in levels(part)]
        assert part.captions == [[f"Caption {k} of {n} ." for k in range(5)] for n in levels(part)]


def test_small_photographs_come_first(archives, tmp_path):
    (archives / "Flickr8k_Dataset.zip").unlink()
    image(tmp_path / "one.png", 99)
    for name, numbers in ((captions.SMALL_TRAIN_DEV, range(8)), (captions.SMALL_TEST, range(8, 10))):
        with zipfile.ZipFile(archives / name, "w") as archive:
            for n in numbers:
                archive.write(tmp_path / "one.png", f"Flicker8k_Dataset/{n}.jpg")
    assert [set(levels(part)) for part in flickr8k(print)[:3]] == [{99}] * 3
    assert levels(flickr8k_test(print)) == [99, 99]


def test_flickr8k_that_is_not_there(archives, monkeypatch):
    told = []

    def retrieve(*_):
        assert told
        raise OSError("no network")

    monkeypatch.setattr(corpora.pooch, "retrieve", retrieve)
    (archives / "Flickr8k_Dataset.zip").unlink()
    with pytest.raises(ValueError, match=r"flickr8k is not in the data directory and cannot be downloaded"):
        flickr8k(told.append)
    assert told == [f"flickr8k: the photographs, a gigabyte, are downloaded to {archives}"]


def test_flickr8k_that_is_damaged(archives, monkeypatch):
    small = archives / captions.SMALL_TRAIN_DEV
    with zipfile.ZipFile(small, "w") as archive:
        archive.writestr("Flicker8k_Dataset/0.jpg", "")
    lacking = "is damaged: it lacks 7 of 8 photographs, the first Flicker8k_Dataset/1.jpg"
    with pytest.raises(ValueError, match=lacking):
        flickr8k(print)
    small.write_text("no archive")
    with pytest.raises(ValueError, match=r"train_dev\.zip is damaged: File is not a zip file"):
        flickr8k(print)
    small.unlink()
    (archives / "Flickr8k_Dataset.zip").write_bytes(b"other")
    with pytest.raises(ValueError, match=r"Flickr8k_Dataset\.zip has MD5 \w{32}, expected"):
        flickr8k(print)
    with zipfile.ZipFile(archives / "Flickr8k_text.zip", "w") as archive:
        archive.writestr("Flickr8k.token.txt", "0.jpg#0\ta .\n")
        archive.writestr("Flickr_8k.trainImages.txt", "0.jpg\n")
    known(monkeypatch, "FLICKR8K_TEXT", archives)
    with pytest.raises(ValueError, match="is damaged: expected 6 train photographs, got 1"):
        flickr8k(print)
    with pytest.raises(ValueError, match=r"Flickr8k_text\.zip lacks Flickr_8k\.testImages\.txt"):
        flickr8k_test(print)


def test_a_photograph_without_captions(archives, monkeypatch):
    with zipfile.ZipFile(archives / "Flickr8k_text.zip", "w") as archive:
        archive.writestr("Flickr8k.token.txt", "8.jpg#0\ta .\n")
        archive.writestr("Flickr_8k.testImages.txt", "8.jpg\n9.jpg\n")
    known(monkeypatch, "FLICKR8K_TEXT", archives)
    with pytest.raises(ValueError, match=r"is damaged: no caption of 9\.jpg, and 1 in all"):
        flickr8k_test(print)


@needs("flickr8k")
def test_flickr8k_itself():
    if not (corpora.data_directory() / "flickr8k" / captions.SMALL_TRAIN_DEV).exists():
        pytest.skip("the whole photographs take seconds to hash")
    parts = flickr8k(print)
    assert [len(part.pictures) for part in parts[:3]] == [5_500, 500, 1_000]
    assert len({name for part in parts[:3] for name in names(part)}) == 7_000
    assert {len(of) for part in parts[:3] for of in part.captions} == {5}
    everything = [caption for part in parts[:3] for of in part.captions for caption in of]
    assert all(everything)
    assert not any("\t" in caption or caption != caption.strip() for caption in everything)
    # The same 500 on every machine.
    assert digest(parts.valid) == "72107c052ee4746b7e671c6bab9d5208383bb1f828e9d25daf292e087cd624dd"
    first = pixels(parts.train.pictures[0], 224)
    assert first.shape == (224, 224, 3)
    assert 20 < np.std(first) < 100
