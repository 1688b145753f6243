from types import SimpleNamespace

import numpy as np
import pytest
import torch

from convaudit.stages.ablation.candidates import Flags, choose
from convaudit.stages.ablation.stage import Ablation, sampled
from convaudit.stages.contract import Ablate
from convaudit.stages.errors import ConfigError, StageError
from convaudit.stages.specs import Summary

from ...stored_fake import StoredFake, codes_of, fold, make_subject, settle, values_of

TROUBLES = ["none", "dead", "rare", "dormant", "constant", "saturated", "duplicate", "near_zero"]
LAYERS = ["conv", "early", "late"]
KINDS = ["conv", "relu", "relu"]
#: Channels of the convolution are switched off behind its ReLU.
OFF_AT = ["early", "early", "late"]
#: (layer, channel, trouble, repeated) of the filter audit; the ReLU tells of the constant convolution.
FLAGS = [(0, 0, 4, 1), (0, 1, 0, 0), (1, 0, 1, 0), (1, 1, 2, 0), (1, 2, 0, 0), (2, 0, 0, 0), (2, 1, 2, 0)]
FLAGS += [(2, 2, 1, 0), (2, 3, 2, 0)]
WEIGHT = np.random.default_rng(8).normal(size=(4, 3))


def chosen(flags=FLAGS, max_channels=8, max_layers=4, off_at=OFF_AT):
    columns = (np.array(column) for column in zip(*flags, strict=True))
    return choose(Flags(LAYERS, KINDS, TROUBLES, off_at, *columns), max_channels, max_layers)


def hidden(n):
    """Values of the four channels of `late`: the first always fires, 2 never, 1 and 3 in a few images."""
    values = np.abs(np.random.default_rng(4).normal(size=(n, 4)))
    values[:, 2] = 0
    values[np.arange(n) % 5 != 0, 1] = 0
    values[np.arange(n) % 7 != 0, 3] = 0
    return values


def logits(images, variant=None):
    values = hidden(23)[images]
    if variant is not None and variant.layer == "late":
        values[:, list(variant.channels)] = 0
    return values @ WEIGHT


def stored_for(flags=FLAGS, n=23):
    layer, channel, trouble, repeated = (np.array(column) for column in zip(*flags, strict=True))
    ordered = np.sort(logits(np.arange(n)), axis=1)
    return StoredFake(
        {
            "filters/layer": layer.astype(np.int32),
            "filters/channel": channel.astype(np.int32),
            "filters/trouble": trouble.astype(np.int8),
            "filters/repeated": repeated.astype(np.int8),
            "predictions/predicted": logits(np.arange(n)).argmax(axis=1).astype(np.int32),
            "predictions/margin": (ordered[:, -1] - ordered[:, -2]).astype(np.float32),
        },
        {"filters": Summary(notes={"layers": LAYERS, "kinds": KINDS, "troubles": TROUBLES, "off_at": OFF_AT})},
    )


def run(leaf, subject, stored, model=logits, valid=None):
    """Run the tasks in batches of two, as the sweep would."""
    valid = np.ones(subject.n_image, bool) if valid is None else valid
    partials = []
    for task in leaf.tasks(subject, stored):
        images, batches = np.array(task.images), []
        for a in range(0, len(images), 2):
            positions = images[a : a + 2]
            batch = SimpleNamespace(
                positions=positions, valid=valid[positions], logits=torch.tensor(model(positions, task.variant))
            )
            batches.append(leaf.process(batch, task, subject).partial)
        partials.append(fold(leaf, batches))
    return settle(leaf, subject, stored, partials)


def test_rare_channels_come_first_then_dead_ones_then_layers():
    cases = chosen().cases
    assert [(case.layer, case.channels, case.joint) for case in cases] == [
        ("early", (1,), False),
        ("late", (1,), False),
        ("late", (3,), False),
        ("early", (0,), False),
        ("late", (2,), False),
        ("early", (0, 1), True),
        ("late", (1, 2, 3), True),
    ]
    assert [case.by_evidence for case in cases] == [False, False, False, True, True, False, False]


def test_kinds_take_turns_so_that_none_uses_up_the_cap_and_dead_ones_come_last():
    kinds = [1, 2, 2, 2, 5, 7, 6, 6, 3, 4]
    cases = chosen([(2, channel, kind, 0) for channel, kind in enumerate(kinds)], 20, 0).cases
    assert [case.troubles[0] for case in cases] == [
        *("rare", "saturated", "constant", "duplicate", "near_zero", "dormant"),
        *("rare", "duplicate", "rare", "dead"),
    ]
    assert [case.channels[0] for case in cases] == [1, 4, 9, 6, 5, 8, 2, 7, 3, 0]


def test_a_convolution_is_switched_off_where_nothing_is_left_of_it_and_once():
    flags = [(0, 1, 6, 0), (0, 2, 7, 0), (1, 1, 2, 0)]
    choice = chosen(flags, 8, 4)
    assert [(case.layer, case.channels, case.troubles) for case in choice.cases] == [
        ("early", (1,), ("rare",)),
        ("early", (2,), ("near_zero",)),
        ("early", (1, 2), ("near_zero", "rare")),
    ]
    norm = chosen(flags[:1], 8, 0, ["norm", "early", "late"])
    assert norm.layers == (*LAYERS, "norm")
    assert [(case.layer, case.place) for case in norm.cases] == [("norm", 3)]


def test_what_looks_idle_goes_together_and_what_says_something_does_not():
    flags = [(2, channel, kind, 0) for channel, kind in enumerate([1, 2, 3, 4, 5, 6, 7])]
    (case,) = [case for case in chosen(flags, 0, 4).cases if case.joint]
    assert case.channels == (0, 1, 2, 6)
    assert not case.silent


def test_a_dead_channel_of_a_convolution_is_no_evidence():
    (case,) = chosen([(0, 1, 1, 0)], 8, 0).cases
    assert not case.by_evidence


def test_caps_leave_out_and_say_so():
    choice = chosen(max_channels=2, max_layers=1)
    assert [case.channels for case in choice.cases] == [(1,), (1,), (0, 1)]
    assert (choice.flagged_channels, choice.flagged_layers) == (5, 2)


def test_tasks_name_each_variant_once_per_shard_and_none_by_evidence():
    subject = make_subject(np.zeros(23, int), shard=10)
    tasks = Ablation().tasks(subject, stored_for())
    assert [task.variant for task in tasks[::3]] == [
        Ablate("early", (1,)),
        Ablate("late", (1,)),
        Ablate("late", (3,)),
        Ablate("early", (0, 1)),
        Ablate("late", (1, 2, 3)),
    ]
    assert [task.images for task in tasks[:3]] == [range(10), range(10, 20), range(20, 23)]


@pytest.mark.parametrize("shard", [4, 23])
def test_accuracy_change_and_flips_are_those_of_the_altered_network(shard):
    label = np.random.default_rng(2).integers(0, 3, 23)
    stored = stored_for()
    summary = run(Ablation(), make_subject(label, shard=shard), stored)
    whole = logits(np.arange(23)).argmax(axis=1)
    expected = [((), 1), ((1,), 2), ((3,), 2), ((), 1), ((2,), 2), ((), 1), ((1, 2, 3), 2)]
    for row, (channels, place) in enumerate(expected):
        values = hidden(23)
        values[:, list(channels)] = 0
        answer = (values @ WEIGHT).argmax(axis=1)
        assert stored["ablation/layer"][row] == place
        assert stored["ablation/accuracy"][row] == pytest.approx((answer == label).mean())
        assert stored["ablation/change"][row] == pytest.approx((answer == label).mean() - (whole == label).mean())
        assert stored["ablation/flipped"][row] == (answer != whole).sum()
    assert stored["ablation/flipped"][6] > 0
    assert stored["ablation/channel"][:7].tolist() == [1, 1, 3, 0, 2, -1, -1]
    assert (stored["ablation/layer"][7:] == -1).all()
    assert np.isnan(stored["ablation/accuracy"][7:]).all()
    assert [case["how"] for case in summary.notes["cases"]] == ["run"] * 3 + ["evidence"] * 2 + ["run"] * 2
    assert values_of(summary)["ablation/flipped_fraction"] == stored["ablation/flipped"].max() / 23


def test_bad_images_take_no_part():
    label = np.random.default_rng(2).integers(0, 3, 23)
    stored, valid = stored_for(), np.ones(23, bool)
    valid[[0, 5]] = False
    stored.arrays["predictions/predicted"][[0, 5]] = -1
    run(Ablation(), make_subject(label, shard=10), stored, valid=valid)
    values = hidden(23)
    values[:, 1:] = 0
    good = np.flatnonzero(valid)
    answer = (values @ WEIGHT).argmax(axis=1)[good]
    assert stored["ablation/accuracy"][6] == pytest.approx((answer == label[good]).mean())


def test_nothing_flagged_leaves_empty_rows_and_no_tasks():
    flags = [(0, 0, 4, 1), (1, 0, 0, 0), (2, 0, 0, 0)]
    stored, subject = stored_for(flags), make_subject(np.zeros(23, int))
    assert list(Ablation().tasks(subject, stored)) == []
    summary = run(Ablation(), subject, stored)
    assert summary.notes["status"] == "nothing flagged"
    assert not summary.measurements
    assert (stored["ablation/layer"] == -1).all()
    assert (stored["ablation/flipped"] == -1).all()


def test_no_rows_at_all_can_be_asked_for():
    stored = stored_for()
    summary = run(Ablation(max_channels=0, max_layers=0), make_subject(np.zeros(23, int)), stored)
    assert stored["ablation/layer"].shape == (0,)
    assert summary.notes["left_out"] == {"channels": 5, "layers": 2}


def test_unlabelled_images_can_flip_but_have_no_accuracy():
    stored = stored_for()
    summary = run(Ablation(), make_subject(np.full(23, -1), class_names=("a", "b", "c")), stored)
    assert np.isnan(stored["ablation/accuracy"]).all()
    assert stored["ablation/flipped"][6] > 0
    assert set(values_of(summary)) == {"ablation/flipped_fraction"}


def test_a_silent_channel_that_changes_answers_is_a_contradiction():
    flags = [(1, 0, 0, 0), (2, 2, 1, 0)]

    def unsteady(images, variant=None):
        return np.roll(logits(images, variant), 1, axis=1)

    stored = stored_for(flags)
    summary = run(Ablation(), make_subject(np.zeros(23, int)), stored, model=unsteady)
    assert codes_of(summary)["ablation/contradiction"].severity == "error"
    stored = stored_for(flags)
    stored.arrays["predictions/margin"][:] = 1e-6
    summary = run(Ablation(), make_subject(np.zeros(23, int)), stored, model=unsteady)
    assert "ablation/contradiction" not in codes_of(summary)


def test_images_that_a_run_did_not_see_are_an_error():
    stored, subject = stored_for(), make_subject(np.zeros(23, int), shard=10)
    with pytest.raises(StageError, match="23 of 23 images are missing"):
        settle(Ablation(), subject, stored, [])


def test_sample_is_spread_over_all_shards_and_never_larger_than_asked():
    subject = make_subject(np.zeros(103, int), shard=10)
    parts = sampled(subject, 20)
    images = [image for part in parts for image in part]
    assert len(images) == 20
    assert max(np.diff(images)) <= 6
    assert len(parts) == 10
    assert sampled(subject, 103) == subject.shards()
    label = np.random.default_rng(2).integers(0, 3, 23)
    stored = stored_for()
    summary = run(Ablation(max_images=9), make_subject(label, shard=5), stored)
    images = np.array([i * 23 // 9 for i in range(9)])
    values = hidden(23)
    values[:, 1:] = 0
    assert stored["ablation/accuracy"][6] == ((values @ WEIGHT).argmax(axis=1) == label)[images].mean()
    assert summary.notes["sampled"] == "9 of 23 images, evenly spaced"


@pytest.mark.parametrize("setting", [{"max_channels": -1}, {"max_layers": -1}, {"max_images": 0}])
def test_settings_out_of_range(setting):
    with pytest.raises(ConfigError, match=r"ablation\."):
        Ablation(**setting)
