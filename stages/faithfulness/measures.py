"""What is measured of one method on one batch of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..attributions.baselines import Baseline, baseline
from ..attributions.method import Method, PixelMethod
from ..attributions.rendering import render
from ..attributions.wrapper import Wrapper
from ..contract import Randomise, Subject, Target, Task
from ..errors import StageError
from ..numerics.seeds import stable_seed
from .chance import random_heatmap
from .curves import curve, probability, ranked, step_counts
from .noise import relative_change, uniform_noise
from .randomisation import cascade, drawable_modules, rank_correlation
from .regions import inside_share, otsu_mask, overlap, pointing, pointing_tolerance
from .ssim import structural_similarity

if TYPE_CHECKING:
    from ..network.batch import Batch


#: Above this many passes for a map, it is made under random weights and noise for the first few images of a task.
_MANY_PASSES, _FEW_IMAGES = 32, 4
#: Images before any and after every replacement, and the probability of the target for both.
End = tuple[torch.Tensor, torch.Tensor, tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Protocol:
    """How methods are put to the test; see `convaudit.stages.faithfulness.stage.Faithfulness`."""

    images: int
    steps: int
    removed: Baseline
    blur: float
    levels: int
    similar: float
    samples: int
    noise: float
    tolerance: int | None


@dataclass(frozen=True)
class Trial:
    """One method before one batch.

    Parameters
    ----------
    method
        What is tried.
    target
        What its heatmaps explain.
    batch
        Images that have such a target.
    subject
        What is audited.
    protocol
        How.
    """

    method: Method
    target: Target
    batch: Batch
    subject: Subject
    protocol: Protocol

    def maps(self, batch: Batch) -> dict[str, np.ndarray]:
        """Heatmaps at their own resolution by path, float64."""
        found = self.method.maps(batch, self.subject, self.target)
        return {path: heatmap.detach().double().cpu().numpy() for path, heatmap in found.items()}

    def enlarged(self, maps: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The same at the resolution of the input, drawn as the report draws them."""
        space = self.subject.input_shape[1:]
        small = {path: heatmap for path, heatmap in maps.items() if heatmap.shape[1:] != space}
        if not small:
            return dict(maps)
        notes, _, _ = self.method.told(self.method.facts(self.batch, self.subject), self.subject)
        rendering = {"kind": "layer", **notes.get("rendering", {})}
        return {**maps, **render(small, {"rendering": rendering}, self.subject.input_shape)}


def measure(trial: Trial, task: Task) -> dict[str, np.ndarray]:
    """Everything that one batch tells of a method.

    Parameters
    ----------
    trial
        Method and images.
    task
        What the batch is part of; its argument says which set of random weights.

    Returns
    -------
    dict
        Rows for the images of the batch, by name of the array they go to; ``"level_..."`` without rows.
    """
    maps = trial.maps(trial.batch)
    large = trial.enlarged(maps)
    found = _curves(trial, large) | _against_regions(trial, large)
    rows = np.arange(len(trial.batch))
    if trial.method.passes(trial.subject) > _MANY_PASSES:
        rows = np.flatnonzero(np.isin(trial.batch.positions, (task.images or ())[:_FEW_IMAGES]))
    found |= _made_again(trial, maps, rows, task.argument["draw"])
    return found | {
        "image": np.asarray(trial.batch.positions, np.int64),
        "target": np.asarray(trial.batch.target_class(trial.target), np.int32),
        "maps": np.array(list(maps)),
    }


def _curves(trial: Trial, large: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    batch, protocol = trial.batch, trial.protocol
    classes = batch.target_class(trial.target)
    grain = grain_of(trial.method)
    key = ("faithfulness", protocol.removed, protocol.blur, classes.tobytes())
    ends = batch.once(key, lambda: _ends(trial, classes))
    chance = batch.once((*key, protocol.steps, grain), lambda: _chance(trial, ends, classes, grain))
    ranks = [ranked(np.nan_to_num(heatmap, nan=-np.inf)) for heatmap in large.values()]
    unknown = np.stack([~np.isfinite(heatmap.reshape(len(heatmap), -1)).all(axis=1) for heatmap in large.values()])
    rows = {}
    for way in ends:
        values = _one_curve(trial, ends[way], ranks, classes)
        values[unknown] = np.nan
        rows[way] = np.moveaxis(values, 0, 1).astype(np.float32)
        rows[f"chance_{way}"] = chance[way].astype(np.float32)
    return rows


def grain_of(method: Method) -> str:
    """Which grain of random orders a method's heatmaps have, and are held against."""
    core = method.core if isinstance(method, Wrapper) else method
    return "fine" if isinstance(core, PixelMethod) else "coarse"


def _ends(trial: Trial, classes: np.ndarray) -> dict[str, End]:
    """Where the curves of every method on the same images start and end."""
    batch, protocol, subject = trial.batch, trial.protocol, trial.subject
    images = batch.images
    removed, blur = (
        baseline(images, kind, subject.mean, subject.std, protocol.blur) for kind in (protocol.removed, "blur")
    )
    whole = probability(batch.logits, classes)
    return {
        "deletion": (images, removed, (whole, probability(batch.call(removed), classes))),
        "insertion": (blur, images, (probability(batch.call(blur), classes), whole)),
    }


def _chance(trial: Trial, ends: Mapping[str, End], classes: np.ndarray, grain: str) -> dict[str, np.ndarray]:
    """The curves of a random order, which every method of that grain shares on the same images."""
    ranks = [ranked(random_heatmap(trial.batch.ids, trial.subject.input_shape[1:], grain, trial.subject.seed))]
    return {way: _one_curve(trial, end, ranks, classes)[0] for way, end in ends.items()}


def _one_curve(trial: Trial, end: End, ranks: list[np.ndarray], classes: np.ndarray) -> np.ndarray:
    first, last, ends = end
    counts = step_counts(ranks[0][0].size, trial.protocol.steps)
    return curve(trial.batch.call, first, last, ranks, classes, counts, ends, trial.subject.batch)


def _made_again(trial: Trial, maps: Mapping[str, np.ndarray], rows: np.ndarray, draw: int) -> dict[str, np.ndarray]:
    """Heatmaps of some images under random weights and under noise, against those as they are."""
    protocol, shape = trial.protocol, (len(trial.batch), len(maps))
    modules, elsewhere = drawable_modules(trial.batch.model, trial.subject.layers)
    levels = cascade(modules, protocol.levels)
    found = {
        "randomisation": np.full((*shape, protocol.levels), np.nan, np.float32),
        "ssim": np.full((*shape, protocol.levels), np.nan, np.float32),
        "sensitivity": np.full(shape, np.nan, np.float32),
        "level_modules": np.array([len(names) for names in levels], np.int64),
        "level_last": np.array([names[-1] for names in levels], str),
        "level_elsewhere": np.array([elsewhere], np.int64),
    }
    if len(rows):
        part = replace(trial, batch=trial.batch.only(rows))
        some = {path: heatmap[rows] for path, heatmap in maps.items()}
        seed = stable_seed(trial.subject.seed, str(draw), "faithfulness draw")
        for name, values in _randomised(part, some, levels, seed).items():
            found[name][rows, :, : len(levels)] = values
        found["sensitivity"][rows] = _disturbed(part, some)
    return found


def _randomised(
    trial: Trial, maps: Mapping[str, np.ndarray], levels: Sequence[tuple[str, ...]], seed: int
) -> dict[str, np.ndarray]:
    shape = (len(trial.batch), len(maps), len(levels))
    ways = {"randomisation": rank_correlation, "ssim": structural_similarity}
    found = {name: np.full(shape, np.nan) for name in ways}
    for level, names in enumerate(levels):
        other = trial.maps(trial.batch.under(Randomise(names, seed), trial.method.asks(trial.subject)))
        for name, similarity in ways.items():
            for place, path in enumerate(maps):
                found[name][:, place, level] = similarity(maps[path], other[path])
    return found


def _disturbed(trial: Trial, maps: Mapping[str, np.ndarray]) -> np.ndarray:
    batch, protocol = trial.batch, trial.protocol
    worst = np.full((len(batch), len(maps)), np.nan)
    images = batch.images.float().cpu().numpy()
    for sample in range(protocol.samples):
        noise = uniform_noise(images, batch.ids, protocol.noise, sample, trial.subject.seed)
        noisy = batch.images + torch.from_numpy(noise).to(batch.images)
        other = trial.maps(batch.again(noisy, trial.method.asks(trial.subject)))
        for place, path in enumerate(maps):
            worst[:, place] = np.fmax(worst[:, place], relative_change(maps[path], other[path]))
    return worst


def _against_regions(trial: Trial, large: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    regions = trial.batch.regions
    rows = {
        name: np.full((len(trial.batch), len(large)), np.nan, np.float32) for name in ("pointing", "inside", "overlap")
    }
    region_share = np.full(len(trial.batch), np.nan, np.float32)
    tolerance = pointing_tolerance(trial.protocol.tolerance, trial.subject.input_shape[1:])
    for row, region in enumerate(() if regions is None else regions):
        if not region.any():
            continue
        region_share[row] = region.mean()
        for place, heatmaps in enumerate(large.values()):
            if not np.isfinite(heatmaps[row]).all():
                continue  # as for the curves: no number, instead of one for the part that is known
            rows["pointing"][row, place] = pointing(heatmaps[row], region, tolerance)
            rows["inside"][row, place] = inside_share(heatmaps[row], region)
            rows["overlap"][row, place] = overlap(otsu_mask(heatmaps[row]), region)
    return rows | {"region": region_share}


def expected_maps(method: Method, subject: Subject) -> int:
    """How many heatmaps a method makes of one image and target."""
    return max(1, sum(array.path.endswith(method.ending) for array in method.writes(subject)))


def check_maps(name: str, maps: np.ndarray, expected: int) -> tuple[str, ...]:
    """Paths of a method's heatmaps.

    Raises
    ------
    StageError
        When there are more or fewer than its arrays say.
    """
    if len(maps) != expected:
        raise StageError(f"{name}: expected {expected} heatmaps per image, as the method writes, got {maps.tolist()}")
    return tuple(map(str, maps))
