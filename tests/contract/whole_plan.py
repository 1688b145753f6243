"""Runs the whole plan of conf/ on a small network, leaf by leaf, as the engine does but in memory."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

import convaudit.conf
from convaudit.pipelines.compose import config_groups
from convaudit.pipelines.config import check, resolve
from convaudit.pipelines.plan import Plan, make_plan
from convaudit.stages.network.sweep import Block, run_tasks
from convaudit.stages.specs import Summary

from ..stored_fake import StoredFake
from ..tiny_models import conv_net, residual_net, signal_net, tiny_images, tiny_subject

NETS = {"images": conv_net, "residual": residual_net, "signals": signal_net}
N_IMAGE = 24
#: What sampling spread over the data set hits first: its ends and its middle.
BAD = (0, 12, 23)
#: Settings that make it cheap, or give the few images something to find; what is held here does not hang on them.
SMALLER = (
    "weights.simulations=99",
    "neighbors.k=4",
    "confusion.min_support=1",
    "mixing.min_support=2",
    "patches.channels=2",
    "patches.rank=3",
    "receptive_fields.most=2",
    "receptive_fields.channels=2",
    "faithfulness.images=9",
    "faithfulness.steps=4",
    "faithfulness.levels=2",
    "faithfulness.samples=2",
    "gaze.images=6",
    "gaze.others=8",
    "gaze.share=0.05",
    "gaze.ratio=1",
    "gaze.deviations=0",
    "filters.rare=0.5",
    "filters.dormant=0.5",
)
#: The same for methods, where there is such a one.
SMALLER_METHODS = {"tsne": ("embeddings.methods.tsne.perplexity=4", "embeddings.methods.tsne.iterations=100")}
#: The plan is that of an audit; what trains the model comes before there is one.
NOT_OF_AN_AUDIT = {"reference"}


@cache
def plan() -> Plan:
    """Every stage of conf/config.yaml, and every option of the groups that take several.

    Attributions stay at their default: each of them is held by the contract of the first wave.
    """
    with initialize_config_module(version_base="1.3", config_module="convaudit.conf"):
        options = config_groups()
        defaults = OmegaConf.load(Path(convaudit.conf.__file__).parent / "config.yaml").defaults
        several = [group for entry in defaults if entry != "_self_" for group, choice in entry.items()
                   if OmegaConf.is_list(choice) and group != "attributions"]  # fmt: skip
        wanted = [f"{group}=[{','.join(options[group])}]" for group in several]
        present = {option for group in several for option in options[group]}
        methods = [setting for name, smaller in SMALLER_METHODS.items() if name in present for setting in smaller]
        config = check(resolve(compose("config", overrides=[*wanted, *SMALLER, *methods])))
    return make_plan(config.stages, [name for name in config.stages if name not in NOT_OF_AN_AUDIT])


class _OnDisk:
    """An array that has to be read before it can be computed with, and whose reader gets a copy."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = array
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim

    def __getitem__(self, key: object) -> np.ndarray:
        return np.array(self._array[key])

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.array(self._array, dtype)

    def __len__(self) -> int:
        return len(self._array)


class Stored(StoredFake):
    """What is stored, given out as Zarr would."""

    def __getitem__(self, path):
        return _OnDisk(super().__getitem__(path))

    def leaves(self):
        return tuple(sorted({*self.summaries, *self.failures}))


@dataclass
class World:
    """A network, what it is audited on, and which images cannot be read."""

    model: torch.nn.Module
    subject: object
    images: np.ndarray
    bad: tuple[int, ...] = BAD
    garbage: float = 0.0

    def blocks(self, positions: Sequence[int], batch: int):
        """Batches of the images of one task, as a reader would decode them."""
        for a in range(0, len(positions), batch):
            where = np.asarray(positions[a : a + batch])
            valid = ~np.isin(where, self.bad)
            pixels = np.where(valid.reshape(-1, *[1] * (self.images.ndim - 1)), self.images[where], self.garbage)
            status = np.where(valid, 0, 4).astype(np.int8)
            reasons = tuple("" if ok else "cannot be decoded" for ok in valid)
            yield Block(where, pixels.astype(np.float32), valid, status, reasons)


def world(net: str, shard: int = 8, batch: int = 3) -> World:
    """In double precision, so that no decision hangs on how a batch was cut.

    Half of the labels are what the network says; one image has none; one is another's copy.
    """
    model = NETS[net]().double()
    images = tiny_images(model, N_IMAGE)
    images[17] = images[4]
    said = model(torch.from_numpy(images).double()).argmax(1).numpy()
    label = np.where(np.arange(N_IMAGE) % 2, said, np.arange(N_IMAGE) % 5)
    label[5] = -1
    subject = replace(tiny_subject(model, N_IMAGE, shard=shard, batch=batch), label=label)
    return World(model, subject, images)


@dataclass
class Written:
    """What one leaf gave: rows by path, which of them were written, partial results, and all of it folded."""

    rows: dict[str, np.ndarray] = field(default_factory=dict)
    covered: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    partials: list[Mapping[str, np.ndarray]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    summary: Summary = field(default_factory=Summary)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """Rows and whole arrays."""
        return {**self.rows, **self.summary.arrays}


def outcomes(leaf, world: World, stored: Stored):
    """Give rows, partial result and error of each task, in task order."""
    for task in leaf.tasks(world.subject, stored):
        if task.images is not None:
            blocks = world.blocks(task.images, world.subject.batch)
            [got] = run_tasks(world.model, [(leaf, task)], blocks, world.subject, device="cpu", channels_last=False)
            yield task, got.rows, got.partial, got.error
        else:
            assert not leaf.sweeps, "a leaf that sweeps has images in all its tasks"
            call = (world.model, task) if leaf.inspects else (task,)
            result = (leaf.inspect if leaf.inspects else leaf.compute)(*call, world.subject, stored)
            yield task, result.rows, result.partial, None


def run(leaf, world: World, stored: Stored) -> Written:
    """Run all tasks of a leaf and fold them; `stored` is left as it was."""
    declared = {array.path: array for array in leaf.writes(world.subject)}
    own = Stored(stored.arrays, stored.summaries, stored.failures)
    for path, array in declared.items():
        own.arrays[f"{leaf.name}/{path}"] = np.full(array.shape, array.spec.fill, array.spec.dtype)
    written = Written()
    for task, rows, partial, error in outcomes(leaf, world, own):
        written.errors += [error] if error else []
        for path, values in rows.items():
            assert path in declared, f"{path}: a task wrote it, but writes() does not declare it"
            assert values.dtype == declared[path].spec.dtype, path
            assert values.shape[1:] == declared[path].shape[1:], path
            written.rows[path] = own.arrays[f"{leaf.name}/{path}"]
            written.rows[path][task.start : task.start + len(values)] = values
            written.covered.setdefault(path, []).append((task.start, task.start + len(values)))
        if partial is not None:
            written.partials.append(_on_disk(partial))
    if not written.errors:
        written.summary = leaf.finish(written.partials, world.subject, own)
    return written


def _on_disk(partial: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Through a file without pickles; read-only, since the engine may read the file once or many times."""
    memory = io.BytesIO()
    np.savez(memory, **partial)
    memory.seek(0)
    with np.load(memory, allow_pickle=False) as archive:
        again = dict(archive)
    for array in again.values():
        array.flags.writeable = False
    return again


def keep(leaf, subject, written: Written, stored: Stored) -> None:
    """Put what a leaf gave where others read it."""
    for array in leaf.writes(subject):
        blank = np.full(array.shape, array.spec.fill, array.spec.dtype)
        stored.arrays[f"{leaf.name}/{array.path}"] = np.asarray(written.arrays.get(array.path, blank))
    text = json.dumps(written.summary.attributes(), allow_nan=False)
    stored.summaries[leaf.name] = Summary.from_attributes(json.loads(text))


@cache
def everything(net: str, bad: tuple[int, ...] = BAD) -> tuple[World, Stored, dict[str, Written]]:
    """Run the whole plan; a leaf whose tasks or fold fail is kept as failed, as the engine would."""
    here, stored, written = replace(world(net), bad=bad), Stored(), {}
    for name, leaf in plan().leaves.items():
        failed = [need for need in plan().needs[name] if need in stored.failures]
        if failed and not plan().forgives(name):
            stored.failures[name] = f"reads {failed[0]}, which failed: {stored.failures[failed[0]]}"
            continue
        try:
            written[name] = run(leaf, here, stored)
            assert not written[name].errors, written[name].errors[0]
            keep(leaf, here.subject, written[name], stored)
        except Exception as error:
            stored.failures[name] = f"{type(error).__name__}: {error}"
    return here, stored, written
