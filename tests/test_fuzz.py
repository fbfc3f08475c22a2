"""Readers on inputs that nobody thought of; tests/fuzz.py runs for longer."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import idx_bytes
from fuzz import fuzz
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from config.config import Config
from utils.data.mnist import read_idx
from utils.data.pickles import read_pickle
from utils.errors import UserError

QUIET = settings(max_examples=150, deadline=None, database=None)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=6,
)  # fmt: skip


def result_or_user_error(read: Any, path: Path) -> Any:
    try:
        return read(path)
    except UserError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return None


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("property")


def test_a_thousand_damaged_files() -> None:
    counts = fuzz(1000, seed=1)
    assert sum(count["refused"] for count in counts.values()) > 500
    assert sum(count["read"] for count in counts.values()) > 10


@QUIET
@given(array=hnp.arrays(np.uint8, st.one_of(
    st.tuples(st.integers(0, 9)), st.tuples(*[st.integers(0, 5)] * 3))))  # fmt: skip
def test_idx_reads_back_what_was_written(place: Path, array: np.ndarray) -> None:
    (place / "x").write_bytes(idx_bytes(array))
    np.testing.assert_array_equal(read_idx(place / "x"), array)


@QUIET
@given(data=st.binary(max_size=200))
def test_any_bytes(place: Path, data: bytes) -> None:
    (place / "d").write_bytes(data)
    for read in (read_idx, read_pickle, Config.load):
        result_or_user_error(read, place / "d")


@QUIET
@given(
    content=st.dictionaries(st.sampled_from(["train", "train_label", "val", "val_label"]), values)
)
def test_any_pickled_values_are_refused(place: Path, content: dict[str, Any]) -> None:
    (place / "d").write_bytes(pickle.dumps(content))
    assert result_or_user_error(read_pickle, place / "d") is None


@QUIET
@given(content=st.dictionaries(st.sampled_from(sorted(Config.__dataclass_fields__)), values))
def test_any_json_is_a_config_or_refused(place: Path, content: dict[str, Any]) -> None:
    (place / "c").write_text(json.dumps(content))
    config = result_or_user_error(Config.load, place / "c")
    if config is not None:
        config.save(place / "again")
        assert Config.load(place / "again") == config


def test_a_pickle_that_asks_for_a_huge_memo_is_refused(tmp_path: Path) -> None:
    """Python's own unpickler would allocate and clear 16 bytes for each of 2³² entries."""
    data = b"\x80\x04]r" + (2**32 - 1).to_bytes(4, "little") + b"."
    (tmp_path / "d.pkl").write_bytes(data)
    with pytest.raises(UserError, match="refused, it asks for a memo of 4294967295 entries"):
        read_pickle(tmp_path / "d.pkl")
