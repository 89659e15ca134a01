"""The networks of EDM in and out: its pickles, and state dictionaries of their names.

    configuration, variables = edm.load("edm-cifar10-32x32-cond-vp.pkl")
    denoise = edm.denoiser(configuration, variables, class_labels)

Pickles are read without executing them, and without torch. How the network is built is
told by the names and shapes of its tensors, the same in every kind of file.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util
from jax.tree_util import Partial

from jaxkd.convert.edm import names, network_pickle
from jaxkd.convert.edm.names import NETWORKS, PREFIX
from jaxkd.convert.torch import names as torch_names
from jaxkd.convert.torch import weights
from jaxkd.core import checkpoint
from jaxkd.core.errors import UserError
from jaxkd.diffusion import denoisers, noise_schedules
from jaxkd.models import edm

# Class in a pickle -> preconditioning, and argument there -> option of it, default.
_PRECONDITIONS: Mapping[str, tuple[str, dict[str, tuple[str, float]]]] = {
    "EDMPrecond": ("edm", {"sigma_data": ("sigma_data", 0.5)}),
    "VPPrecond": (
        "vp",
        {
            "beta_d": ("beta_d", 19.9),
            "beta_min": ("beta_min", 0.1),
            "M": ("steps", 1000),
        },
    ),
    "VEPrecond": ("ve", {}),
    "iDDPMPrecond": ("iddpm", {"M": ("steps", 1000)}),
}
PRECONDITIONS = tuple(kind for kind, _ in _PRECONDITIONS.values())


class Configuration(NamedTuple):
    """How a denoiser of EDM is built; plain data.

    Attributes:
      network: "SongUNet" or "DhariwalUNet".
      options: of it.
      precondition: "edm", "vp", "ve" or "iddpm".
      precondition_options: "sigma_data" of edm; "beta_d", "beta_min" and "steps" of vp;
        "steps" of iddpm.
    """

    network: str
    options: dict[str, Any]
    precondition: str = "edm"
    precondition_options: Mapping[str, float] = {}


def load(
    path: str | Path, *, precondition: str = "edm"
) -> tuple[Configuration, dict[str, Any]]:
    """Loads a network and how it is built; nothing is executed.

    Args:
      path: a pickle of EDM (``.pkl``), a training state of it (``.pt``), whose weights
        are not averaged, which is said; an ``.npz`` of the state dictionary, or such a
        dictionary in a file of safetensors or torch.
      precondition: "edm", "vp", "ve" or "iddpm", for files that do not tell: all but
        pickles of a preconditioned network, and those that hold iDDPM's noise levels.

    Returns:
      The configuration, and the variables of ``build(configuration)`` as float32 NumPy
      arrays. The dropout of training is known from pickles only; else it is 0.

    Raises:
      UserError: if the file cannot be read, or is of another network; lists what is
        missing, unexpected or of another shape.
    """
    path = Path(path)
    _check_precondition(precondition)
    state_of_training = network_pickle.is_training_state(path)
    if path.suffix == ".pkl" or state_of_training:
        content = network_pickle.read(path)
        if state_of_training:
            warnings.warn(
                f"{path} is the state of a training: its weights are the last, not "
                "their average, which EDM samples from and keeps in "
                "network-snapshot-*.pkl.",
                stacklevel=2,
            )
        return _from_pickle(content, path, precondition)
    state = _read_npz(path) if path.suffix == ".npz" else weights.read_state(path)
    kind, given = precondition, {}
    if names.NOISE_LEVELS in state:
        kind, given = "iddpm", {"steps": _read_steps(state[names.NOISE_LEVELS], path)}
    configuration = Configuration(*names.infer(state, path), kind, given)
    return configuration, to_variables(state, path, configuration)


def build(configuration: Configuration, **options: Any) -> edm.UNet:
    """Builds the network of a configuration.

    Args:
      configuration: such as ``load`` returns.
      **options: attributes of the network to override, such as ``dtype=jnp.bfloat16``.

    Raises:
      UserError: if there is no such network, or it has no such option.
    """
    if configuration.network not in NETWORKS:
        raise UserError(
            f"There is no network {configuration.network!r} of EDM. Expected "
            f"{' or '.join(NETWORKS)}."
        )
    try:
        module = NETWORKS[configuration.network]
        return edm.make(module, **{**configuration.options, **options})
    except ValueError as error:
        raise UserError(str(error)) from error


def denoiser(
    configuration: Configuration,
    variables: Mapping[str, Any],
    class_labels: jax.Array | None = None,
    augment_labels: jax.Array | None = None,
    **options: Any,
) -> Partial:
    """Makes the preconditioned denoiser (arXiv:2206.00364, table 1).

    Args:
      configuration: such as ``load`` returns.
      variables: likewise.
      class_labels: ``[batch, label_dim]``, one-hot; None for no class.
      augment_labels: ``[batch, augment_dim]``; None for no augmentation.
      **options: attributes of the network to override, such as ``dtype=jnp.bfloat16``.

    Returns:
      ``denoise(x, sigma) -> x0`` on images ``[batch, side, side, channels]`` within
      [-1, 1], with sigma a scalar or ``[batch]``.

    Raises:
      UserError: if the configuration is of no network or preconditioning known.
    """
    network = build(configuration, **options)
    bound = edm.bind(network, variables, class_labels, augment_labels)
    kind, given = configuration.precondition, _precondition_options(configuration)
    if kind == "vp":
        steps = int(given.pop("steps"))
        return denoisers.vp(bound, noise_schedules.LinearBeta(**given), steps)
    if kind == "iddpm":
        return denoisers.iddpm(bound, int(given["steps"]))
    if kind == "ve":
        return denoisers.ve(bound)
    return denoisers.edm(bound, given["sigma_data"])


def to_variables(
    state: Mapping[str, np.ndarray], origin: str | Path, configuration: Configuration
) -> dict[str, Any]:
    """Turns a state dictionary into a network's variables; see ``load``.

    Args:
      state: name -> array; the names may begin with ``model.``.
      origin: the file it is from, for error messages.
      configuration: of the network.

    Raises:
      UserError: if the dictionary is of another network; lists what is missing,
        unexpected or of another shape.
    """
    saved = names.bare(state)
    network = build(configuration)
    table, filters = names.table(network), names.filters(network)
    wanted = {key: entry.theirs() for key, entry in table.items()}
    checkpoint.compare(origin, saved, wanted | filters)
    for key, kernel in filters.items():
        if not np.allclose(saved[key], kernel, atol=1e-6):
            raise UserError(
                f"{origin}: {key} is not the filter {names.taps(network)} that the "
                "configuration gives. Give the filter that is in the file."
            )
    flat = {
        path: torch_names.from_torch(path, saved[key])
        for key, (path, _) in table.items()
    }
    return traverse_util.unflatten_dict(flat)


def to_state(
    configuration: Configuration, variables: Mapping[str, Any]
) -> dict[str, np.ndarray]:
    """Turns variables into the state dictionary of the preconditioned network.

    Its names begin with ``model.``; iDDPM's preconditioning keeps its noise levels
    beside the network, as ``u``.

    Raises:
      UserError: if the variables are of another network.
    """
    network = build(configuration)
    table = names.table(network)
    flat = traverse_util.flatten_dict(dict(variables))
    wanted = {entry.path: entry.ours() for entry in table.values()}
    checkpoint.compare("in memory", variables, traverse_util.unflatten_dict(wanted))
    state = {
        key: torch_names.to_torch(path, np.asarray(flat[path], np.float32))
        for key, (path, _) in table.items()
    }
    whole = state | names.filters(network)
    named = {PREFIX + key: np.ascontiguousarray(array) for key, array in whole.items()}
    if configuration.precondition == "iddpm":
        steps = int(_precondition_options(configuration)["steps"])
        levels = noise_schedules.iddpm_sigmas(steps)
        named[names.NOISE_LEVELS] = levels.astype(np.float32)
    return named


def save(
    path: str | Path, configuration: Configuration, variables: Mapping[str, Any]
) -> None:
    """Saves the state dictionary as ``.npz`` or ``.safetensors``; see ``to_state``.

    Args:
      path: of the file, which is replaced if it exists.
      configuration: of the network.
      variables: of it.

    Raises:
      UserError: if the file has another ending, or the variables are of another
        network.
    """
    path = Path(path)
    if path.suffix not in (".npz", ".safetensors"):
        raise UserError(
            f"{path} ends in {path.suffix!r}. Expected .npz or .safetensors."
        )
    state = to_state(configuration, variables)
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        if path.suffix == ".npz":
            np.savez(file, **state)  # type: ignore[arg-type]
        else:
            from safetensors.numpy import save as serialise

            file.write(serialise(state))
    part.replace(path)


def _from_pickle(
    content: network_pickle.Content, path: Path, precondition: str
) -> tuple[Configuration, dict[str, Any]]:
    outer = content.network
    network = outer if outer.name in NETWORKS else outer.part("model")
    name = getattr(network, "name", "nothing")
    if name not in NETWORKS or outer.name not in {*NETWORKS, *_PRECONDITIONS}:
        raise UserError(
            f"{path} holds a {outer.name or 'container'} of {name or 'a container'}. "
            f"Expected a {' or '.join(NETWORKS)}, alone or in one of "
            f"{', '.join(_PRECONDITIONS)}."
        )
    state = content.state
    kind, given = precondition, {}
    if outer is not network:
        kind, given = _read_precondition(outer, path)
        state = {key: state[key] for key in state if key.startswith(PREFIX)}
    _, options = names.infer(state, path)
    options |= _read_dropout(network, name, path)
    configuration = Configuration(name, options, kind, given)
    return configuration, to_variables(state, path, configuration)


def _check_precondition(kind: str) -> None:
    if kind not in PRECONDITIONS:
        raise UserError(
            f"The precondition is {kind!r}. Expected {', '.join(PRECONDITIONS)}."
        )


def _precondition_options(configuration: Configuration) -> dict[str, float]:
    """Returns all options of the preconditioning; refuses those that it has not."""
    _check_precondition(configuration.precondition)
    index = PRECONDITIONS.index(configuration.precondition)
    usual = dict(list(_PRECONDITIONS.values())[index][1].values())
    given = dict(configuration.precondition_options)
    if unknown := sorted(given.keys() - usual.keys()):
        raise UserError(
            f"The precondition {configuration.precondition} has no option "
            f"{', '.join(unknown)}. Options: {', '.join(usual) or 'none'}."
        )
    return usual | given


def _read_precondition(outer: network_pickle.Module, path: Path):
    arguments = outer.arguments()
    kind, known = _PRECONDITIONS[outer.name]
    for name, usual in (("C_1", 0.001), ("C_2", 0.008)):
        if _number(arguments, name, usual, path) != usual:
            raise UserError(
                f"{path} was trained with {name}={arguments[name]}. Expected {usual}: "
                "other noise levels of iDDPM are not known here."
            )
    return kind, {
        option: _number(arguments, name, usual, path)
        for name, (option, usual) in known.items()
    }


def _read_steps(levels: np.ndarray, path: Path) -> int:
    """Returns the number of steps that iDDPM's noise levels are of."""
    steps = levels.size - 1
    known = noise_schedules.iddpm_sigmas(steps) if steps > 0 else np.zeros(0)
    # In single precision, as the published code has them, they are off by 5e-4.
    if levels.shape != known.shape or not np.allclose(levels, known, rtol=1e-2):
        raise UserError(
            f"{path}: {names.NOISE_LEVELS} of shape {levels.shape} are not iDDPM's "
            "noise levels of C_1=0.001 and C_2=0.008. Expected [steps + 1] of those: "
            "others are not known here."
        )
    return steps


def _read_dropout(
    network: network_pickle.Module, name: str, path: Path
) -> dict[str, float]:
    """Returns the options that no tensor shows; refuses those that EDM has not."""
    arguments = network.arguments()
    known = set(NETWORKS[name].__dataclass_fields__) - {"parent", "name", "dtype"}
    unknown = sorted(map(str, set(arguments) - known))
    if unknown:
        raise UserError(
            f"{path} holds a {name} with the option {', '.join(unknown)}, "
            "which is not EDM's. Expected a network of the original code."
        )
    return {
        option: _number(arguments, option, 0.1 if option == "dropout" else 0.0, path)
        for option in ("dropout", "label_dropout")
    }


def _number(arguments: Mapping[str, Any], name: str, usual: float, path: Path) -> float:
    value = arguments.get(name, usual)
    if not isinstance(value, int | float):
        raise UserError(
            f"{path} has {name} of type {type(value).__name__}. Expected a number."
        )
    return value


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise UserError(f"There is no file {path}. Check the path of the weights.")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except Exception as error:  # a damaged file can fail in any way at all
        raise UserError(
            f"{path} is not a whole .npz of arrays: {type(error).__name__}: {error}. "
            f"It has {path.stat().st_size:,} bytes; download or copy it again."
        ) from error
