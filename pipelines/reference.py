"""The default model: trained once by the stage `reference`, kept in the work folder as a file like anybody's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.torch import save_file

from ..stages.errors import StageError
from ..stages.reference.digits import load_digits_split
from ..stages.reference.stage import state_dict_from
from . import subject as subjects
from .config import Config
from .engine import Session, execute
from .plan import make_plan
from .progress import console
from .store import StoreView
from .workspace import Workspace, publish_stage

_PARAMETER = "reference/parameter/"


def trained_checkpoint(config: Config, workspace: Workspace) -> Path:
    """Train the default model unless that is done, and return its weights as a safetensors file.

    Raises
    ------
    StageError
        When training failed.
    """
    plan = make_plan(config.stages, ["reference"])
    with Session(config, workspace, subjects.bootstrap(config)) as session:
        console.print("training the default model (first run only)")
        execute(session, plan)
        if "reference" in session.failures:
            raise StageError(session.failures["reference"])
        publish_stage(config.work / "reference", "reference", session.stored, {})
        path = config.work / "reference" / f"{session.digests['reference'][:16]}.safetensors"
        if not path.is_file():
            _export(session.view(), path)
    return path


def _export(view: StoreView, path: Path) -> None:
    names = [name for name in view.arrays("reference") if name.startswith(_PARAMETER)]
    arrays = {name.removeprefix(_PARAMETER): np.asarray(view[name][...]) for name in names}
    temporary = path.with_suffix(".tmp")
    save_file({name: tensor.contiguous() for name, tensor in state_dict_from(arrays).items()}, temporary)
    temporary.replace(path)


def export_digits(path: Path, class_names: tuple[str, ...] = tuple("0123456789")) -> None:
    """Write the audited part of the digits as an npz file, for a pipeline that names its data as a file."""
    images, labels, is_test = load_digits_split()
    positions = np.flatnonzero(is_test)
    ids = np.asarray([f"digit-{position:04d}" for position in positions])
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, images=images[is_test], labels=labels[is_test], ids=ids, class_names=np.asarray(class_names))
