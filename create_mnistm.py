"""Builds MNIST-M: every MNIST digit over a random crop of a BSDS500 photograph.

Once run, `model_data/dataset/` holds the two pickles that train_MNIST2MNIST_M.py reads. Both
sources are taken from where you say, else from model_data/dataset/, else downloaded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from pathlib import Path
from typing import Annotated

import numpy as np

from config.settings import PICTURE, SEED, Settings
from utils.atomic import whole_file, write_json
from utils.data.bsds500 import find_bsds500
from utils.data.embedded import embedded_digits, embedded_photos
from utils.data.mnist import find_mnist
from utils.data.mnist_m import RULE, blend
from utils.data.pickles import describe, to_arrays, write_pickle
from utils.errors import UserError, run_script
from utils.ownership import digest_of, refuse_foreign
from utils.record.figures import save_samples
from utils.run.command_line import command_of, parse

DATA = Path("model_data/dataset")
SMALL = ("--epoch", 20, "--batch_size", 64)  # as make demo trains


@dataclasses.dataclass(frozen=True)
class Arguments(Settings):
    mnist: Path | None = None
    """An mnist.npz, or a folder of the four IDX files, gzipped or not."""
    bsds: Path | None = None
    """BSDS500 as a .tgz, .tar, .zip or unpacked folder."""
    output_dir: Path | None = None
    """Where MNIST/mnist_data.pkl and MNIST_M/mnist_m_data.pkl go. By default
    model_data/dataset, with --embedded model_data/dataset/embedded."""
    seed: Annotated[int, SEED] = 42
    """Seed of the one generator behind all choices: the same seed gives the same bytes."""
    embedded: bool = False
    """Use small data that ships with the packages instead: no download, for trying things out."""
    unverified: bool = False
    """Accept digits or photographs that are not the official MNIST and BSDS500."""
    picture: Annotated[Path | None, PICTURE] = None
    """Where the picture of samples goes, a .png or .jpg. By default samples.png beside
    the pickles."""


def main() -> None:
    args = Arguments.of(parse([Arguments], __doc__))
    if args.embedded and (args.mnist or args.bsds or args.unverified):
        raise UserError("embedded: uses no --mnist, --bsds or --unverified; leave them out")
    folder = args.output_dir or (DATA / "embedded" if args.embedded else DATA)
    place = args.picture or folder / "samples.png"
    source, target = folder / "MNIST" / "mnist_data.pkl", folder / "MNIST_M" / "mnist_m_data.pkl"
    note = folder / "mnist_m.json"
    before = refuse_foreign(note, source, target, place)
    random = np.random.RandomState(args.seed)
    if args.embedded:
        digits, photos = embedded_digits(random), embedded_photos()
        photos_digest = hashlib.sha256(b"".join(photo.tobytes() for photo in photos)).hexdigest()
    else:
        digits = find_mnist(args.mnist, folder, args.unverified)
        bsds = find_bsds500(args.bsds, folder, args.unverified)
        photos, photos_digest = bsds.images, bsds.digest
    mnist = to_arrays(digits)
    mnist_m = mnist | {
        split: blend(getattr(digits, split), photos, random) for split in ("train", "val")
    }
    provenance = {
        "seed": args.seed,
        "rule": RULE,
        "digits": "scikit-learn digits" if args.embedded else "MNIST",
        "digits_sha256": digits.digest,
        "photos": "scikit-image and scikit-learn" if args.embedded else "BSDS500 training",
        "photos_sha256": photos_digest,
    }
    if before and any(before.get(name) != value for name, value in provenance.items()):
        print(f"{folder}: holds pickles of other data or of another seed, which are replaced")
    written, digests = [], before.get("files", [])
    with contextlib.ExitStack() as files:  # all of them appear, or none
        for path, arrays in ((source, mnist), (target, mnist_m)):
            temporary = files.enter_context(whole_file(path))
            write_pickle(temporary, arrays)
            digests.append(digest_of(temporary))
            written.append(f"{path}: {describe(arrays)}")
        picture = files.enter_context(whole_file(place))
        save_samples(picture, mnist["train"][:20], mnist_m["train"][:20])
        digests.append(digest_of(picture))
        facts = {**provenance, "files": sorted({*digests})}
        write_json(files.enter_context(whole_file(note)), facts)  # last, so that it appears first
    print("\n".join(written))
    flags = [] if folder == DATA else [
        "--source_dataset_path", source, "--target_dataset_path", target,
    ]  # fmt: skip
    # Small data give few steps an epoch, too few for the preset.
    training = SMALL if args.embedded else ("--preset", "recipe", "--epoch", 15)
    command = command_of("train_MNIST2MNIST_M.py", *training, *flags)
    print(f"samples: {place}\nnext:    {command}")


if __name__ == "__main__":
    run_script(main)
