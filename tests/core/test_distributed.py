import os
from types import SimpleNamespace

import jax
import pytest

from jaxkd.core import distributed


@pytest.fixture
def updates(monkeypatch):
    """What is set in JAX's configuration, on a machine of six cores."""
    found = {}
    pretended = SimpleNamespace(update=found.__setitem__, jax_num_cpu_devices=-1)
    monkeypatch.setattr(jax, "config", pretended)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    return found


@pytest.mark.parametrize(
    ("sizes", "wanted"),
    [((24, 100, 500), 4), ((6, 64), 2), ((9, 90), 3), ((1, 64), 1), ((7, 7), 1)],
)
def test_devices_divide_all_that_is_spread_over_them(updates, sizes, wanted):
    distributed.split_cpu(*sizes)
    assert updates == {"jax_num_cpu_devices": wanted}


def test_there_are_no_more_devices_than_cores(updates, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5})
    distributed.split_cpu(24, 100)
    assert updates == {"jax_num_cpu_devices": 2}


def test_what_the_user_says_is_kept(updates, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
    distributed.split_cpu(24, 100)
    monkeypatch.delenv("XLA_FLAGS")
    monkeypatch.setattr(jax.config, "jax_num_cpu_devices", 2)
    distributed.split_cpu(24, 100)
    assert updates == {}
