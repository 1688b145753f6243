import numpy as np
import pytest
import torch

from convaudit.stages.errors import ConfigError
from convaudit.stages.reference.digits import load_digits_split
from convaudit.stages.reference.net import DigitsNet
from convaudit.stages.reference.stage import Reference, state_dict_from
from convaudit.stages.reference.train import reproducible, train


def _run(leaf):
    result = leaf.compute(leaf.tasks(None, None)[0], None, None)
    return leaf.finish([result.partial], None, None)


@pytest.fixture(scope="module")
def trained():
    return _run(Reference())


def _loaded(summary):
    model = DigitsNet().eval()
    prefix = "parameter/"
    arrays = {path.removeprefix(prefix): a for path, a in summary.arrays.items() if path.startswith(prefix)}
    model.load_state_dict(state_dict_from(arrays), strict=True)
    return model


@pytest.mark.slow
def test_the_default_settings_reach_the_promised_accuracy(trained):
    (accuracy,) = trained.measurements
    assert accuracy.value >= 0.97
    assert accuracy.n == 540
    assert trained.findings == ()
    images, labels, is_test = load_digits_split()
    with torch.no_grad():
        predicted = _loaded(trained)(torch.from_numpy(images[is_test])).argmax(1).numpy()
    assert (predicted == labels[is_test]).mean() == accuracy.value
    assert trained.arrays["accuracy"][-1] == np.float32(accuracy.value)
    assert trained.arrays["loss"][-1] < 0.1 < trained.arrays["loss"][0]


@pytest.mark.slow
def test_two_fresh_trainings_end_in_the_same_bits(trained):
    torch.manual_seed(3)
    again = _run(Reference())
    assert set(again.arrays) == set(trained.arrays)
    for path, array in trained.arrays.items():
        assert again.arrays[path].tobytes() == array.tobytes(), path
    assert again.measurements == trained.measurements


@pytest.mark.slow
def test_what_is_declared_is_written(trained):
    declared = {array.path: array for array in Reference().writes(None)}
    assert set(declared) == set(trained.arrays)
    for path, array in trained.arrays.items():
        assert array.shape == declared[path].shape, path
        assert array.dtype == declared[path].spec.dtype, path
    assert declared["parameter/block1.conv.weight"].dims == ("axis0", "axis1", "axis2", "axis3")


def _small(seed=0, threads=1):
    rng = np.random.default_rng(1)
    images = rng.random((40, 1, 32, 32), np.float32)
    labels, is_test = rng.integers(0, 10, 40), np.arange(40) % 4 == 0
    return train(images, labels, is_test, epochs=2, batch=7, learning_rate=0.01, seed=seed, threads=threads)


def test_training_gives_the_same_weights_whatever_torch_was_doing_before():
    first = _small()
    torch.manual_seed(99)
    torch.rand(7)
    second, other = _small(), _small(seed=1)
    for name, array in first.parameters.items():
        np.testing.assert_array_equal(array, second.parameters[name], name)
    np.testing.assert_array_equal(first.loss, second.loss)
    assert not np.array_equal(first.parameters["head.weight"], other.parameters["head.weight"])
    assert (first.tested, len(first.accuracy)) == (10, 2)


def test_training_leaves_torch_as_it_was():
    torch.manual_seed(5)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    _small(threads=threads + 1)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(ZeroDivisionError), reproducible(0, threads + 1):
        1 / (1 - int(torch.are_deterministic_algorithms_enabled()))
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()


def test_sizing_draws_no_random_numbers():
    state = torch.get_rng_state()
    Reference().writes(None)
    assert torch.equal(torch.get_rng_state(), state)


def test_poor_training_is_an_error():
    leaf = Reference(epochs=1)
    partial = {"loss": np.ones(1), "accuracy": np.ones(1), "correct": np.asarray(523), "tested": np.asarray(540)}
    (finding,) = leaf.finish([partial], None, None).findings
    assert (finding.code, finding.severity) == ("reference/undertrained", "error")


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"batch": 0}, {"threads": 0}, {"learning_rate": 0.0}, {"min_accuracy": 2}]
)
def test_settings_are_checked(wrong):
    with pytest.raises(ConfigError, match=f"reference.{next(iter(wrong))}"):
        Reference(**wrong)
