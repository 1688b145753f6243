"""A real run holds what docs/store.md says, and nothing else."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from convaudit.pipelines import run as runs
from convaudit.pipelines.store import RunStore
from convaudit.pipelines.store_page import COLUMNS, SUBJECT, documented

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def audited(configure, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("documented")
    runs.audit(configure(folder, "cluster=inprocess", "data.limit=48"))
    return folder


def spec_of(path: str, specs, layers):
    """Find the one spec whose path, with a layer put in, is this."""
    names = "|".join(re.escape(layer) for layer in sorted(layers, key=len, reverse=True))
    found = [spec for spec in specs if re.fullmatch(re.escape(spec.path).replace(r"\{layer\}", f"({names})"), path)]
    assert len(found) == 1, f"{path}: {[spec.path for spec in found]}"
    return found[0]


def test_every_array_is_documented_with_its_dims_and_dtype(audited):
    stored = RunStore(audited / "run")
    subject = stored.subject()
    layers = [layer["name"] for layer in subject["layers"]]
    specs = documented()
    seen = 0
    for leaf in stored.leaves():
        for full in stored.arrays(leaf):
            array = stored[full]
            spec = spec_of(full.removeprefix(f"{leaf}/"), specs[leaf], layers)
            dims = [name for dim in spec.dims for name in (subject["axes"] if dim == "*space" else [dim])]
            assert list(array.metadata.dimension_names) == dims, full
            assert array.dtype == np.dtype(spec.dtype), full
            assert array.fill_value == spec.fill or (math.isnan(array.fill_value) and math.isnan(spec.fill)), full
            assert dict(array.attrs) == {"unit": spec.unit, "meaning": spec.meaning}, full
            seen += 1
    assert seen > 50


def test_every_documented_array_of_pictures_is_there(audited):
    stored, specs = RunStore(audited / "run"), documented()
    for leaf in stored.leaves():
        plain = {f"{leaf}/{spec.path}" for spec in specs[leaf] if "{" not in spec.path}
        assert plain - set(stored.arrays(leaf)) <= {"thumbnails/signal"}, leaf


def test_the_files_beside_them_have_these_columns_and_keys(audited):
    folder = audited / "run" / "store"
    assert list(pd.read_parquet(folder / "images.parquet").columns) == list(COLUMNS)
    assert set(json.loads((folder / "subject.json").read_text())) == set(SUBJECT)
    assert {path.suffix for path in folder.iterdir()} == {".zarr", ".parquet", ".json"}


def test_the_examples_of_the_page_work(audited, monkeypatch, capsys):
    monkeypatch.chdir(audited)
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "store.md").read_text(), re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        exec(compile(example, "docs/store.md", "exec"), {})
    assert capsys.readouterr().out == "('image', 'class')\n"
