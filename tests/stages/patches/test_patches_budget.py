"""Which channels a budget pays for, and which settings are refused."""

import pytest

from convaudit.stages.activations.stage import Activations
from convaudit.stages.errors import ConfigError, StageError
from convaudit.stages.patches.stage import Patches
from convaudit.stages.specs import Summary

from ...stored_fake import codes_of
from ...tiny_models import conv_net
from .test_patches_stage import CONV_FIELDS, run, sweep, world


def test_a_budget_below_the_number_of_layers_names_those_without():
    _, _, _, stored = done = world(conv_net(), CONV_FIELDS)
    summary = run(Patches(total=1, rank=2, always=("relu2:1,3",)), *done)
    assert stored["patches/relu2/channel"].tolist() == [1]
    assert not [path for path in stored.arrays if path.startswith("patches/relu1/crop")]
    assert "patches/relu1/chance" in stored.arrays
    found = codes_of(summary)
    assert "Without patches: relu1." in found["patches/layers-left-out"].detail
    assert summary.notes["layers_left_out"] == ["relu1"]
    assert found["patches/asked-left-out"].channels == (3,)
    assert [row["shown"] for row in summary.notes["layers"]] == [[], [1]]
    plain = codes_of(run(Patches(total=2, rank=2), *world(conv_net(), CONV_FIELDS)))
    assert not {"patches/layers-left-out", "patches/asked-left-out"} & set(plain)


@pytest.mark.parametrize("n", [6, 40])
def test_what_a_task_hands_on_hangs_on_the_budget_and_not_on_the_number_of_images(n):
    model, subject, images, stored = world(conv_net(), CONV_FIELDS, n=n, shard=100)
    (tops,) = sweep(Activations(top=2), model, subject, images, stored)
    channels = sum(layer.shape[0] for layer in subject.layers if layer.kind in ("conv", "relu"))
    assert max(array.size for array in tops.values()) == 2 * channels
    (part,) = sweep(Patches(total=4, rank=2), model, subject, images, stored)
    assert len(part["crop"]) <= 4 * 2
    assert len(part["cosine"]) == 6 * 2
    assert part["crop"].nbytes == len(part["crop"]) * 3 * 12 * 12


def test_too_few_images_or_layers_that_were_not_swept_are_refused():
    _, subject, _, stored = world(conv_net(), CONV_FIELDS)
    with pytest.raises(StageError, match=r"raise activations\.top"):
        Patches(rank=10).tasks(subject, stored)
    with pytest.raises(StageError, match=r"activations\.layers must select it"):
        Patches(layers=("pool",)).tasks(subject, stored)
    with pytest.raises(ConfigError, match="matches nothing"):
        Patches(layers=("relu7",)).writes(subject)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"channels": 0}, r"patches\.channels"),
        ({"side": 2}, r"patches\.side"),
        ({"rules": ("guided", "guided")}, "each rule once"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, word):
    with pytest.raises(ConfigError, match=word):
        Patches(**settings)


@pytest.mark.parametrize("channel", [0, 3])
def test_a_finding_of_the_convolution_lifts_the_channel_of_its_relu(channel):
    model, subject, images, stored = world(conv_net(), CONV_FIELDS, flags={("conv2", channel)})
    notes = {"lineage": {"relu1": {"conv": "conv1"}, "relu2": {"conv": "conv2"}}}
    stored.summaries["weights"] = Summary(notes=notes)
    run(Patches(("relu2",), channels=1), model, subject, images, stored)
    assert stored["patches/relu2/channel"].tolist() == [channel]
