"""What a leaf depends on: everything, except what is left out by name."""

from __future__ import annotations

import pytest

from convaudit.pipelines import fingerprint
from convaudit.stages.errors import ConfigError


def key(**changes):
    given = {
        "config": {"_target_": "convaudit.stages.confusion.stage.Confusion", "k": 1},
        "module": "convaudit.stages.confusion.stage",
        "sweeps": False,
        "subject": "s",
        "reads": {"predictions": "d"},
    } | changes
    return fingerprint.hashed(fingerprint.leaf_fingerprint(**given))


@pytest.mark.parametrize(
    "change",
    [
        {"config": {"_target_": "convaudit.stages.confusion.stage.Confusion", "k": 2}},
        {"module": "convaudit.stages.filters.stage"},
        {"sweeps": True},
        {"subject": "t"},
        {"reads": {"predictions": "e"}},
    ],
)
def test_every_part_counts(change):
    assert key() != key(**change)


def test_source_follows_imports_but_not_those_for_type_checkers():
    followed = fingerprint._imports(
        "stages.contract",
        b"from __future__ import annotations\nfrom .errors import StageError\n"
        b"if TYPE_CHECKING:\n    from .network.batch import Batch\n"
        b"def f():\n    from .specs import ArraySpec\n",
        False,
    )
    assert followed == {"stages.errors", "stages.specs"}


def test_a_users_own_module_counts_too(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "my_method_for_fingerprints.py"
    module.write_text("A = 1\n")
    first = fingerprint.source_digest.__wrapped__(("my_method_for_fingerprints",))
    module.write_text("A = 2\n")
    assert fingerprint.source_digest.__wrapped__(("my_method_for_fingerprints",)) != first


def test_numerics_refuse_a_shard_that_batches_do_not_fill():
    with pytest.raises(ConfigError, match=r"numerics\.shard: expected a multiple of numerics\.batch=64, got 100"):
        fingerprint.Numerics(batch=64, shard=100)


@pytest.mark.parametrize(
    ("largest", "shard", "batch"),
    [
        (64 * 112 * 112, 256, 16),  # ResNet-18 at 224x224
        (64 * 224 * 224, 256, 4),  # VGG-16
        (16 * 32 * 32, 256, 64),
        (1 << 30, 256, 4),
        (64 * 112 * 112, 100, 20),
        (10, 7, 7),
        (10, 101, 1),
    ],
)
def test_a_batch_that_nobody_named_follows_from_the_largest_layer(largest, shard, batch):
    assert fingerprint.Numerics(shard=shard).fitted(largest).batch == batch


def test_a_batch_that_somebody_named_stays():
    assert fingerprint.Numerics(batch=8, shard=16).fitted(1 << 30).batch == 8
    with pytest.raises(ConfigError, match=r"numerics\.batch: expected a number for cuda, got null"):
        fingerprint.Numerics(device="cuda")


def test_numerics_key_names_versions_and_device():
    found = fingerprint.Numerics().key()
    assert {"torch", "numpy", "python"} <= set(found["versions"])
    assert found["threads"] == 1
    assert found["device_model"]
