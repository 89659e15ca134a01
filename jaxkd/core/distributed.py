"""Devices and processes, before anything is computed on them."""

import atexit
import math
import os
import sys
import threading

import jax
import numpy as np

from jaxkd.core.errors import UserError

# Seconds after which a process that is not heard of is taken for dead, which ends the
# others where no exchange of data with it has failed before.
HEARTBEAT = 60


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Joins this process to the others; call it before anything touches a device.

    Without arguments the cluster is detected (Cloud TPU, SLURM, Open MPI, Kubernetes).

    Args:
      coordinator: address and port of process 0, the same everywhere.
      num_processes: of the run.
      process_id: 0 to ``num_processes - 1``, another one everywhere.

    Raises:
      UserError: if only some of the arguments are given, or no cluster is detected.
    """
    given = (coordinator, num_processes, process_id)
    if None in given and given != (None, None, None):
        raise UserError(
            f"--coordinator, --num_processes and --process_id are {given}: expected "
            "all three, or none to detect the cluster."
        )
    if jax.config.jax_platforms in ("cpu", None):  # type: ignore[attr-defined]
        _hide_gloo()
    try:
        jax.distributed.initialize(*given, heartbeat_timeout_seconds=HEARTBEAT)
    except ValueError as error:
        raise UserError(
            f"No cluster was detected ({error}). Give --coordinator=HOST:PORT, "
            "--num_processes and --process_id, or leave out --distributed."
        ) from error


def _hide_gloo() -> None:
    """Leaves Gloo's greetings out of the standard output.

    The library that connects processes on CPU prints a line for each of its rings. It
    writes past Python, so compiled code gets a pipe for its output, from which all
    other lines are passed on.
    """
    sys.stdout.flush()
    terminal = os.dup(1)
    sys.stdout = os.fdopen(os.dup(1), "w", buffering=1, encoding=sys.stdout.encoding)
    source, sink = os.pipe()
    os.dup2(sink, 1)
    os.close(sink)

    def pass_on() -> None:
        with os.fdopen(source, "rb") as lines:
            for line in lines:
                if not line.startswith(b"[Gloo]"):
                    os.write(terminal, line)

    threading.Thread(target=pass_on, daemon=True).start()
    # What compiled code still writes at the very end finds the output in its place.
    atexit.register(os.dup2, terminal, 1)


def from_first(array: np.ndarray) -> np.ndarray:
    """Returns process 0's array on every process, which all wait for each other."""
    if jax.process_count() == 1:
        return array
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.broadcast_one_to_all(array))


# Beyond this, splitting batches costs more than it saves.
MOST_CPU_DEVICES = 4


def split_cpu(*sizes: int) -> None:
    """Presents the CPU as several devices; call it before anything touches a device.

    The students of a study are then trained on a part of the cores each, without
    waiting for each other: small networks cannot keep many cores busy together. On two
    cores that takes a quarter off the time of ``configs/rld.py``. Nothing changes where
    there is an accelerator, or where JAX was told the number already.

    Args:
      *sizes: what has to divide over the devices, such as the number of members.
    """
    told = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if told or jax.config.jax_num_cpu_devices != -1:  # type: ignore[attr-defined]
        return
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    most = min(cores, MOST_CPU_DEVICES)
    count = max(n for n in range(1, most + 1) if math.gcd(n, *sizes) == n)
    jax.config.update("jax_num_cpu_devices", count)
