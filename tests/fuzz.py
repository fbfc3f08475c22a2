"""Feeds damaged and hostile files to every reader: each gives a result or a UserError, no more.

python tests/fuzz.py --inputs 100000 --seed 0

One input in ten is no file (a FIFO, a socket, a device, a folder, a link to something, to nothing
or to itself). Another one in ten is cut, replaced, renamed or deleted while it is read. Watched
for: any other exception, a reader that takes more than 10 seconds, memory beyond a bound, files
that appear, code that runs.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import pickle
import resource
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent.parent), str(Path(__file__).parent)]
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import h5py
import numpy as np
from conftest import idx_bytes, tar_of
from test_pretrained import make_dann, write_keras2
from tqdm import tqdm

from config.config import Config
from model.pretrained import load_model, start_from
from utils.data.bsds500 import read_photos
from utils.data.mnist import NPZ_KEYS, read_idx, read_npz
from utils.data.pickles import read_pickle
from utils.data.pictures import read_picture
from utils.data.usps import read_usps
from utils.errors import UserError

SECONDS = 10
MEMORY = 4 * 2**30  # bytes of address space above what the process has at the start


class TookTooLong(BaseException):
    """A reader that catches what goes wrong does not catch this."""


@dataclass(frozen=True)
class Reader:
    """One reader: what it reads with, a file name, good and hostile files to begin from."""

    read: Callable[[Path], Any]
    name: str
    samples: list[bytes]
    share: float
    """Of all inputs; slow readers get fewer."""


class Bomb:
    """An object whose pickle would make a file when loaded."""

    def __init__(self, witness: Path):
        self.witness = witness

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.witness}",)


def make_readers(witness: Path) -> dict[str, Reader]:
    import cv2

    random = np.random.default_rng(0)
    images = random.integers(0, 256, (3, 28, 28), np.uint8)
    labels = np.array([1, 2, 3], np.uint8)
    npz = io.BytesIO()
    np.savez_compressed(npz, **dict.fromkeys(NPZ_KEYS.values(), images))  # type: ignore[arg-type]
    photo = cv2.resize(random.integers(0, 256, (6, 5, 3), np.uint8), (60, 40))
    jpeg, png = (cv2.imencode(suffix, photo)[1].tobytes() for suffix in (".jpg", ".png"))
    see_through = cv2.cvtColor(photo, cv2.COLOR_BGR2BGRA)
    see_through[..., 3] = photo[..., 0]
    transparent = [cv2.imencode(suffix, see_through)[1].tobytes() for suffix in (".png", ".webp")]
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("BSDS500/data/images/train/1.jpg", jpeg)
    usps = io.BytesIO()
    with h5py.File(usps, "w") as file:
        for part in ("train", "test"):
            file[f"{part}/data"] = random.random((4, 256), np.float32)
            file[f"{part}/target"] = np.arange(4)
    arrays = {"train": np.stack([images] * 3, -1), "train_label": labels.astype(np.int32)}
    data = {**arrays, "val": arrays["train"], "val_label": arrays["train_label"]}
    bombs = [pickle.dumps({**data, "val": Bomb(witness)}, protocol) for protocol in (0, 2, 5)]
    model = make_dann(0)
    with tempfile.TemporaryDirectory() as folder:
        keras2, whole, weights = (
            Path(folder) / name for name in ("o.h5", "m.keras", "w.weights.h5")
        )
        write_keras2(keras2, model)
        model.save(whole)
        model.save_weights(weights)
        models = [path.read_bytes() for path in (keras2, whole, weights)]
    settings = ({"epoch": 3, "pixel_mean": [1, 2, 3]}, {"run_name": "a", "gamma": 5.0, "seed": 1})
    jsons = [json.dumps(values).encode() for values in settings]

    def picture(path: Path) -> Any:
        return read_picture(path, (28, 28, 3))

    def pretrained(path: Path) -> None:
        start_from(model, path)

    return {
        "IDX": Reader(read_idx, "x", [idx_bytes(images), idx_bytes(labels)], 0.17),
        "IDX gzipped": Reader(read_idx, "x.gz", [gzip.compress(idx_bytes(images))], 0.09),
        "npz": Reader(read_npz, "m.npz", [npz.getvalue()], 0.1),
        "tgz": Reader(read_photos, "b.tgz", [tar_of({"1.jpg": jpeg, "2.jpg": jpeg})], 0.1),
        "zip": Reader(read_photos, "b.zip", [archive.getvalue()], 0.1),
        "picture": Reader(picture, "p.jpg", [jpeg, png, *transparent], 0.12),
        "pickle": Reader(
            read_pickle, "d.pkl", [pickle.dumps(data, 5), pickle.dumps(data, 2), *bombs], 0.14
        ),
        "config": Reader(Config.load, "c.json", jsons, 0.11),
        "Keras 2 .h5": Reader(pretrained, "o.h5", [models[0]], 0.01),
        ".keras": Reader(load_model, "m.keras", [models[1]], 0.005),
        ".weights.h5": Reader(pretrained, "w.weights.h5", [models[2]], 0.005),
        "USPS": Reader(read_usps, "u.h5", [usps.getvalue()], 0.05),
    }


def mutate(data: bytes, random: np.random.Generator) -> bytes:
    """Returns a damaged copy: flipped bits, odd numbers, cuts, repeats, noise; up to four times."""
    for _ in range(random.integers(1, 5)):
        if not data:
            return random.bytes(int(random.integers(0, 50)))
        # Half of the time near the beginning, where headers are.
        reach = len(data) if random.random() < 0.5 else min(len(data), 64)
        at = int(random.integers(0, reach))
        kind = random.integers(0, 6)
        if kind == 0:
            data = (
                data[:at] + bytes([data[at] ^ (1 << int(random.integers(0, 8)))]) + data[at + 1 :]
            )
        elif kind == 1:
            odd = (
                b"\0\0\0\0",
                b"\xff" * 4,
                b"\x7f\xff\xff\xff",
                b"\xff\xff\xff\x7f",
                b"\0\0\0\x80",
            )
            data = data[:at] + odd[int(random.integers(0, 5))] + data[at + 4 :]
        elif kind == 2:
            data = data[:at]
        elif kind == 3:
            length = int(random.integers(1, 200))
            data = data[:at] + data[at : at + length] * 2 + data[at + length :]
        elif kind == 4:
            data = data[:at] + random.bytes(int(random.integers(1, 20))) + data[at:]
        else:
            data = data[:at] + data[at + int(random.integers(1, 100)) :]
    return data


def put_no_file(path: Path, data: bytes, random: np.random.Generator) -> None:
    """Puts something else than a file at a path: one of nine kinds."""
    kind = int(random.integers(0, 9))
    if kind == 0:
        os.mkfifo(path)
    elif kind == 1:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    elif kind == 2:
        path.mkdir()
    elif kind == 3:
        path.mkdir()
        (path / path.name).write_bytes(data)
    else:
        elsewhere = path.parent.parent / "elsewhere"
        elsewhere.write_bytes(data)
        places: dict[int, str | Path] = {4: "/dev/zero", 5: "/dev/null", 6: path, 8: elsewhere}
        path.symlink_to(places.get(kind, path.with_name("nothing")))


@contextmanager
def disturbed(path: Path, data: bytes, random: np.random.Generator) -> Iterator[None]:
    """Inside, a file is cut, written over, replaced, renamed or deleted, some moment soon."""
    kind, seconds = int(random.integers(0, 5)), float(random.uniform(0, 0.002))
    other = path.with_name("other")

    def disturb() -> None:
        time.sleep(seconds)
        with suppress(OSError):
            if kind == 0:
                os.truncate(path, len(data) // 2)
            elif kind == 1:
                path.write_bytes(data[::-1])
            elif kind == 2:
                other.write_bytes(data[: len(data) // 3])
                other.replace(path)
            elif kind == 3:
                path.rename(other)
            else:
                path.unlink()

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def remove(path: Path) -> None:
    """Removes whatever is at a path, if anything is."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def bounded() -> Iterator[None]:
    """Inside, a reader that takes too long or too much memory fails."""

    def too_long(*_: object) -> None:
        raise TookTooLong(f"took more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def fuzz(inputs: int, seed: int) -> dict[str, dict[str, int]]:
    """Runs all readers on mutated files; raises on the first that does not end as it should.

    Returns:
        per reader, how many inputs it refused and how many it read.
    """
    random = np.random.default_rng(seed)
    counts: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        witness = Path(folder) / "witness"
        place = Path(folder) / "input"
        place.mkdir()
        readers = make_readers(witness)
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + MEMORY
        old_limit = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (limit, old_limit[1]))
        try:
            for label, reader in readers.items():
                counts[label] = {"refused": 0, "read": 0}
                path = place / reader.name
                number = max(1, round(inputs * reader.share))
                for _ in tqdm(range(number), desc=label, disable=None, leave=False):
                    sample = reader.samples[int(random.integers(0, len(reader.samples)))]
                    chance = random.random()
                    data = mutate(sample, random) if chance > 0.2 else sample
                    if chance < 0.1:
                        put_no_file(path, data, random)
                    else:
                        path.write_bytes(data)
                    disturbance = disturbed(path, data, random) if 0.1 < chance < 0.2 else None
                    try:
                        with bounded(), disturbance or nullcontext():
                            reader.read(path)
                        counts[label]["read"] += 1
                    except UserError as error:
                        assert "\n" not in str(error).strip(), f"more than a line: {error}"
                        counts[label]["refused"] += 1
                    except BaseException:
                        kept = Path(tempfile.gettempdir()) / f"fuzz-{reader.name}"
                        kept.write_bytes(data)
                        print(f"{label}: the input is kept as {kept}", file=sys.stderr)
                        raise
                    assert not witness.exists(), f"{label}: code was run"
                    remove(place / "other")
                    remove(path)
                    assert not os.listdir(place), f"{label}: wrote a file"  # noqa: PTH208
        finally:
            resource.setrlimit(resource.RLIMIT_AS, old_limit)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--inputs", type=int, default=100_000, help="how many (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the damage (default %(default)s)")
    args = parser.parse_args()
    began = time.monotonic()
    counts = fuzz(args.inputs, args.seed)
    print("| reader | inputs | refused | read |\n| --- | --- | --- | --- |")
    for label, count in counts.items():
        print(f"| {label} | {sum(count.values())} | {count['refused']} | {count['read']} |")
    print(f"\n{sum(sum(count.values()) for count in counts.values())} inputs, seed {args.seed}, "
          f"{time.monotonic() - began:.0f} s, no reader failed")  # fmt: skip


if __name__ == "__main__":
    main()
