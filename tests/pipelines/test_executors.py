"""Executors: every payload comes back once, exceptions are results, dead workers are replaced."""

from __future__ import annotations

import os
import time

import pytest

from convaudit.pipelines.executors import AddressCluster, CustomCluster, Dask, InprocessCluster, LocalCluster
from convaudit.stages.errors import ClusterError, ConfigError


def local_functions():
    """Give functions that travel by value: workers cannot import this file."""

    def square(value):
        return value * value

    def fail_on_two(value):
        if value == 2:
            raise ValueError("two")
        return value

    def die_once(path, value):
        try:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return value
        time.sleep(0.2)
        os._exit(9)

    def die_always(value):
        os._exit(9)

    return square, fail_on_two, die_once, die_always


square, fail_on_two, die_once, die_always = local_functions()


def results(cluster, function, payloads):
    with cluster.open(10_000, 1) as executor:
        return dict(executor.map(function, payloads))


@pytest.fixture(scope="module")
def local():
    with LocalCluster(workers=2).open(10_000, 1) as executor:
        yield executor


def test_inprocess_maps_and_keeps_exceptions():
    found = results(InprocessCluster(), fail_on_two, [(1,), (2,), (3,)])
    assert (found[0], found[2]) == (1, 3)
    assert isinstance(found[1], ValueError)


def test_local_maps_more_payloads_than_its_window(local):
    assert dict(local.map(square, [(i,) for i in range(23)])) == {i: i * i for i in range(23)}


def test_local_keeps_exceptions(local):
    found = dict(local.map(fail_on_two, [(1,), (2,), (3,)]))
    assert (found[0], found[2]) == (1, 3)
    assert isinstance(found[1], ValueError)


def test_same_arguments_are_run_again(local, tmp_path):
    path = str(tmp_path / "once")
    assert dict(local.map(die_once, [(path, 7), (path, 8), (path, 9)])) == {0: 7, 1: 8, 2: 9}


def test_a_task_that_always_kills_its_worker_is_named():
    found = results(LocalCluster(workers=1), die_always, [(1,)])
    assert isinstance(found[0], ClusterError)
    assert "killed its worker" in str(found[0])


def test_small_data_sets_stay_in_the_driver():
    with LocalCluster(minimum_images=100).open(99, 1) as executor:
        assert not isinstance(executor, Dask)


def test_a_custom_cluster_class_works():
    from convaudit.pipelines.config import build

    node = {
        "_target_": "convaudit.pipelines.executors.CustomCluster",
        "cluster": {
            "_target_": "distributed.LocalCluster", "n_workers": 1, "threads_per_worker": 1, "dashboard_address": None
        },
    }  # fmt: skip
    assert results(build(node, "cluster"), square, [(3,)]) == {0: 9}


def test_custom_needs_a_class():
    with pytest.raises(ConfigError, match=r"cluster\.cluster"):
        CustomCluster({"n_workers": 1})


@pytest.mark.parametrize("address", ["tcp://10.0.0.1:8786", "10.0.0.1:8786", "ws://example.org:1"])
def test_unencrypted_remote_schedulers_need_consent(address):
    with pytest.raises(ConfigError, match="allow_insecure"):
        AddressCluster(address)
    assert AddressCluster(address, allow_insecure=True)


def test_a_scheduler_by_address_serves_and_its_absence_is_one_line():
    from distributed import LocalCluster as Local

    with Local(n_workers=1, threads_per_worker=1, dashboard_address=None) as running:
        assert results(AddressCluster(running.scheduler_address), square, [(4,)]) == {0: 16}
        address = running.scheduler_address
    with pytest.raises(ClusterError, match="cannot connect"):
        results(AddressCluster(address), square, [(4,)])


def test_tls_scheduler_serves(tmp_path):
    from distributed import LocalCluster as Local
    from distributed.security import Security

    security = Security.temporary()
    files = {}
    for name in ("tls_ca_file", "tls_client_cert", "tls_client_key"):
        files[name] = str(tmp_path / name)
        (tmp_path / name).write_text(getattr(security, name))
    with Local(n_workers=1, threads_per_worker=1, dashboard_address=None, security=security) as running:
        assert running.scheduler_address.startswith("tls://")
        assert results(AddressCluster(running.scheduler_address, **files), square, [(5,)]) == {0: 25}
