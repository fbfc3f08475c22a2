from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from utils.data.pickles import pixel_mean, read_pickle, write_pickle
from utils.errors import UserError

GOOD: dict[str, np.ndarray] = {
    "train": np.arange(5 * 2352, dtype=np.uint32).astype(np.uint8).reshape(5, 28, 28, 3),
    "train_label": np.arange(5, dtype=np.int32),
    "val": np.ones((2, 28, 28, 3), np.uint8),
    "val_label": np.array([9, 0], np.int32),
}


def test_plain_pickle_reads_what_is_written(tmp_path: Path) -> None:
    write_pickle(tmp_path / "d.pkl", GOOD)
    arrays = pickle.loads((tmp_path / "d.pkl").read_bytes())
    assert list(arrays) == ["train", "train_label", "val", "val_label"]
    for key, array in GOOD.items():
        np.testing.assert_array_equal(arrays[key], array)
        assert arrays[key].dtype == array.dtype


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_reads_every_protocol(tmp_path: Path, protocol: int) -> None:
    (tmp_path / "d.pkl").write_bytes(pickle.dumps(GOOD, protocol))
    for key, array in read_pickle(tmp_path / "d.pkl").items():
        np.testing.assert_array_equal(array, GOOD[key])


def test_reads_what_numpy_1_wrote(tmp_path: Path) -> None:
    data = pickle.dumps(GOOD, 4).replace(
        b"\x8c\x16numpy._core.multiarray", b"\x8c\x15numpy.core.multiarray"
    )
    assert b"numpy.core.multiarray" in data
    # The frame that holds the name is one byte shorter; protocol 4 says so in eight bytes.
    frame = data.index(b"\x95") + 1
    length = int.from_bytes(data[frame : frame + 8], "little") - 1
    (tmp_path / "d.pkl").write_bytes(
        data[:frame] + length.to_bytes(8, "little") + data[frame + 8 :]
    )
    np.testing.assert_array_equal(read_pickle(tmp_path / "d.pkl")["train"], GOOD["train"])


@pytest.mark.parametrize("shape", [(28, 28), (28, 28, 1)])
def test_grey_images_get_the_channels_that_are_asked_for(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    """USPS and its like, beside coloured digits."""
    grey = {
        key: array if key.endswith("_label") else array[..., 0].reshape(-1, *shape)
        for key, array in GOOD.items()
    }
    write_pickle(tmp_path / "usps.pkl", grey)
    arrays = read_pickle(tmp_path / "usps.pkl")
    for part in ("train", "val"):
        for channel in range(3):
            np.testing.assert_array_equal(arrays[part][..., channel], GOOD[part][..., 0])
    assert arrays["train"].dtype == np.uint8
    one_channel = read_pickle(tmp_path / "usps.pkl", (28, 28, 1))["val"]
    np.testing.assert_array_equal(one_channel, GOOD["val"][..., :1])
    with pytest.raises(UserError, match=r"should be uint8 \[N, 32, 32, 3\]"):
        read_pickle(tmp_path / "usps.pkl", (32, 32, 3))
    write_pickle(tmp_path / "rgb.pkl", GOOD)
    with pytest.raises(UserError, match=r"with --image_input_shape 28 28 3$"):
        read_pickle(tmp_path / "rgb.pkl", (28, 28, 1))


class Bomb:
    def __init__(self, call: Any, argument: Any):
        self.call, self.argument = call, argument

    def __reduce__(self) -> tuple[Any, tuple[Any]]:
        return self.call, (self.argument,)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_hostile_pickle_runs_nothing(tmp_path: Path, protocol: int) -> None:
    witness = tmp_path / "witness"
    for bomb in (Bomb(os.system, f"touch {witness}"), Bomb(eval, f"open({str(witness)!r}, 'w')")):
        (tmp_path / "d.pkl").write_bytes(pickle.dumps({**GOOD, "train": bomb}, protocol))
        with pytest.raises(UserError, match=r"d\.pkl: refused, it would call .*create_mnistm\.py"):
            read_pickle(tmp_path / "d.pkl")
        assert not witness.exists()


class Call:
    def __init__(self, *arguments: Any):
        self.arguments = arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return np.ndarray, self.arguments


def test_a_pickle_that_calls_numpy_itself_is_refused(tmp_path: Path) -> None:
    """The first has addresses that someone wrote; NumPy would follow them, and the process would
    die. The second has no content, so it would show what was in memory."""
    forged = Call(Call((2,), np.dtype("O"), b"A" * 16))
    empty = Call((5, 28, 28, 3), np.dtype("u1"))
    for array in (forged, empty):
        (tmp_path / "d.pkl").write_bytes(pickle.dumps({**GOOD, "train": array}, 4))
        with pytest.raises(UserError, match=r"d\.pkl: damaged"):
            read_pickle(tmp_path / "d.pkl")


def test_an_array_of_objects_is_refused(tmp_path: Path) -> None:
    objects = np.array([None] * 5)
    (tmp_path / "d.pkl").write_bytes(pickle.dumps({**GOOD, "train_label": objects}, 4))
    with pytest.raises(UserError, match="refused, it holds values of type object"):
        read_pickle(tmp_path / "d.pkl")


def test_another_order_of_axes_is_read(tmp_path: Path) -> None:
    channels_first = np.ascontiguousarray(GOOD["train"].transpose(0, 3, 1, 2))
    for same in (np.asfortranarray(GOOD["train"]), channels_first.transpose(0, 2, 3, 1)):
        for protocol in (2, 5):
            (tmp_path / "d.pkl").write_bytes(pickle.dumps({**GOOD, "train": same}, protocol))
            np.testing.assert_array_equal(read_pickle(tmp_path / "d.pkl")["train"], GOOD["train"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"val": None}, "has no key 'val'"),
        ({"train": GOOD["train"].astype(np.float32)}, 
         r"train is float32 \[5, 28, 28, 3\], should be uint8 \[N, 28, 28, 3\]"),
        ({"train": GOOD["train"][..., 0, :]}, r"train is uint8 \[5, 28, 3\]"),
        ({"train": "text"}, "train is str"),
        ({"train_label": np.arange(5.0)}, r"train_label is float64 \[5\], should be int32 \[N\]"),
        ({"val_label": np.array([2**40, 0])}, r"values 0\.\..*, should lie in 0\.\.9"),
        ({"train_label": np.arange(4, dtype=np.int32)}, "5 train images but 4 labels"),
        ({"val_label": np.array([0, 10], np.int32)}, r"values 0\.\.10, should lie in 0\.\.9"),
        ({"val_label": np.array([-1, 3], np.int32)}, r"values -1\.\.3"),
        ({"val_label": np.array(3, np.int32)}, "val_label is empty"),
        ({"train": GOOD["train"][:0], "train_label": np.zeros(0, np.int32)}, "train is empty"),
    ],
)  # fmt: skip
def test_wrong_content_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    arrays = {key: value for key, value in {**GOOD, **change}.items() if value is not None}
    (tmp_path / "d.pkl").write_bytes(pickle.dumps(arrays))
    with pytest.raises(UserError, match=rf"d\.pkl: .*{message}.*create_mnistm\.py"):
        read_pickle(tmp_path / "d.pkl")


def test_labels_of_numpys_own_type_are_taken(tmp_path: Path) -> None:
    (tmp_path / "d.pkl").write_bytes(pickle.dumps({**GOOD, "val_label": np.array([9, 0])}))
    labels = read_pickle(tmp_path / "d.pkl")["val_label"]
    assert labels.dtype == np.int32
    assert labels.tolist() == [9, 0]


@pytest.mark.parametrize("data", [b"", b"no pickle", pickle.dumps(GOOD)[:5000], pickle.dumps([1])])
def test_damaged_files_are_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "d.pkl").write_bytes(data)
    with pytest.raises(UserError, match=r"d\.pkl: "):
        read_pickle(tmp_path / "d.pkl")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.pkl: missing; make it again"):
        read_pickle(tmp_path / "nowhere.pkl")
    with pytest.raises(UserError, match="is a folder"):
        read_pickle(tmp_path)


def test_pixel_mean_does_not_saturate() -> None:
    """float32 stops at 2³²/N here; the true mean of all-255 images is 255."""
    images = np.full((4000, 28, 28, 3), 255, np.uint8)
    images[..., 1] = 10
    images[..., 2] = 0
    other = np.zeros((4000, 28, 28, 3), np.uint8)
    assert pixel_mean(images) == (255.0, 10.0, 0.0)
    assert pixel_mean(images, other) == (127.5, 5.0, 0.0)
