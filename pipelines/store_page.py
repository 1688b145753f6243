"""Write ``docs/store.md`` from the specs: ``python -m convaudit.pipelines.store_page > docs/store.md``."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields

import numpy as np
from hydra import compose, initialize_config_module

from ..stages.contract import Leaf, Stage, Subject
from ..stages.specs import STATUS, ArraySpec, Finding, LayerKind, LayerSpec, Measurement
from . import store
from .compose import config_groups
from .config import check, resolve
from .run import in_store

#: Columns of ``images.parquet`` that are always there.
COLUMNS = {
    "id": "stable name of the image",
    "key": "where the image lies: a path below the data's folder, or its row in the file",
    "label": "class position; -1 where the data say none",
    "split": "split; empty where the data know none",
    "content": "hex digest of the image's bytes",
}
#: Columns that it has where the data say where the object lies.
REGIONS = {
    "box": "boxes around the object, `x0 y0 x1 y1` in pixels as stored, signals `start end`; several with `;` between",
    "mask": "path of the image file that is not 0 where the object is, or row among the masks of an array",
    "mask_content": "hex digest of that mask",
}
#: Keys of ``subject.json``.
SUBJECT = {
    "schema": "version of this layout",
    "class_names": "name of each class, in the order of the logits",
    "axes": "spatial axes of the data: `y x` or `time`",
    "input_shape": "`channel, *space` of what the network sees",
    "mean": "per channel: network input = (value - mean) / std",
    "std": "see mean",
    "layers": "every layer in the order of the forward pass: name, kind, module, shape, upper",
    "seed": "root of every random number",
    "shard": "images per shard",
    "batch": "images per forward pass",
    "model": "what the model is, with the digest of its weights and its code",
    "data": "number, digest and settings of the data",
    "numerics": "what moves the last bits: device, versions, threads, batch size, dtype, memory format, convolution",
}

_HEAD = """\
# The store

Every array that an audit writes. This page is made from the specs in the code; do not edit it, but run
`python -m convaudit.pipelines.store_page > docs/store.md`.

```
run/
  store/                  written while looking at the images
    images.parquet        one row per image
    subject.json          what was audited
    <stage>.zarr          one group per stage, or per method below it: attributions.zarr/grad_cam
  checks/
    <stage>.zarr          computed from what lies in store/
  report.html  nightly.html  verdict.json  junit.xml  config.yaml  timings.json
```

An array is addressed as `<leaf>/<path>`: `predictions/logit` lies in `run/store/predictions.zarr` under `logit`, and
`attributions/grad_cam/block3/heatmap` in `run/store/attributions.zarr/grad_cam` under `block3/heatmap`. `{layer}`
stands for a layer's dotted name. Axes are singular: row *i* of an `image` axis is row *i* of `images.parquet`. `*space`
stands for the spatial axes of the data, `y, x` or `time`.

## Open it

Zarr v3 with named dimensions. In xarray:

```python
import xarray

predictions = xarray.open_zarr("run/store/predictions.zarr", consolidated=False)
print(predictions["logit"].dims)  # ('image', 'class')

saliency = xarray.open_zarr("run/store/attributions.zarr", group="saliency", consolidated=False)
values = saliency["heatmap"].astype("float32") * saliency["scale"]
```

The index, and with zarr alone:

```python
import pandas
import zarr

images = pandas.read_parquet("run/store/images.parquet")
logit = zarr.open_group("run/store/predictions.zarr", mode="r")["logit"][:]
assert len(images) == len(logit)
```
"""


def page() -> str:
    """Render the page."""
    stages = _all_stages()
    parts = [_HEAD, _rules(), "## Arrays\n"]
    for stage in stages.values():
        parts.extend(_leaf(leaf, in_store(stage.leaves())) for leaf in stage.leaves() if leaf.documents)
    parts.append(_sizes(stages["attributions"]))
    parts.append(_beside())
    return "\n".join(parts)


def documented() -> dict[str, tuple[ArraySpec, ...]]:
    """Specs of every leaf that any option of the packaged config knows."""
    return {leaf.name: tuple(leaf.documents) for stage in _all_stages().values() for leaf in stage.leaves()}


def _all_stages() -> Mapping[str, Stage]:
    """Build every stage with every method there is."""
    groups = config_groups()
    with initialize_config_module("convaudit.conf", version_base="1.3"):
        default = check(resolve(compose("config")))
        methods = [f"{name}=[{','.join(groups[name])}]" for name in default.stages if groups[name] != ["default"]]
        return check(resolve(compose("config", overrides=methods))).stages


def _rules() -> str:
    rows = [
        ("float16, float32, float64", _shown(ArraySpec("", (), "float32", "", "").fill)),
        ("int8, int32, int64", _shown(ArraySpec("", (), "int64", "", "").fill)),
        ("uint8", _shown(ArraySpec("", (), "uint8", "", "").fill)),
    ]
    codes = ", ".join(f"{code} {name}" for code, name in enumerate(STATUS))
    return f"""\
## Rules

What was never measured holds the fill value: rows of bad images, and whatever a stage does not define.

{_table(("dtype", "fill"), rows)}

`predictions/status` says of each image: {codes}; -1 was never looked at.

An array whose first axis is `image` is cut so that the images of one task (`numerics.shard`) are one file, and no two
tasks write the same one. A shard of up to {store.WHOLE_CHUNK_BYTES >> 20} MiB is one chunk; a larger one is a Zarr
shard of chunks of {store.CHUNK_ROWS} images. Every other array is a single chunk. Compression is Blosc with zstd at
level 1 and shuffle. Nothing in the store tells when, where or by how many workers it was written: equal inputs give
equal bytes.
"""


def _shown(fill: float | int) -> str:
    return "NaN" if math.isnan(fill) else str(fill)


def _leaf(leaf: Leaf, stored: bool) -> str:
    stage, _, method = leaf.name.partition("/")
    rows = [
        (f"`{leaf.name}/{spec.path}`", f"`{', '.join(spec.dims)}`", spec.dtype, spec.unit, spec.meaning)
        for spec in leaf.documents
    ]
    place = f"In `run/{'store' if stored else 'checks'}/{stage}.zarr{'/' + method if method else ''}`."
    if stage == "reference":
        place = "In the work folder, under `.work/sealed/`: the training is no part of the audit."
    return f"### {leaf.name}\n\n{place}\n\n{_table(('array', 'dims', 'dtype', 'unit', 'meaning'), rows)}\n"


def _sizes(attributions: Stage) -> str:
    rows = []
    for leaf in attributions.leaves():
        for array in leaf.writes(_LARGE):
            if (
                array.dims[0] == "image"
                and (size := math.prod(array.shape) * np.dtype(array.spec.dtype).itemsize) >= 1e8
            ):
                shape = " x ".join(f"{name} {length:,}" for name, length in zip(array.dims, array.shape, strict=True))
                rows.append((f"`{leaf.name}/{array.path}`", shape, array.spec.dtype, f"{size / 1e9:.3g}"))
    return f"""\
## What attributions take

50,000 images of 224x224 and 1,000 classes with ResNet-50's layers and the settings of `conf/`, before compression;
arrays below 0.1 GB are left out. Nothing has both a class axis and the axes of the input.

{_table(("array", "shape", "dtype", "GB"), rows)}
"""


def _large() -> Subject:
    """Stand in for an audit of the size that the layout is planned for."""
    layers: tuple[tuple[str, LayerKind, tuple[int, ...]], ...] = (
        ("conv1", "conv", (64, 112, 112)), ("relu", "relu", (64, 112, 112)), ("layer4.2.conv3", "conv", (2048, 7, 7)),
        ("layer4", "other", (2048, 7, 7)), ("avgpool", "pool", (2048, 1, 1)), ("fc.input", "input", (2048,)),
        ("fc", "linear", (1000,)),
    )  # fmt: skip
    n = 50_000
    return Subject(
        image_id=tuple(map(str, range(n))), label=np.zeros(n, np.int64), content=("",) * n, split=("",) * n,
        class_names=tuple(map(str, range(1000))), axes=("y", "x"), input_shape=(3, 224, 224), mean=(0.0,) * 3,
        std=(1.0,) * 3, layers=tuple(LayerSpec(name, kind, kind, shape) for name, kind, shape in layers),
        shard=256, batch=16, seed=0,
    )  # fmt: skip


_LARGE = _large()


def _beside() -> str:
    measurement = ", ".join(f"`{field.name}`" for field in fields(Measurement))
    finding = ", ".join(f"`{field.name}`" for field in fields(Finding))
    return f"""\
## Beside the arrays

Attributes of each array: `unit` and `meaning`, as above.

Attributes of each leaf's group:

| key | meaning |
|---|---|
| `leaf` | name of the leaf |
| `schema` | version of this layout: {store.SCHEMA} |
| `status` | `complete`, or `failed` with a `reason` and no arrays |
| `measurements` | numbers for the gates, each with {measurement} |
| `findings` | facts for people, each with {finding} |
| `notes` | what the report needs beside them: definitions, what was sampled or skipped |

Columns of `run/store/images.parquet`:

{_table(("column", "meaning"), ((f"`{name}`", text) for name, text in COLUMNS.items()))}

Where the data have them, also these, and after them the slice columns:

{_table(("column", "meaning"), ((f"`{name}`", text) for name, text in REGIONS.items()))}

Keys of `run/store/subject.json`:

{_table(("key", "meaning"), ((f"`{name}`", text) for name, text in SUBJECT.items()))}
"""


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    def lines() -> Iterator[str]:
        yield f"| {' | '.join(head)} |"
        yield "|" + "---|" * len(head)
        for row in rows:
            yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"

    return "\n".join(lines())


if __name__ == "__main__":
    sys.stdout.write(page())
