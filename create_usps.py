"""Builds the pickle of USPS: the digits of envelopes, enlarged to the size of MNIST's.

Once run, train_MNIST2MNIST_M.py takes it as source or target. The digits are taken from where you
say, else from model_data/dataset/, else downloaded.
"""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

from config.settings import Settings
from utils.atomic import whole_file, write_json
from utils.data.pickles import describe, to_arrays, write_pickle
from utils.data.usps import RULE, find_usps
from utils.errors import run_script
from utils.ownership import digest_of, refuse_foreign
from utils.run.command_line import command_of, parse


@dataclasses.dataclass(frozen=True)
class Arguments(Settings):
    usps: Path | None = None
    """Kaggle's usps.h5, or a folder with it or with zip.train.gz and zip.test.gz."""
    output_dir: Path = Path("model_data/dataset")
    """Where USPS/usps_data.pkl goes."""
    unverified: bool = False
    """Accept digits that are not the official USPS."""


def main() -> None:
    args = Arguments.of(parse([Arguments], __doc__))
    path, note = args.output_dir / "USPS" / "usps_data.pkl", args.output_dir / "usps.json"
    before = refuse_foreign(note, path)
    digits = find_usps(args.usps, args.output_dir, args.unverified)
    arrays = to_arrays(digits)
    with contextlib.ExitStack() as files:  # both of them appear, or none
        temporary = files.enter_context(whole_file(path))
        write_pickle(temporary, arrays)
        digests = {*before.get("files", []), digest_of(temporary)}
        facts = {"digits": "USPS", "digits_sha256": digits.digest, "rule": RULE,
                 "files": sorted(digests)}  # fmt: skip
        write_json(files.enter_context(whole_file(note)), facts)
    print(f"{path}: {describe(arrays)}")
    mnist = args.output_dir / "MNIST" / "mnist_data.pkl"
    flags = ["--preset", "fast", "--features", "hidden",
             "--source_dataset_path", mnist, "--target_dataset_path", path]  # fmt: skip
    print(f"next:    {command_of('train_MNIST2MNIST_M.py', *flags)}")
    if not mnist.exists():
        mnist_of = command_of("create_mnistm.py", "--output_dir", args.output_dir)
        print(f"but {mnist} must be made before: {mnist_of}")


if __name__ == "__main__":
    run_script(main)
