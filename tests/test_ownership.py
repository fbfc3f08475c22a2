"""Which files a script may replace."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from utils.errors import UserError
from utils.ownership import digest_of, refuse_foreign, refuse_loss


def test_an_output_that_is_an_input_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, other = tmp_path / "model.keras", tmp_path / "other.csv"
    model.touch()
    (tmp_path / "link.csv").symlink_to(model)
    refuse_loss(other, "", model)
    for name in ("model.keras", "link.csv"):
        with pytest.raises(UserError, match="is read by this command"):
            refuse_loss(tmp_path / name, "", tmp_path / "x", model)
    with pytest.raises(UserError, match="is a folder; name a file"):
        refuse_loss(tmp_path, "")
    for name, reason in (("model.keras/x.csv", "Not a directory"), ("x" * 300, "name too long")):
        with pytest.raises(UserError, match=f"cannot be written .*{reason}"):
            refuse_loss(tmp_path / name, "")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(UserError, match=r"new/table\.csv: cannot be written \(Permission denied\)"):
        refuse_loss(tmp_path / "new" / "table.csv", "")


def test_an_output_of_another_program_is_left_alone(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    refuse_loss(table, "file,label")
    for text in ("", "file,label\n1.png,3\n"):
        table.write_text(text)
        refuse_loss(table, "file,label")
    table.write_text("epoch,loss\n")
    with pytest.raises(UserError, match=r"table.csv: is there already, and not from this script"):
        refuse_loss(table, "file,label")


def test_what_a_script_makes_replaces_its_own_alone(tmp_path: Path) -> None:
    note, made = tmp_path / "mnist_m.json", tmp_path / "data.pkl"
    refuse_foreign(note, made)
    made.touch()
    for text in (None, '{"my": "notes"}', "\udcff"):
        if text:
            note.write_bytes(text.encode(errors="surrogateescape"))
        with pytest.raises(UserError, match=r"data.pkl: is not as this script wrote it"):
            refuse_foreign(note, made)
    with pytest.raises(UserError, match=r"mnist_m.json: is not as this script wrote it"):
        refuse_foreign(note, tmp_path / "new.pkl")
    facts = {"digits_sha256": "0", "files": [digest_of(made)]}
    note.write_text(json.dumps(facts))
    assert refuse_foreign(note, made, tmp_path / "new.pkl") == facts
    made.write_text("mine now")
    with pytest.raises(UserError, match=r"data.pkl: is not as this script wrote it"):
        refuse_foreign(note, made)
