"""Starts JAX's distributed runtime, when several processes make up a run."""

import jax

from jaxkd.core.errors import UserError


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
            f"--coordinator, --num_processes and --process_id are {given}: wanted all "
            "three, or none to detect the cluster."
        )
    try:
        jax.distributed.initialize(*given)
    except ValueError as error:
        raise UserError(
            f"No cluster was detected ({error}). Give --coordinator=HOST:PORT, "
            "--num_processes and --process_id, or leave out --distributed."
        ) from error
