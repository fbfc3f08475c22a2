"""The data set pickles: written whole, read without trusting them.

A pickle can run any code when it is loaded. This reader calls no NumPy function that a pickle
names. It notes type, shape and bytes of each array, checks keys, types, shapes and ranges, and
makes the arrays itself.
"""

from __future__ import annotations

import pickle
import pickletools
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from config.settings import SHAPE
from utils.data.domains import Domain
from utils.errors import UserError, refuse_device

KEYS = ("train", "train_label", "val", "val_label")
# Protocol 5 keeps arrays as one run of bytes: no copy on the way out or in, Python 3.8 and later.
PROTOCOL = 5
NUMBERS = "biuf"  # kinds of NumPy types: truth values, whole numbers, fractions
MAX_MEMO = 1000  # objects that a pickle refers back to; ours have about 30
REMEDY = (
    "make it again with create_mnistm.py, or that of USPS with create_usps.py; docs/data.md tells "
    "the form of data of your own"
)


class Type:
    """Stands for a `numpy.dtype` in a pickle."""

    def __init__(self, code: str, *_: Any):
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]

    def made(self) -> np.dtype[Any]:
        """Returns the type, if it is one of numbers."""
        kind = np.dtype(str(self.code))
        if kind.kind not in NUMBERS:
            raise pickle.UnpicklingError(f"it holds values of type {kind}")
        return kind if self.order == "|" else kind.newbyteorder(self.order)  # type: ignore[arg-type]


class Array:
    """Stands for a `numpy.ndarray` in a pickle."""

    def __init__(
        self, data: Any, kind: Type, shape: tuple[int, ...], order: str = "C", axes: Any = None
    ):
        self.data, self.kind, self.shape, self.order = data, kind, shape, order
        self.axes = axes  # of a transposed array, whose order is then "K"

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, self.shape, self.kind, fortran, self.data = state
        self.order = "F" if fortran else "C"

    def made(self) -> np.ndarray:
        """Returns the array; NumPy counts its bytes."""
        flat = np.frombuffer(self.data, self.kind.made())
        if self.axes is not None:
            return flat.reshape(self.shape).transpose(self.axes)
        return flat.reshape(self.shape, order=self.order)  # type: ignore[call-overload]


STAND_INS: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): None,  # is named and never called
    ("numpy", "dtype"): Type,
    **{
        (f"numpy.{core}.{module}", name): stand_in
        for core in ("core", "_core")
        for module, name, stand_in in (
            ("multiarray", "_reconstruct", lambda *_: Array(b"", Type("u1"), (0,))),
            ("numeric", "_frombuffer", Array),
        )
    },
    ("_codecs", "encode"): lambda text, _: text.encode("latin1"),  # bytes in protocols 0 to 2
}


class ArrayUnpickler(pickle.Unpickler):
    """Unpickles dictionaries of arrays, as `Array`; anything else in the file is refused."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in STAND_INS:
            raise pickle.UnpicklingError(f"it would call {module}.{name} when loaded")
        return STAND_INS[module, name]


def write_pickle(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a data set to exactly `path`; `utils.atomic.whole_file` makes that safe."""
    with path.open("wb") as file:
        pickle.dump({key: np.ascontiguousarray(arrays[key]) for key in KEYS}, file, PROTOCOL)


def to_arrays(digits: Domain) -> dict[str, np.ndarray]:
    """Returns grey digits uint8 `[N, 28, 28]` as RGB, and their labels, ready to be pickled."""
    return {
        "train": in_channels(digits.train, (28, 28, 3)),
        "train_label": digits.train_label.astype(np.int32),
        "val": in_channels(digits.val, (28, 28, 3)),
        "val_label": digits.val_label.astype(np.int32),
    }


def read_pickle(
    path: str | Path, image_shape: tuple[int, ...] = (28, 28, 3), num_labels: int = 10
) -> dict[str, np.ndarray]:
    """Reads and checks a data set pickle. Grey images get the channels asked for.

    Args:
        path: the file.
        image_shape: what each image must measure.
        num_labels: labels must lie in 0..num_labels-1.

    Returns:
        `train` and `val`: uint8 `[N, *image_shape]` in [0, 255]; `train_label` and `val_label`:
        int32 `[N]`.

    Raises:
        UserError: missing, damaged, hostile, or not of this form; names the file and the remedy.
    """
    path = Path(path)
    refuse_device(path)
    try:
        with path.open("rb") as file:
            check_memo(file)
            arrays = ArrayUnpickler(file).load()
        if isinstance(arrays, dict):
            arrays = {key: value.made() if isinstance(value, Array) else value
                      for key, value in arrays.items()}  # fmt: skip
    except FileNotFoundError as error:
        raise UserError(f"{path}: missing; {REMEDY}") from error
    except IsADirectoryError as error:
        raise UserError(f"{path}: is a folder; name the pickle in it") from error
    except (OSError, MemoryError) as error:
        raise UserError(f"{path}: cannot be read ({error}); {REMEDY}") from error
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: refused, {error}; {REMEDY}") from error
    except Exception as error:  # a damaged pickle raises anything at all
        raise UserError(f"{path}: damaged ({error or type(error).__name__}); {REMEDY}") from error
    if not isinstance(arrays, dict):
        raise UserError(f"{path}: holds a {type(arrays).__name__}, not a dictionary; {REMEDY}")
    for key in KEYS:
        arrays[key] = in_channels(in_int32(arrays.get(key)), image_shape)
        check_array(path, key, arrays[key], image_shape, num_labels)
    for split in ("train", "val"):
        images, labels = len(arrays[split]), len(arrays[f"{split}_label"])
        if images != labels:
            raise UserError(f"{path}: {images} {split} images but {labels} labels; {REMEDY}")
    return {key: arrays[key] for key in KEYS}


def in_channels(array: Any, image_shape: tuple[int, ...]) -> Any:
    """Returns grey images `[N, H, W]` or `[N, H, W, 1]` as `image_shape`, others as they are."""
    height, width, channels = image_shape
    grey = ((height, width), (height, width, 1))
    if isinstance(array, np.ndarray) and array.shape[1:] in grey:
        return np.repeat(array.reshape(-1, height, width, 1), channels, axis=3)
    return array


def in_int32(array: Any) -> Any:
    """Returns labels of NumPy's own whole numbers, int64, as int32; all else as it is."""
    if isinstance(array, np.ndarray) and array.dtype == np.int64 and array.ndim == 1:
        return array.clip(-1, 2**31 - 1).astype(np.int32)
    return array


def check_memo(file: IO[bytes]) -> None:
    """Raises `UnpicklingError` if the pickle asks for a huge memo, which Python would allocate."""
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name.endswith("PUT") and isinstance(argument, int) and argument > MAX_MEMO:
            raise pickle.UnpicklingError(f"it asks for a memo of {argument} entries")
    file.seek(0)


def check_array(
    path: Path, key: str, array: Any, image_shape: tuple[int, ...], num_labels: int
) -> None:
    """Raises `UserError` unless `array` is what `key` promises."""
    if array is None:
        raise UserError(f"{path}: has no key {key!r}; {REMEDY}")
    is_label = key.endswith("_label")
    dtype, shape = (np.int32, ()) if is_label else (np.uint8, image_shape)
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape[1:] != shape:
        found = (
            f"{array.dtype} {list(array.shape)}"
            if isinstance(array, np.ndarray)
            else type(array).__name__
        )
        wanted = f"{np.dtype(dtype)} {['N', *shape]}".replace("'", "")
        other_size = (not is_label and isinstance(array, np.ndarray) and array.dtype == dtype
                      and array.ndim == 4 and SHAPE.accepts(array.shape[1:]))  # fmt: skip
        remedy = (
            "change the images, or train a network for them with --image_input_shape "
            + " ".join(map(str, array.shape[1:]))
            if other_size
            else REMEDY
        )
        raise UserError(f"{path}: {key} is {found}, should be {wanted}; {remedy}")
    if array.ndim == 0 or len(array) == 0:
        raise UserError(f"{path}: {key} is empty; {REMEDY}")
    if is_label and (array.min() < 0 or array.max() >= num_labels):
        raise UserError(
            f"{path}: {key} has values {array.min()}..{array.max()}, "
            f"should lie in 0..{num_labels - 1}; {REMEDY}"
        )


def pixel_mean(*image_sets: np.ndarray) -> tuple[float, ...]:
    """Mean per channel over several uint8 arrays `[N, H, W, C]` together, in [0, 255].

    The sums are exact. The original repository summed in float32, which stops growing at 2³², and
    published 45.652287 = 2³²/(120000·784) as the mean.
    """
    # First over the images, since a sum along the last axis is slow.
    of_pixels = [images.sum(axis=0, dtype=np.int64) for images in image_sets]
    total = np.sum([sums.sum(axis=(0, 1)) for sums in of_pixels], axis=0)
    count = sum(images[..., 0].size for images in image_sets)
    return tuple((total / count).tolist())


def describe(arrays: Mapping[str, np.ndarray]) -> str:
    """Returns a data set's shapes, and the pixel mean of its training images, in words."""
    shapes = ", ".join(f"{key} {array.dtype}{list(array.shape)}" for key, array in arrays.items())
    mean = ", ".join(f"{value:.2f}" for value in pixel_mean(arrays["train"]))
    return f"{shapes}; pixel mean ({mean})"
