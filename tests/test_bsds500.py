from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from conftest import tar_of

from utils.data import bsds500
from utils.data.bsds500 import find_bsds500, read_photos
from utils.errors import UserError


def zip_of(files: dict[str, bytes], prefix: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(prefix + name, data)
    return buffer.getvalue()


def test_the_packing_does_not_matter(
    tmp_path: Path, bsds_archive: Path, photo_files: dict[str, bytes]
) -> None:
    zipped = tmp_path / "b.zip"
    zipped.write_bytes(zip_of(photo_files, "BSDS500-master/BSDS500/data/images/train/"))
    unpacked = tmp_path / "BSR" / "data" / "images" / "train"
    unpacked.mkdir(parents=True)
    for name, data in photo_files.items():
        (unpacked / name).write_bytes(data)
    (tmp_path / "BSR" / "data" / "images" / "test").mkdir()
    (tmp_path / "BSR" / "data" / "images" / "test" / "x.jpg").write_bytes(b"not for training")
    read = [read_photos(path) for path in (bsds_archive, zipped, tmp_path / "BSR")]
    assert len({photos.digest for photos in read}) == 1
    for index, name in enumerate(sorted(photo_files)):
        bgr = cv2.imdecode(np.frombuffer(photo_files[name], np.uint8), cv2.IMREAD_COLOR)
        assert bgr is not None
        for photos in read:
            np.testing.assert_array_equal(photos.images[index], bgr[..., ::-1])


def test_other_photos_than_bsds500_need_consent(tmp_path: Path, bsds_archive: Path) -> None:
    with pytest.raises(UserError, match=r"not BSDS500's 200.*--unverified"):
        find_bsds500(bsds_archive, tmp_path)
    assert len(find_bsds500(None, tmp_path, unverified=True).images) == 5


def test_one_changed_byte_changes_the_digest(tmp_path: Path, photo_files: dict[str, bytes]) -> None:
    digests = set()
    for tail in (b"", b"\0"):
        path = tmp_path / "b.tgz"
        path.write_bytes(tar_of({**photo_files, "0.jpg": photo_files["0.jpg"] + tail}))
        digests.add(read_photos(path).digest)
    assert len(digests) == 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "cannot be loaded"),
        (b"<html>404</html>", "cannot be loaded"),
        (tar_of({}), "no data/images/train"),
        (tar_of({"a.jpg": b"no picture"}), "a.jpg: does not decode"),
        (tar_of({"a.jpg": b""}), "a.jpg: does not decode"),
        (tar_of({"a.jpg": b"x"}, "other/place/"), "no data/images/train"),
        (tar_of({"a.jpg": b"x"}, "../../data/images/train/"), "unsafe name"),
        (tar_of({"a.jpg": b"x"}, "/data/images/train/"), "unsafe name"),
        (zip_of({"a.jpg": b"x"}, "../data/images/train/"), "unsafe name"),
        (zip_of({"a.jpg": bytes(2**22 + 1)}, "data/images/train/"), "larger than"),
        (tar_of({"a.jpg": bytes(2**22 + 1)}), "larger than"),
    ],
)
def test_bad_archives_are_named(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "BSR.tgz"
    path.write_bytes(data)
    with pytest.raises(UserError, match=message) as caught:
        read_photos(path)
    assert "BSR.tgz" in str(caught.value) or "a.jpg" in str(caught.value)


def test_truncated_archive_is_named(tmp_path: Path, bsds_archive: Path) -> None:
    path = tmp_path / "cut.tgz"
    path.write_bytes(bsds_archive.read_bytes()[:3000])
    with pytest.raises(UserError, match=r"cut\.tgz"):
        read_photos(path)


def test_photo_smaller_than_a_crop(tmp_path: Path) -> None:
    small = cv2.imencode(".jpg", np.zeros((27, 90, 3), np.uint8))[1].tobytes()
    path = tmp_path / "small.tgz"
    path.write_bytes(tar_of({"s.jpg": small}))
    with pytest.raises(UserError, match="90×27 is smaller"):
        read_photos(path)


def test_missing_path_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such file"):
        read_photos(tmp_path / "nowhere")


def test_a_name_of_gigabytes_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """tarfile reads a long name whole, before it tells of the member."""
    monkeypatch.setattr(bsds500, "MAX_UNPACKED", 10_000)
    info = tarfile.TarInfo("x" * 20_000)
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz", format=tarfile.GNU_FORMAT) as tar:
        tar.addfile(info)
    (tmp_path / "b.tgz").write_bytes(data.getvalue())
    with pytest.raises(UserError, match=r"b\.tgz: unpacks to more than 10000 bytes"):
        read_photos(tmp_path / "b.tgz")


@pytest.mark.parametrize("packed", ["w:", "w:gz", "w:bz2", "w:xz"])
def test_a_tar_may_be_packed_in_any_way(
    tmp_path: Path, photo_files: dict[str, bytes], packed: Any
) -> None:
    with tarfile.open(tmp_path / "b.tar", mode=packed) as tar:
        for name, content in photo_files.items():
            info = tarfile.TarInfo(f"BSR/BSDS500/data/images/train/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    assert len(read_photos(tmp_path / "b.tar").images) == 5
