"""Whole audits, small enough to run many of them."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hydra import compose, initialize_config_module
from PIL import Image

from convaudit.pipelines import cli, store
from convaudit.pipelines.config import Config, check, resolve

SMALL = ("tracking=none", "data.limit=96", "numerics.batch=8", "numerics.shard=16")


@dataclass(frozen=True)
class Digits:
    """Files of the default audit."""

    weights: Path
    data: Path


def convaudit(*arguments: str, cwd: Path, check_code: int | None = 0) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "convaudit.pipelines.cli", *arguments],
        cwd=cwd, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    if check_code is not None:
        assert done.returncode == check_code, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


@pytest.fixture(scope="session")
def digits(tmp_path_factory) -> Digits:
    """The default model, trained once for all tests, and the images it is audited on."""
    folder = tmp_path_factory.mktemp("digits")
    found = Digits(folder / "digits.safetensors", folder / "digits.npz")
    convaudit("reference", "--weights", str(found.weights), "--data", str(found.data), cwd=folder)
    return found


def composed(folder: Path, *overrides: str) -> Config:
    """Compose an audit into a folder."""
    places = [f"run={folder / 'run'}", f"work={folder / 'work'}"]
    with initialize_config_module("convaudit.conf", version_base="1.3"):
        return check(resolve(compose("config", overrides=[*places, *overrides])))


@pytest.fixture(scope="session")
def configure(digits) -> Callable[..., Config]:
    """Compose a small audit of the digits into a folder."""

    def make(folder: Path, *overrides: str, small: tuple[str, ...] = SMALL) -> Config:
        return composed(folder, f"model.checkpoint={digits.weights}", *small, *overrides)

    return make


@pytest.fixture(scope="session")
def flawed_folder(digits, tmp_path_factory) -> Path:
    """Eighty digits as grey PNG files in class folders, and five files that are no such image."""
    folder = tmp_path_factory.mktemp("flawed")
    with np.load(digits.data) as stored:
        images, labels = stored["images"][:80, 0], stored["labels"][:80]
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        (folder / str(label)).mkdir(exist_ok=True)
        Image.fromarray((image * 255).round().astype("u1")).save(folder / str(label) / f"{number:03d}.png")
    good = sorted(folder.rglob("*.png"))
    (folder / "0" / "empty.png").write_bytes(b"")
    (folder / "3" / "truncated.png").write_bytes(good[7].read_bytes()[:-60])
    (folder / "4" / "text.png").write_bytes(b"not an image at all")
    Image.new("RGB", (32, 32)).save(folder / "5" / "colour.png")
    Image.new("L", (4000, 4000)).save(folder / "6" / "huge.png")
    return folder


FLAWED = (
    "data=imagefolder",
    "data.max_bad_fraction=0.1",
    "data.preprocessing.mode=L",
    "data.preprocessing.accept_modes=[L]",
    "data.preprocessing.max_pixels=1000000",
    "data.preprocessing.mean=[0.0]",
    "data.preprocessing.std=[1.0]",
)


def digests(run: Path) -> dict[str, str]:
    """Content of every stage's group and of the files beside them."""
    groups = sorted([*run.glob("store/*.zarr"), *run.glob("checks/*.zarr")])
    files = [run / "store" / "subject.json", run / "store" / "images.parquet", run / "report.html"]
    return {path.name: store.digest(path) for path in groups} | {path.name: path.read_text("latin1") for path in files}


class Ended(NamedTuple):
    code: int
    out: str
    err: str


def call(*arguments: str) -> Ended:
    """Run the command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    return Ended(stop.value.code, out.getvalue(), err.getvalue())
