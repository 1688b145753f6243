"""Many leaves over the same images: who gets what, who fails alone, and what happens when memory runs out."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import tiny_models as tiny
import torch

from convaudit.stages.contract import Ablate, Ask, Gradient, Identity, Leaf, Perturb, Result, Task
from convaudit.stages.errors import ModelError, StageError
from convaudit.stages.network.sweep import run_tasks
from convaudit.stages.specs import ArraySpec

LOGIT = ArraySpec("logit", ("image", "class"), "float32", "logit", "Logits.")
STATUS = ArraySpec("status", ("image",), "int8", "code", "Status.")
COUNT = ArraySpec("count", ("image",), "int32", "1", "Position.")


@dataclass(frozen=True)
class Recorder(Leaf):
    """Writes logits, a status and positions; counts valid images; shows what it saw."""

    key: str = "recorder"
    ask: Ask = field(default_factory=Ask)
    fault: Any = None
    shown: list = field(default_factory=list)

    covers_invalid = frozenset({"status"})

    @property
    def name(self):
        return self.key

    @property
    def config(self):
        return {}

    def writes(self, subject):
        n = subject.n_image
        return (LOGIT.sized((n, subject.n_class)), STATUS.sized((n,)), COUNT.sized((n,)))

    def asks(self, subject):
        if self.fault == "asks":
            raise ValueError("planted in asks")
        return self.ask

    def observe(self, layer, activation, valid):
        if self.fault == "observe":
            raise ValueError("planted\n in observe")
        assert len(activation) == len(valid)
        return activation[valid].sum().item()

    def process(self, batch, task, subject):
        if self.fault == "process":
            raise StageError("a leaf's own words")
        seen = {name: batch.observed(self.name, name) for name in self.ask.observe}
        self.shown.append((batch, seen))
        rows = {
            "logit": batch.logits.float().numpy(),
            "status": batch.status,
            "count": batch.positions.astype(np.int32),
        }
        partial = {"n": np.asarray(batch.valid.sum()), "batches": np.asarray([len(batch)])}
        return self.fault(rows, partial) if callable(self.fault) else Result(rows, partial)

    def combine(self, first, second):
        if self.fault == "combine":
            raise KeyError("planted in combine")
        return {"n": first["n"] + second["n"], "batches": np.concatenate([first["batches"], second["batches"]])}


class Counted(tiny.ConvNet):
    """Counts forwards, and runs out of memory or fails on demand."""

    def __init__(self):
        super().__init__()
        self.sizes, self.limit, self.broken = [], 99, False

    def forward(self, x):
        self.sizes.append(len(x))
        if len(x) > self.limit:
            raise torch.OutOfMemoryError("planted")
        if self.broken:
            raise RuntimeError("planted\nin forward")
        return super().forward(x)


def setting(n=10, batch=4, bad=()):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Counted().eval().requires_grad_(False).double()
    subject = tiny.tiny_subject(model, n)
    images = tiny.tiny_images(model, n)
    model.sizes.clear()
    return model, subject, images, list(tiny.tiny_blocks(images, batch, bad))


def run(model, jobs, blocks, subject):
    return run_tasks(model, jobs, blocks, subject, device="cpu", channels_last=False)


def test_one_forward_for_all_leaves_of_a_variant(monkeypatch):
    model, subject, images, blocks = setting()
    backwards = []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: backwards.append(1) or grad(*a, **k))

    def derive(rows, partial):
        return Result(rows, partial)

    asks = [
        Ask(),
        Ask(observe=("conv1",), keep=("bn1",)),
        Ask(gradients=(Gradient("predicted", "input"),)),
        Ask(gradients=(Gradient("predicted", "conv2"), Gradient("predicted", "input"))),
    ]

    class Deriving(Recorder):
        def process(self, batch, task, subject):
            for gradient in self.ask.gradients:
                batch.gradient(gradient.target, gradient.wrt)
            return super().process(batch, task, subject)

    leaves = [Deriving(f"leaf{i}", ask) for i, ask in enumerate(asks)]
    jobs = [(leaf, Task(leaf.name, range(10))) for leaf in leaves]
    jobs.append((leaves[1], Task("leaf1", range(10), Ablate("conv1", (2,)))))
    outcomes = run(model, jobs, blocks, subject)
    assert [outcome.error for outcome in outcomes] == [None] * 5
    assert model.sizes == [4, 4, 4, 4, 2, 2]
    assert len(backwards) == 3
    with torch.no_grad():
        expected = tiny.ConvNet.forward(model, torch.from_numpy(images).double()).float().numpy()
    for outcome in outcomes[:4]:
        np.testing.assert_allclose(outcome.rows["logit"], expected, rtol=1e-6)
        assert outcome.partial["n"] == 10
        assert outcome.partial["batches"].tolist() == [4, 4, 2]
        assert outcome.events == ()
    assert not np.allclose(outcomes[4].rows["logit"], expected)


def test_tasks_take_only_their_images():
    model, subject, images, blocks = setting()
    leaf = Recorder(ask=Ask(observe=("conv1",), keep=("conv1",)))
    tasks = [Task("recorder", range(3, 9), start=3), Task("recorder", (8, 1, 2, 5)), Task("recorder", (0,))]
    outcomes = run(model, [(leaf, task) for task in tasks], blocks, subject)
    assert model.sizes == [4, 4, 2]
    for task, outcome in zip(tasks, outcomes, strict=True):
        assert outcome.error is None
        assert outcome.task == task
        assert outcome.rows["count"].tolist() == list(task.images)
    conv = model.conv1(torch.from_numpy(images).double())
    assert Counter(len(batch) for batch, _ in leaf.shown) == {1: 5, 4: 1, 2: 1}
    for batch, seen in leaf.shown:
        where = batch.positions
        torch.testing.assert_close(batch.activation("conv1"), conv[where])
        assert seen["conv1"] == pytest.approx(conv[where].sum().item())
        assert batch.ids == tuple(subject.image_id[i] for i in where)
        assert (batch.labels == subject.label[where]).all()
        assert (batch.images.numpy() == images[where]).all()


def test_bad_images_keep_their_rows_and_touch_nothing():
    model, subject, images, blocks = setting(bad=(2, 9))
    leaf = Recorder(ask=Ask(observe=("conv1",), gradients=(Gradient("predicted", "input"),)))
    (outcome,) = run(model, [(leaf, Task("recorder", range(10)))], blocks, subject)
    bad = np.isin(np.arange(10), (2, 9))
    assert (np.isnan(outcome.rows["logit"]).all(1) == bad).all()
    assert outcome.rows["count"].tolist() == [-1 if bad[i] else i for i in range(10)]
    assert outcome.rows["status"].tolist() == [4 if bad[i] else 0 for i in range(10)]
    assert outcome.partial["n"] == 8
    conv = model.conv1(torch.from_numpy(images).double())
    assert leaf.shown[0][1]["conv1"] == pytest.approx(conv[[0, 1, 3]].sum().item())
    batch = leaf.shown[2][0]
    assert batch.reasons == ("", "cannot be decoded")
    assert batch.target_class("predicted")[1] == -1


def test_logits_that_are_not_finite_have_no_prediction():
    model, subject, images, _ = setting()
    images[1] = np.inf
    leaf = Recorder(ask=Ask(gradients=(Gradient("predicted", "conv2"),)))
    run(model, [(leaf, Task("recorder", range(4)))], tiny.tiny_blocks(images[:4], 4), subject)
    batch = leaf.shown[0][0]
    assert (batch.target_class("predicted") == -1).tolist() == [False, True, False, False]
    gradient = batch.gradient("predicted", "conv2")
    assert gradient[1].isnan().all()
    assert gradient[[0, 2, 3]].isfinite().all()


@pytest.mark.parametrize("asked", ["nothing", "gradients"])
def test_a_bad_neighbour_does_not_move_a_bit(asked):
    ask = Ask(gradients=(Gradient("predicted", "conv1"),)) if asked == "gradients" else Ask()
    found = []
    for bad in ((), (1,)):
        model, subject, _, blocks = setting(n=4, bad=bad)
        leaf = Recorder(ask=ask)
        run(model, [(leaf, Task("recorder", range(4)))], blocks, subject)
        batch = leaf.shown[0][0]
        found.append([batch.logits[[0, 2, 3]], *(batch.gradient(g.target, g.wrt)[[0, 2, 3]] for g in ask.gradients)])
    for first, second in zip(*found, strict=True):
        assert first.equal(second)


def wrong_dtype(rows, partial):
    return Result({**rows, "logit": rows["logit"].astype(np.float64)}, partial)


def wrong_shape(rows, partial):
    return Result({**rows, "count": rows["count"][:, None]}, partial)


def too_few(rows, partial):
    return Result({**rows, "count": rows["count"][1:]}, partial)


def undeclared(rows, partial):
    return Result({**rows, "extra": rows["count"]}, partial)


def tensor(rows, partial):
    return Result({**rows, "logit": torch.from_numpy(rows["logit"])}, partial)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("asks", "bad: ValueError: planted in asks"),
        ("observe", "bad: ValueError: planted in observe"),
        ("process", "a leaf's own words"),
        ("combine", "bad: KeyError: 'planted in combine'"),
        (wrong_dtype, "bad/logit: expected float32 (4, 5), got float64 (4, 5)"),
        (wrong_shape, "bad/count: expected int32 (4,), got int32 (4, 1)"),
        (too_few, "bad/count: expected int32 (4,), got int32 (3,)"),
        (undeclared, "bad/extra: a task wrote it, but writes() does not declare it"),
        (tensor, "bad/logit: expected a numpy array, got Tensor"),
    ],
)
def test_a_leaf_fails_alone(fault, error):
    model, subject, _, blocks = setting()
    jobs = [Recorder("before"), Recorder("bad", Ask(observe=("conv1",)), fault), Recorder("after")]
    outcomes = run(model, [(leaf, Task(leaf.name, range(10))) for leaf in jobs], blocks, subject)
    assert outcomes[1].error == error
    assert outcomes[1].rows == {}
    assert outcomes[1].partial is None
    for other in (outcomes[0], outcomes[2]):
        assert other.error is None
        assert len(other.rows["logit"]) == 10
    assert model.sizes == [4, 4, 2]


def test_asking_for_a_layer_that_is_not_there_fails_alone():
    model, subject, _, blocks = setting()
    leaves = [Recorder("bad", Ask(keep=("conv9",))), Recorder("good")]
    outcomes = run(model, [(leaf, Task(leaf.name, range(10))) for leaf in leaves], blocks, subject)
    assert outcomes[0].error == "no layer is called 'conv9'"
    assert outcomes[1].error is None


def test_a_model_that_fails_names_the_images_and_spares_other_variants():
    model, subject, _, blocks = setting()
    jobs = [
        (Recorder("plain"), Task("plain", range(10))),
        (Recorder("ablated"), Task("ablated", range(10), Ablate("conv1", (77,)))),
    ]
    outcomes = run(model, jobs, blocks, subject)
    assert outcomes[0].error is None
    assert outcomes[1].error == "ablate conv1: expected channels 0 to 5, got 77"
    model.broken = True
    (outcome,) = run(model, jobs[:1], blocks, subject)
    assert outcome.error == (
        "the model failed on images image-000, image-001, image-002, image-003 (Identity()): "
        "RuntimeError: planted in forward"
    )


@pytest.mark.parametrize(
    ("limit", "sizes", "halved"),
    [(2, [4, 2, 2, 2, 2, 2], {4}), (1, [4, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1], {4, 2})],
)
def test_memory_that_runs_out_halves_the_batch_and_says_so(limit, sizes, halved):
    model, subject, images, blocks = setting()
    model.limit = limit
    leaf = Recorder(ask=Ask(observe=("conv1",), gradients=(Gradient("predicted", "input"),)))
    (outcome,) = run(model, [(leaf, Task("recorder", range(10)))], blocks, subject)
    assert outcome.error is None
    assert model.sizes == sizes
    assert {(event.code, event.detail) for event in outcome.events} == {
        ("batch-halved", f"out of memory: a batch of {n} images was computed in two halves") for n in halved
    }
    with torch.no_grad():
        expected = tiny.ConvNet.forward(model, torch.from_numpy(images).double()).float().numpy()
    np.testing.assert_allclose(outcome.rows["logit"], expected, rtol=1e-6)
    assert outcome.rows["count"].tolist() == list(range(10))
    assert outcome.partial["n"] == 10


def test_memory_that_runs_out_in_a_leaf_halves_too_and_counts_once():
    model, subject, _, blocks = setting()

    def greedy(rows, partial):
        if len(rows["count"]) > 2:
            raise torch.OutOfMemoryError("planted")
        return Result(rows, partial)

    leaves = [Recorder("first"), Recorder("greedy", fault=greedy)]
    outcomes = run(model, [(leaf, Task(leaf.name, range(10))) for leaf in leaves], blocks, subject)
    for outcome in outcomes:
        assert outcome.error is None
        assert outcome.partial["n"] == 10
        assert outcome.partial["batches"].tolist() == [2, 2, 2, 2, 2]
        assert [event.code for event in outcome.events] == ["batch-halved"]


def test_memory_that_does_not_hold_one_image_is_an_error():
    model, subject, _, blocks = setting()
    model.limit = 0
    (outcome,) = run(model, [(Recorder(), Task("recorder", range(10)))], blocks, subject)
    assert outcome.error.startswith("out of memory with a single image (image-000)")


def test_batches_that_do_not_hold_the_task_are_an_error():
    model, subject, _, blocks = setting()
    (outcome,) = run(model, [(Recorder(), Task("recorder", range(10)))], blocks[:2], subject)
    assert outcome.error == "recorder: the batches did not hold each image of the task once: 2 of 10 missing, 8 seen"
    (outcome,) = run(model, [(Recorder(), Task("recorder", range(4)))], [blocks[0], blocks[0]], subject)
    assert "each image of the task once" in outcome.error


def test_an_empty_task_has_nothing_to_say():
    model, subject, _, blocks = setting()
    (outcome,) = run(model, [(Recorder(), Task("recorder", ()))], blocks, subject)
    assert (outcome.error, outcome.rows, outcome.partial) == (None, {}, None)
    assert model.sizes == []


def test_a_task_without_images_does_not_belong_here():
    model, subject, _, blocks = setting()
    (outcome,) = run(model, [(Recorder(), Task("recorder"))], blocks, subject)
    assert outcome.error == "recorder: a task without images was handed to the sweep"


def test_variants_see_the_same_images_in_any_batch():
    found = []
    for batch in (4, 10):
        model, subject, _, blocks = setting(batch=batch)
        leaf = Recorder()
        (outcome,) = run(model, [(leaf, Task("recorder", range(10), Perturb(0.3, 1)))], blocks, subject)
        found.append(outcome.rows["logit"])
    np.testing.assert_allclose(*found, rtol=1e-5)


def test_a_model_elsewhere_or_in_training_mode_is_refused():
    model, subject, _, blocks = setting()
    with pytest.raises(ModelError, match=r"parameter conv1\.weight: expected on cuda, got cpu"):
        run_tasks(model, [], blocks, subject, device="cuda", channels_last=False)
    model.bn2.train()
    with pytest.raises(ModelError, match=r"module 'bn2' \(BatchNorm2d\) is in training mode"):
        run(model, [], blocks, subject)


@pytest.mark.parametrize("asked", ["nothing", "gradients"])
def test_channels_last_goes_through(asked):
    model, subject, _, blocks = setting()
    model.to(memory_format=torch.channels_last)
    ask = Ask(
        gradients=(Gradient("predicted", "relu1"), Gradient("predicted", "input")) if asked == "gradients" else ()
    )
    leaf = Recorder(ask=Ask(observe=("conv1",), keep=("relu1",), gradients=ask.gradients))
    run_tasks(model, [(leaf, Task("recorder", range(10)))], blocks, subject, device="cpu", channels_last=True)
    batch = leaf.shown[0][0]
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.activation("relu1").is_contiguous(memory_format=torch.channels_last)
    for gradient in ask.gradients:
        assert batch.gradient("predicted", gradient.wrt).is_contiguous(memory_format=torch.channels_last)


def test_signals():
    model = tiny.signal_net()
    subject, images = tiny.tiny_subject(model, 6), tiny.tiny_images(model, 6)
    leaf = Recorder(ask=Ask(observe=("conv1",)))
    jobs = [(leaf, Task("recorder", range(6), variant)) for variant in (Identity(), Ablate("conv1", (0,)))]
    outcomes = run_tasks(model, jobs, tiny.tiny_blocks(images, 4), subject, device="cpu", channels_last=True)
    np.testing.assert_allclose(outcomes[0].rows["logit"], model(torch.from_numpy(images)).numpy(), rtol=1e-4, atol=1e-6)
    assert outcomes[1].error is None
