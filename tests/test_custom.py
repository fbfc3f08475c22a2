"""train_custom.py on folders of pictures: what it finds, trains, resumes and refuses."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import shutil
import sys
import zlib
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import Arrays, assert_same_weights, run, stop, the_error
from PIL import Image

import train_custom
from benchmarks.runner import folder_flags
from config.base import SCALE_THEMSELVES
from config.custom import CustomConfig
from model import experiment
from model.adda import SourceModel
from model.dann import DANN
from model.networks import backbone
from predict import class_folder
from utils.data.batches import DomainBatches, evaluation_batches, reading_faults_named
from utils.data.folders import PictureFolder, mean_of, open_sources, open_target
from utils.data.pictures import PNG, decode_picture, find_pictures, read_picture
from utils.errors import UserError
from utils.record.dashboard import record_dashboard
from utils.record.figures import prediction_picture

SHAPE = (28, 28, 3)
NAMES = ("ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "ibis", "jay")
SHORT = ["--epoch", "2", "--batch_size", "24", "--checkpoint_steps", "5"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory, domains: Any) -> Path:
    """source/<class>/*.png, target/<class>/*.bmp of another size, other/*.jpg without classes."""
    root = tmp_path_factory.mktemp("tree")
    for name, arrays, suffix in (("source", domains[0], "png"), ("target", domains[1], "bmp")):
        for index, (image, label) in enumerate(
            zip(arrays["train"], arrays["train_label"], strict=True)
        ):
            folder = root / name / NAMES[label]
            folder.mkdir(parents=True, exist_ok=True)
            picture = cv2.resize(image, (40, 30)) if suffix == "bmp" else image
            cv2.imwrite(str(folder / f"{index:03d}.{suffix}"), picture[..., ::-1])
    (root / "other").mkdir()
    for index, image in enumerate(domains[1]["val"]):
        cv2.imwrite(str(root / "other" / f"{index:03d}.jpg"), image[..., 0])
    (root / "other" / "broken.png").write_bytes(b"no picture")
    return root


def test_a_source_is_its_class_folders(tree: Path, domains: Any) -> None:
    (source,), classes = open_sources([tree / "source"], SHAPE)
    assert classes == list(NAMES)
    assert len(source) == 320
    for row in (0, 100, 319):
        index = int(Path(source.paths[row]).stem)
        assert source.labels[row] == domains[0]["train_label"][index]
        np.testing.assert_array_equal(source.read([row])[0], domains[0]["train"][index])


def test_a_target_needs_no_classes_and_skips_what_does_not_decode(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = open_target(tree / "other", NAMES, SHAPE)
    assert (target.labels == -1).all()
    assert len(target) == 100
    shown = capsys.readouterr()
    assert "broken.png: does not decode" in shown.err
    assert "100 pictures, 1 skipped" in shown.out


def test_the_split_is_a_partition_and_seeded(tree: Path) -> None:
    (source,), _ = open_sources([tree / "source"], SHAPE)
    rest, kept = source.split(0.25, seed=3)
    assert len(kept) == 80
    assert sorted([*rest.paths, *kept.paths]) == sorted(source.paths)
    again, other = source.split(0.25, seed=3)[1], source.split(0.25, seed=4)[1]
    np.testing.assert_array_equal(kept.paths, again.paths)
    assert set(kept.paths) != set(other.paths)
    np.testing.assert_allclose(
        mean_of([source]), source.read(range(320)).mean(axis=(0, 1, 2)), rtol=1e-6
    )


def test_a_share_is_spread_over_all(tree: Path) -> None:
    (source,), _ = open_sources([tree / "source"], SHAPE)
    some = source.evenly(50)
    assert 40 <= len(some) <= 50
    assert len(set(some.labels)) == 10  # the folder is sorted by class
    assert len(source.evenly(1000)) == 320
    # What is kept back is in no order of classes, so that any part of it shows all of them.
    assert len(set(source.split(0.25, seed=3)[1].labels[:40])) == 10


def test_batches_from_disk_are_those_from_memory(tree: Path) -> None:
    folders = [
        *open_sources([tree / "source"], SHAPE)[0],
        open_target(tree / "target", NAMES, SHAPE),
    ]
    arrays = [folder.read(range(len(folder))) for folder in folders]
    labels = [folders[0].labels, None]
    disk = DomainBatches(folders, labels, 32, seed=5).dataset(3, 9)
    memory = DomainBatches(arrays, labels, 32, seed=5).dataset(3, 9)
    for one, two in zip(disk, memory, strict=True):
        for part, other in zip(one, two, strict=True):
            np.testing.assert_array_equal(part, other)
    whole = list(evaluation_batches(folders[1], folders[1].labels, domain=1))
    np.testing.assert_array_equal(np.concatenate([batch[0] for batch in whole]), arrays[1])
    np.testing.assert_array_equal(np.concatenate([batch[1] for batch in whole]), folders[1].labels)


def test_a_picture_that_changes_meanwhile_is_to_be_put_back(tree: Path) -> None:
    """Neither another picture nor none would do, because a resumed run compares its data."""
    folder = open_target(tree / "target", NAMES, SHAPE)
    Path(folder.paths[0]).write_bytes(b"no picture")
    reason = r"does not decode as .*; put it back as it was"
    with pytest.raises(UserError, match=reason), reading_faults_named():
        list(evaluation_batches(folder, folder.labels, domain=1))


def final_model(folder: Path, name: str) -> Path:
    return next(folder.rglob(f"{name}/trained_*_custom.keras"))


@pytest.mark.long
def test_two_targets_train_resume_and_predict(tree: Path, tmp_path: Path) -> None:
    flags = ["--source", tree / "source", "--target", tree / "target", "--target", tree / "other",
             *SHORT, "--run_name", "mine"]  # fmt: skip
    plain, killed = tmp_path / "plain", tmp_path / "killed"
    done = run("train_custom.py", *flags, *folder_flags(plain))
    assert "0 ant, 1 bee" in done.stdout
    stop(killed, "train_custom.py", *flags, *folder_flags(killed))
    run("train_custom.py", "--resume", next((killed / "logs").rglob("mine")))
    one, two = (keras.saving.load_model(final_model(place, "mine")) for place in (plain, killed))
    assert one.num_domains == 3
    assert_same_weights(one.get_weights(), two.get_weights())
    run("predict.py", "--images", tree / "other", "--model", final_model(plain, "mine"),
        "--output", tmp_path / "p.csv")  # fmt: skip
    with (tmp_path / "p.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 100
    assert {row["label"] for row in rows} <= set(NAMES)


def test_source_only_never_sees_a_target(tree: Path) -> None:
    """Batch normalisation of a backbone would learn from it."""
    source, targets = str(tree / "source"), (str(tree / "target"), str(tree / "other"))
    for method, unseen in (("source_only", True), ("dann", False)):
        config = CustomConfig(method, source=(source,), target=targets)
        data = train_custom.read_data(config)
        first, *shown = train_custom.make_experiment(config, data).data.domains
        assert first is data.domains[0]
        assert len(shown) == 2
        assert [domain is first for domain in shown] == [unseen] * 2


def test_a_class_without_training_pictures_is_named(tmp_path: Path, domains: Arrays) -> None:
    for place, name in (("source", "a"), ("source", "b"), ("source", "c"), ("target", ".")):
        (tmp_path / place / name).mkdir(parents=True, exist_ok=True)
        for number in range(2 if place == "target" else 1):
            cv2.imwrite(str(tmp_path / place / name / f"{number}.png"), domains[0]["train"][number])
    config = CustomConfig(source=(str(tmp_path / "source"),), target=(str(tmp_path / "target"),))
    with pytest.raises(
        UserError, match=r"source: no picture of the class . is left to train with; add"
    ):
        train_custom.read_data(config)


def test_several_sources_unite_their_classes(tree: Path, tmp_path: Path) -> None:
    """Each is a domain of its own, with labels; the classes are those of any of them."""
    insects, animals = tmp_path / "insects", tmp_path / "animals"
    for place, names in ((insects, NAMES[:3]), (animals, NAMES[1:])):
        place.mkdir()
        for name in names:
            (place / name).symlink_to(tree / "source" / name)
    (one, two), classes = open_sources([insects, animals], SHAPE)
    assert classes == list(NAMES)
    assert set(one.labels) == {0, 1, 2}
    assert set(two.labels) == set(range(1, 10))
    settings = CustomConfig(
        source=(str(insects), str(animals)), target=(str(tree / "target"),), batch_size=24,
    )  # fmt: skip
    data = train_custom.read_data(settings)
    assert settings.num_domains == 3
    assert list(data.digests()) == ["source", "source 2", "target 1"]
    given = train_custom.make_experiment(settings, data)
    batches = experiment.make_batches(settings, given, DANN, (), ())
    assert batches.steps_per_epoch == -(-len(data.domains[0].train) // 8)
    for step in range(5):
        _, labels, domains = (part.numpy() for part in batches.batch(step))
        np.testing.assert_array_equal(domains, np.repeat([0, 1, 2], 8))
        assert set(labels[:8]) <= {0, 1, 2}
        assert set(labels[8:16]) <= set(range(1, 10))
        assert set(labels[16:]) == {-1}
    measured = [np.concatenate([batch[2] for batch in dataset]) for dataset in
                (given.evaluation.labelled, given.evaluation.target)]  # fmt: skip
    assert [set(numbers) for numbers in measured] == [{0, 1}, {2}]
    alone = dataclasses.replace(settings, method="source_model")
    only = experiment.make_batches(alone, given, SourceModel, (), ()).batch(0)
    assert set(only[2].numpy()) == {0, 1}
    assert len(only[0]) == 16
    with pytest.raises(UserError, match="target_ratio"):
        dataclasses.replace(settings, target_ratio=2, batch_size=0)


@pytest.mark.long
def test_another_backbone_with_two_steps(tree: Path, tmp_path: Path) -> None:
    run("train_custom.py", "--source", tree / "source", "--target", tree / "target", *SHORT,
        *folder_flags(tmp_path), "--run_name", "mobile", "--backbone", "MobileNetV2",
        "--image_size", "32", "32", "--pooling", "average", "--alternating", "--label_hidden",
        "16", "--epoch", "1", "--clip_norm", "1", "--allow_collapse")  # fmt: skip
    model = keras.saving.load_model(final_model(tmp_path, "mobile"))
    assert model.alternating
    assert model.feature_extractor.output_shape == (None, 1280)


def write(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        cv2.imwrite(str(folder / name), np.zeros((20, 20, 3), np.uint8))


def test_impossible_folders_are_named(tmp_path: Path) -> None:
    write(tmp_path / "one" / "a", "1.png", "2.png")
    with pytest.raises(UserError, match=r"must have 2 or more class folders, .*; it has 1"):
        open_sources([tmp_path / "one"], SHAPE)
    write(tmp_path / "two" / "a", "1.png")
    (tmp_path / "two" / "b").mkdir()
    with pytest.raises(UserError, match="b: no pictures in it"):
        open_sources([tmp_path / "two"], SHAPE)
    write(tmp_path / "three" / "c", "1.png")
    with pytest.raises(UserError, match=r"these folders are none of the classes a, b: c"):
        open_target(tmp_path / "three", ("a", "b"), SHAPE)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "1.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="none of its 1 pictures decodes"):
        open_target(tmp_path / "broken", ("a", "b"), SHAPE)
    lonely = PictureFolder(np.array(["a/1.png"]), np.array([0], np.int32), SHAPE)
    with pytest.raises(UserError, match=r"a: has 1 picture\(s\), too few"):
        lonely.split(0.1, 0)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "name the folders: --source DIR"),
        (["--source", "{tree}/source", "--target", "nowhere"], "nowhere: no such folder"),
        (["--source", "{loop}", "--target", "{tree}/target"], "loop: no such folder"),
        (["--source", "{tree}/source", "--target", "x" * 300], "xxx: File name too long; check"),
        (["--source", "{tree}/other", "--target", "{tree}/target"], "2 or more class folders"),
        (["--source", "{tree}/source", "--target", "{tree}/target", "--label_hidden", "0"],
         "label_hidden: 0 must be 1 or more units in each layer"),
        (["--source", "{tree}/source", "--target", "{tree}/target", "--pixel_mean", "1", "2"],
         "pixel_mean: 1.0 2.0 must be one number for each of the 3 channels"),
        (["--source", "{tree}/source", "--target", "{tree}/target", "--backbone", "ResNet5"],
         "no 'ResNet5' in keras.applications; did you mean ResNet50"),
        (["--source", "{tree}/source", "--target", "{tree}/target", "--feature_layer", "conv"],
         "no layer 'conv'; there are conv"),
        (["--source", "{tree}/source", "--target", "{tree}/target", "--target", "{tree}/other",
          "--batch_size", "256"],
         "batch_size: 256 must be a multiple of 3, for the 3 domains"),
    ],
)  # fmt: skip
def test_impossible_calls_are_named(
    tree: Path, tmp_path: Path, flags: list[str], message: str
) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    named = [flag.format(tree=tree, loop=loop) for flag in flags]
    done = run("train_custom.py", *named, *folder_flags(tmp_path), code=2)
    assert message in the_error(done)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]  # the name is free again


def test_what_is_left_out_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "some", "a.png", "b.png")
    (tmp_path / "some" / "c.heic").touch()
    (tmp_path / "some" / "lost.png").symlink_to("nothing")
    (tmp_path / "some" / ".DS_Store").touch()
    assert len(open_target(tmp_path / "some", NAMES, SHAPE)) == 2
    told = capsys.readouterr().err
    assert "only regular files of known picture formats are read, not .heic (1 in all)\n" in told
    assert "links to nothing are left out, such as" in told
    nested = CustomConfig(source=(str(tmp_path),), target=(str(tmp_path / "some"),))
    with pytest.raises(UserError, match=rf"some lies in {tmp_path}; name others"):
        nested.check_paths()
    with pytest.raises(UserError, match=rf"{tmp_path} is named twice; name others"):
        CustomConfig(source=(str(tmp_path),), target=(str(tmp_path),)).check_paths()


def test_folders_of_other_programs_are_named_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b", ".ipynb_checkpoints", "__MACOSX"):
        write(tmp_path / name, "1.png", "2.png")
    (source,), classes = open_sources([tmp_path], SHAPE)
    assert (classes, len(source)) == (["a", "b"], 4)
    assert "hidden folders are left out: .ipynb_checkpoints, __MACOSX" in capsys.readouterr().out


def test_layouts_that_are_no_classes_are_named(tmp_path: Path) -> None:
    for split in ("test", "train"):
        write(tmp_path / "split" / split / "a", "1.png")
    with pytest.raises(UserError, match=r"is split into test, train; name .*, such as .*/train "):
        open_sources([tmp_path / "split"], SHAPE)
    write(tmp_path / "loose" / "a", "1.png")
    write(tmp_path / "loose", "2.png")
    with pytest.raises(UserError, match=r"pictures, such as 2.png, lie beside the class folders"):
        open_sources([tmp_path / "loose"], SHAPE)


def test_a_pipe_that_is_named_like_a_picture_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path, "1.png")
    os.mkfifo(tmp_path / "2.png")
    assert find_pictures(tmp_path) == [tmp_path / "1.png"]
    with pytest.raises(UserError, match=r"2\.png: is neither a picture nor a folder"):
        find_pictures(tmp_path / "2.png")
    with pytest.raises(UserError, match=r"2\.png: is no regular file; remove it"):
        read_picture(tmp_path / "2.png", SHAPE)


@pytest.mark.parametrize(
    ("suffix", "kind"), [("gif", "GIF"), ("avif", "AVIF"), ("jp2", "JPEG2000")]
)
def test_pictures_of_newer_formats_count(tmp_path: Path, suffix: str, kind: str) -> None:
    red = Image.fromarray(np.full((28, 28, 3), (200, 0, 0), np.uint8))
    try:
        red.save(tmp_path / f"a.{suffix}", kind)
    except KeyError:
        pytest.skip(f"this Pillow writes no {kind}")
    (path,) = find_pictures(tmp_path)
    assert np.abs(read_picture(path, SHAPE).mean(axis=(0, 1)) - (200, 0, 0)).max() < 8


def test_a_picture_with_too_many_pixels_is_named() -> None:
    """12,000 x 12,000, of which the file has the size alone."""
    data = io.BytesIO()
    Image.new("L", (12_000, 12_000)).save(data, "JPEG")
    with pytest.raises(UserError, match=r"p: has more than \d+ pixels; make it smaller"):
        decode_picture(data.getvalue(), "p")


def test_linked_folders_are_searched_once(tmp_path: Path) -> None:
    picture = cv2.imencode(".png", np.zeros((4, 4, 3), np.uint8))[1].tobytes()
    for folder in ("shelf", "other/deep"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.png").write_bytes(picture)
    (tmp_path / "shelf" / "more").symlink_to(tmp_path / "other")
    (tmp_path / "other" / "deep" / "round").symlink_to(tmp_path / "shelf")
    found = [str(path.relative_to(tmp_path)) for path in find_pictures(tmp_path / "shelf")]
    assert found == ["shelf/a.png", "shelf/more/deep/a.png"]


def test_a_picture_of_the_same_size_is_another_picture(tmp_path: Path) -> None:
    for number in range(2):
        image = np.full((4, 4, 3), 60 * number, np.uint8)
        cv2.imwrite(str(tmp_path / f"{number}.bmp"), image)
    folder = PictureFolder(np.array([str(tmp_path / "0.bmp")]), np.zeros(1, np.int32), (4, 4, 3))
    before = folder.fingerprint
    assert folder.fingerprint == before
    shutil.copyfile(tmp_path / "1.bmp", tmp_path / "0.bmp")
    assert folder.fingerprint != before


def test_names_that_are_not_utf8_are_drawn_and_recorded(tmp_path: Path) -> None:
    """OpenCV would end the process."""
    images, labels = np.zeros((2, 8, 8, 3), np.uint8), np.array([0, 1], np.int32)
    names = [os.fsdecode(b"caf\xe9"), "th\u00e9"]
    assert prediction_picture(images, labels, np.eye(2), names).shape[2] == 3
    config = CustomConfig(source=("a",), target=(os.fsdecode(b"t\xe9"),))
    assert config.run_path.encode()
    with tf.summary.create_file_writer(str(tmp_path)).as_default():
        record_dashboard(
            "run", dataclasses.asdict(config), {"command": f"--target {config.target[0]}"}
        )


def test_predict_and_evaluate_agree_on_folders_of_classes(tmp_path: Path) -> None:
    """Pictures lie deeper than the class's folder, and some in a folder that is no class."""
    image = np.zeros((28, 28, 3), np.uint8)
    for name in ("0/x/a", "0/b", "1/y/c", "1/1/d", "2/e"):
        (tmp_path / "p" / name).parent.mkdir(parents=True, exist_ok=True)
        image[:, :, 0] += 40
        cv2.imwrite(str(tmp_path / "p" / f"{name}.png"), image)
    done = run("predict.py", "--images", tmp_path / "p", "--output", tmp_path / "p.csv")
    shown = run("evaluate.py", "--source", tmp_path / "p", "--target", tmp_path / "p",
                "--json", tmp_path / "e.json")  # fmt: skip
    (values,) = json.loads((tmp_path / "e.json").read_text()).values()
    assert f"accuracy: {values['accuracy']:.4f} on 5 pictures" in done.stdout, shown.stdout


def test_predict_takes_several_places(tmp_path: Path) -> None:
    for name in ("one.png", "a/two.png", "b/three.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), np.zeros((28, 28, 3), np.uint8))
    places = ["--images", tmp_path / "one.png", tmp_path / "a", "--images", tmp_path / "b"]
    run("predict.py", *places, "--output", tmp_path / "p.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "p.csv").read_text())))
    assert [Path(row["file"]).name for row in rows] == ["one.png", "two.png", "three.png"]


def test_predict_knows_a_class_by_the_place_that_is_named(tmp_path: Path) -> None:
    """As of `--images p/*`; a place inside another counts once."""
    for name in ("0/a.png", "1/b.png"):
        (tmp_path / name).parent.mkdir()
        cv2.imwrite(str(tmp_path / name), np.zeros((28, 28, 3), np.uint8))
    for places in (("0", "1"), ("", "1")):
        flags = ["--images", *(tmp_path / place for place in places)]
        done = run("predict.py", *flags, "--output", tmp_path / "p.csv")
        assert "on 2 pictures in folders of classes" in done.stdout


def test_a_name_has_two_spellings_and_is_one_class(tree: Path, tmp_path: Path) -> None:
    """macOS writes an é as two characters, Linux as one."""
    for root, name in (("source", "caf\u00e9"), ("target", "cafe\u0301")):
        one, other, *_ = sorted((tree / "source").iterdir())
        shutil.copytree(one, tmp_path / root / name)
        shutil.copytree(other, tmp_path / root / "tea")
    (source,), classes = open_sources([tmp_path / "source"], (28, 28, 3))
    target = open_target(tmp_path / "target", classes, (28, 28, 3))
    assert classes == ["caf\u00e9", "tea"]
    np.testing.assert_array_equal(np.bincount(source.labels), np.bincount(target.labels))
    picture = next((tmp_path / "target" / "cafe\u0301").iterdir())
    assert class_folder(picture, tmp_path / "target", classes) == "caf\u00e9"


def test_what_is_transparent_becomes_white() -> None:
    red = np.zeros((4, 6, 4), np.uint8)
    red[..., 0], red[:2, :, 3] = 200, 255
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by 90 degrees
    grey = np.zeros((4, 6, 2), np.uint8)
    deep = np.zeros((4, 6, 4), np.uint16)
    white = np.full((4, 6, 3), 255, np.uint8)
    expected = white.copy()
    expected[:2] = (200, 0, 0)
    palette = Image.fromarray(white[..., 0]).convert("P")
    for image, kind, options, wanted in (
        (Image.fromarray(red), "PNG", {}, expected),
        (Image.fromarray(red), "WEBP", {"lossless": True, "exact": True}, expected),
        (Image.fromarray(red), "PNG", {"exif": turned}, np.rot90(expected, -1)),
        (Image.fromarray(grey), "TIFF", {}, white),
        (Image.fromarray(grey[..., 0]), "PNG", {"transparency": 0}, white),
        (palette, "GIF", {"transparency": palette.getpixel((0, 0))}, white),
    ):
        data = io.BytesIO()
        image.save(data, kind, **options)
        np.testing.assert_array_equal(decode_picture(data.getvalue(), "p"), wanted)
    png = cv2.imencode(".png", deep)[1].tobytes()
    np.testing.assert_array_equal(decode_picture(png, "p", channels=1), white[..., :1])


def test_names_that_are_not_utf8_are_written(tree: Path, tmp_path: Path) -> None:
    name = b"latin\xe9.png"
    (tmp_path / "x").mkdir()
    picture = next((tree / "source").rglob("*.png")).read_bytes()
    (tmp_path / "x" / os.fsdecode(name)).write_bytes(picture)
    run("predict.py", "--images", tmp_path / "x", "--output", tmp_path / "p.csv")
    assert name in (tmp_path / "p.csv").read_bytes()
    done = run("predict.py", "--images", "", code=2)
    assert the_error(done) == "error: --images: is empty; name something, or leave it out"


def test_all_that_a_run_of_ones_own_pictures_may_ask_for(tree: Path, tmp_path: Path) -> None:
    """Trained weights, frozen, with a bottleneck; two targets after one flag, one of them without
    classes."""
    flags = ["--source", tree / "source", "--target", tree / "target", tree / "other",
             *SHORT, "--epoch", 1]  # fmt: skip
    backbone = keras.applications.MobileNetV2(
        include_top=False, weights=None, input_shape=(32, 32, 3), alpha=1.0
    )
    backbone.save_weights(tmp_path / "trained.weights.h5")
    small = ["--backbone", "MobileNetV2", "--image_size", 32, 32, "--pooling", "average",
             "--feature_layer", "block_1_project"]  # fmt: skip
    done = run(
        "train_custom.py", *flags, *folder_flags(tmp_path), "--run_name", "first", *small,
        "--weights", tmp_path / "trained.weights.h5", "--frozen", "--bottleneck", 8,
        "--allow_collapse",
    )  # fmt: skip
    assert "target: accuracy 0." in done.stdout
    assert "other: no labels on 10 pictures" in done.stdout
    model = keras.saving.load_model(final_model(tmp_path, "first"))
    assert model.feature_extractor.output_shape == (None, 8)
    given = {layer.name: layer.get_weights() for layer in backbone.layers}
    frozen = [layer for layer in model.feature_extractor._flatten_layers() if layer.name in given]
    assert sum(bool(layer.weights) for layer in frozen) > 5
    for layer in frozen:
        assert_same_weights(layer.get_weights(), given[layer.name])


@pytest.mark.parametrize("channels", [1, 3])
def test_a_backbone_that_scales_pixel_values_gets_them_as_they_are(channels: int) -> None:
    """Scaled twice, all pictures look alike to it."""
    shape, make = (32, 32, channels), keras.applications.MobileNetV3Small
    ours = backbone("MobileNetV3Small", shape, (100.0,) * channels)
    theirs = make(include_top=False, weights=None, input_shape=shape)
    own = {layer.name: layer.get_weights() for layer in ours.layers}
    for layer in theirs.layers:
        layer.set_weights(own.get(layer.name, layer.get_weights()))
    pictures = np.random.default_rng(0).integers(0, 256, (2, *shape)).astype(np.float32)
    np.testing.assert_allclose(ours(pictures), theirs(pictures), rtol=1e-4)


def test_the_backbones_that_scale_pixel_values_are_known() -> None:
    """Their `preprocess_input` changes nothing."""
    picture = np.arange(48, dtype=np.float32).reshape(1, 4, 4, 3)
    for name in (each for each in dir(keras.applications) if each[0].isupper()):
        preprocess = sys.modules[getattr(keras.applications, name).__module__].preprocess_input
        alone = np.array_equal(preprocess(picture.copy()), picture)
        assert alone == name.startswith(SCALE_THEMSELVES), name


def test_weights_of_another_backbone_are_told_in_a_line(tmp_path: Path) -> None:
    """Keras warns of each layer that it passes over, and names all others."""
    other = keras.applications.MobileNetV2(include_top=False, weights=None, input_shape=(32, 32, 3))
    other.save_weights(tmp_path / "w.weights.h5")
    with pytest.raises(UserError, match=r"h5: cannot be .*name weights of MobileNetV3S") as told:
        backbone("MobileNetV3Small", (32, 32, 3), (), weights=str(tmp_path / "w.weights.h5"))
    assert len(str(told.value)) < 500


def test_weights_that_keras_builds_another_network_for_are_refused() -> None:
    with pytest.raises(UserError, match=r"EfficientNetB0 in another way.*EfficientNetV2B0"):
        backbone("EfficientNetB0", (32, 32, 3), (0.0, 0.0, 0.0), weights="any.weights.h5")


def test_a_pgm_whose_white_is_another_number_is_refused() -> None:
    """OpenCV takes its values as they are: all too dark."""
    for white, kind in ((1, np.uint8), (15, np.uint8), (100, np.uint8), (1023, ">u2")):
        for header in (b"P5 2 2 %d\n" % white, b"P5 # mine\n2 2\n%d\n" % white):
            data = header + np.full((2, 2), white, kind).tobytes()
            with pytest.raises(UserError, match=f"p: white is {white} in it, .*; save it with 255"):
                decode_picture(data, "p")
    for white, kind in ((255, np.uint8), (65535, ">u2")):
        data = b"P5 2 2 %d\n" % white + np.full((2, 2), white, kind).tobytes()
        assert (decode_picture(data, "p") == 255).all()
    assert (decode_picture(b"P2 2 2 1\n1 1 1 1", "p") == 255).all()  # without an end of the line
    assert decode_picture(b"P2 2 2 15\n15 7 0 3\n", "p", 1).ravel().tolist() == [255, 119, 0, 51]


def test_a_deep_picture_with_a_transparent_value_is_no_white_picture() -> None:
    """A grey PNG of 16 bits: header, the value that is transparent, content."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (len(content).to_bytes(4, "big") + name + content
                + zlib.crc32(name + content).to_bytes(4, "big"))  # fmt: skip

    rows = b"".join(b"\0" + np.full(4, 30_000, ">u2").tobytes() for _ in range(4))
    data = PNG + chunk(b"IHDR", (4).to_bytes(4, "big") * 2 + bytes([16, 0, 0, 0, 0]))
    data += chunk(b"tRNS", b"\0\7") + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert (decode_picture(data, "p") == 30_000 // 256).all()


def test_a_class_may_be_named_like_a_picture(tmp_path: Path) -> None:
    write(tmp_path / "one", "1.png")
    write(tmp_path / "two.png", "1.png")
    assert open_sources([tmp_path], SHAPE)[1] == ["one", "two.png"]


def test_a_small_picture_is_enlarged_as_the_data_sets_are(tmp_path: Path) -> None:
    """USPS and the drawings of the homework grow linearly."""
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), image)
    expected = cv2.resize(image, (28, 28))[..., ::-1]
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png", SHAPE), expected)
