"""Folders of the library `datasets`, written by it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lra.errors import DataError
from lra.lab import data

datasets = pytest.importorskip("datasets")
datasets.disable_progress_bars()

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (4, 5, 3), np.uint8)
Y = [1, 0, 1]


def save(folder: Path, columns: dict[str, Any], features: dict[str, Any] | None = None) -> Path:
    kinds = datasets.Features(features) if features else None
    datasets.Dataset.from_dict(columns, features=kinds).save_to_disk(str(folder))
    return folder


def test_images_with_class_names(tmp_path: Path) -> None:
    images = [RNG.integers(0, 256, (4, 5, 3), np.uint8) for _ in range(5)]
    features = datasets.Features(
        {"img": datasets.Image(), "kind": datasets.ClassLabel(names=["dog", "cat", "none"])}
    )

    def part(chosen: slice) -> Any:
        columns = {"img": [*map(Image.fromarray, images[chosen])], "kind": [1, 0, 1, 1, 0][chosen]}
        return datasets.Dataset.from_dict(columns, features=features)

    parts = {"train": part(slice(3)), "test": part(slice(3, 5)), "extra": part(slice(1))}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "pets"))
    messages: list[str] = []
    dataset = data.load(tmp_path / "pets", on_event=messages.append)
    assert (dataset.name, dataset.classes) == ("pets", ("dog", "cat", "none"))
    np.testing.assert_array_equal(dataset.x_train * 255, np.stack(images[:3]))
    assert dataset.x_test is not None
    assert dataset.y_test is not None
    np.testing.assert_array_equal(dataset.x_test * 255, np.stack(images[3:]))
    assert (dataset.y_train.tolist(), dataset.y_test.tolist()) == ([1, 0, 1], [1, 0])
    assert messages == [f"{tmp_path / 'pets'}: not used: extra; only train and test are read"]


@pytest.mark.parametrize(
    ("columns", "features", "x"),
    [
        ({"a": [1.5, 2.5, 3.5], "b": [1, 2, 3]}, None, [[1.5, 1], [2.5, 2], [3.5, 3]]),
        ({"a": [1.5, 2.5, 3.5]}, None, [[1.5], [2.5], [3.5]]),
        ({"a": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]}, None, [[1, 2], [3, 4], [5, 6]]),
        ({"a": [[[1.0], [2.0]]] * 3}, None, [[[1], [2]]] * 3),
        ({"a": [PIXELS] * 3}, "array", (np.stack([PIXELS] * 3) / 255).astype(np.float32)),
    ],
    ids=["numbers", "one number", "lists", "nested lists", "bytes"],
)
@pytest.mark.parametrize("names", [False, True])
def test_columns(
    tmp_path: Path, columns: dict[str, Any], features: Any, x: Any, names: bool
) -> None:
    labels = ["no", "yes", "no"] if names else Y
    kinds = None
    if features:
        array = datasets.Array3D((4, 5, 3), "uint8")
        kinds = {"a": array, "label": datasets.Value("string" if names else "int32")}
    dataset = data.load(save(tmp_path / "own", {**columns, "label": labels}, kinds))
    np.testing.assert_array_equal(dataset.x_train, np.asarray(x, np.float32))
    assert dataset.classes == (("no", "yes") if names else ("0", "1"))
    assert dataset.y_train.tolist() == ([0, 1, 0] if names else Y)
    assert dataset.x_test is None


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"a": [1.0], "b": [2.0]}, "of the columns a, b, 0 could hold the classes"),
        ({"a": [1.0], "y": [2], "label": [3]}, "2 could hold the classes"),
        ({"label": [1]}, r"the columns \(none\) are not one of samples"),
        ({"text": ["words"], "n": [1], "label": [0]}, "column 'text' holds .*string"),
        ({"a": [[1.0], [1.0, 2.0]], "label": [0, 1]}, "."),
        ({"a": [[1, 2]], "label": [0]}, "x has type int64"),
        ({"a": [None, 1.0], "label": [0, 1]}, "x has 1 values that are not finite"),
        ({"a": [1.0], "label": [-1]}, "holds labels from -1"),
        ({"a": [1.0], "label": [0.5]}, "y has type float64"),
    ],
)
def test_columns_that_are_no_dataset(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    folder = save(tmp_path / "own", columns)
    with pytest.raises(DataError, match=message) as caught:
        data.load(folder)
    assert str(folder) in str(caught.value)
    assert "Remedy" in str(caught.value)


def test_a_test_set_with_other_classes_is_refused(tmp_path: Path) -> None:
    parts = {}
    for part, names in (("train", ["no", "yes"]), ("test", ["yes", "no"])):
        kinds = {"a": datasets.Value("float32"), "label": datasets.ClassLabel(names=names)}
        columns = {"a": [1.0, 2.0], "label": [0, 1]}
        features = datasets.Features(kinds)
        parts[part] = datasets.Dataset.from_dict(columns, features=features)
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "own"))
    with pytest.raises(DataError, match="the columns of test differ from those of train"):
        data.load(tmp_path / "own")


def test_images_outside_the_folder_are_not_read(tmp_path: Path) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "secret.png")
    folder = tmp_path / "own"
    row = {"bytes": None, "path": str(tmp_path / "secret.png")}
    kinds = {"image": {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}}
    save(folder, {"image": [row], "label": [0]}, {**kinds, "label": datasets.Value("int64")})
    about = json.loads((folder / "dataset_info.json").read_text())
    about["features"]["image"] = {"_type": "Image"}
    (folder / "dataset_info.json").write_text(json.dumps(about))
    with pytest.raises(DataError, match="image 0 is not stored in the folder itself"):
        data.load(folder)


def test_damaged_folders(tmp_path: Path) -> None:
    folder = save(tmp_path / "own", {"a": [1.0, 2.0], "label": [0, 1]})
    (arrow,) = folder.glob("*.arrow")
    good, state = arrow.read_bytes(), (folder / "state.json").read_text()
    for content in (b"", good[:50], good[: len(good) // 2]):
        arrow.write_bytes(content)
        with pytest.raises(DataError, match=r"own cannot be read as a folder of .*Remedy"):
            data.load(folder)
    arrow.write_bytes(good)
    for text in ("", "[]", "{}", json.dumps({**json.loads(state), "_data_files": 3})):
        (folder / "state.json").write_text(text)
        with pytest.raises(DataError, match=r"own cannot be read as a folder of .*Remedy"):
            data.load(folder)


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save(tmp_path / "own", {"a": [1.0, 2.0], "label": [0, 1]})
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"not installed\. Remedy: pip install datasets"):
        data.load(folder)
