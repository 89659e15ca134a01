"""Trains, loads and exports from Python: all that a notebook or a script needs.

    from jaxkd import api

    results = api.train("rld:digits", "runs/digits")
    model = api.load("runs/digits", student="rld")
    probabilities = model.predict(images)  # uint8 [n, height, width, channels]
    api.export("runs/digits", "student.onnx", format="onnx")

Each does what the command line does with the same names. Compiled programs are kept on
disk from the first call on.
"""

import contextlib
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from ml_collections import ConfigDict

from jaxkd.core import compile_cache, config_file, preemption
from jaxkd.core.errors import UserError
from jaxkd.predictors import restore
from jaxkd.training import preprocessing
from jaxkd.training import workdir as workdirs

_BATCH = 64


def train(config: ConfigDict | str | Path, workdir: str | Path) -> dict[str, Any]:
    """Trains what a configuration describes, or resumes, or reads what is there.

    Interrupted (Ctrl-C, or a notebook's stop button), it saves at the next step and
    raises ``jaxkd.core.errors.Interrupted``; calling it again resumes.

    Args:
      config: a configuration, or its file as after ``--config=``: ``"mine.py:arg"``,
        or a shipped one such as ``"rld:digits"``. A pipeline's is run.
      workdir: folder of the run, made if it is not there.

    Returns:
      The content of ``results.json``.

    Raises:
      UserError: for whatever the user can mend.
    """
    _prepare()
    if not isinstance(config, ConfigDict):
        config = config_file.load(config)
    if "pipeline" in config:
        from jaxkd.pipelines import run
    else:
        from jaxkd.train import train as run
    # Python delivers signals to the main thread alone.
    main = threading.current_thread() is threading.main_thread()
    never = contextlib.nullcontext(preemption.never_stop)
    with preemption.catch_signals() if main else never as stop_requested:
        return run(config, Path(workdir).expanduser(), stop_requested)


def _prepare() -> None:
    # Orbax warns of every file that older versions wrote otherwise.
    logging.set_verbosity(logging.ERROR)
    compile_cache.enable()


def results(workdir: str | Path) -> dict[str, Any]:
    """Reads ``results.json`` of a finished run.

    Raises:
      UserError: if the run is not finished.
    """
    return workdirs.read_results(Path(workdir).expanduser())


def load(
    workdir: str | Path,
    student: str | None = None,
    seed: int | None = None,
    use: str = "last",
) -> "Model":
    """Loads one trained student of a finished run; its data set is not needed.

    Args:
      workdir: folder of the run.
      student: row of the study; None where it has one alone.
      seed: which of its seeds; None for the first, which is printed.
      use: "last" or "best" parameters.

    Raises:
      UserError: if the run is not finished, the student or seed is unknown, or a study
        of several students is not told which.
    """
    _prepare()
    return Model(restore.restore(Path(workdir).expanduser(), student, seed, use))


def export(
    workdir: str | Path,
    output: str | Path,
    *,
    format: str,
    student: str | None = None,
    seed: int | None = None,
    use: str = "last",
) -> str:
    """Exports a trained student to a file that is used without jaxkd.

    Args:
      workdir: folder of a finished run.
      output: the file; a JSON file beside it describes it.
      format: "stablehlo", "onnx" or "torch"; see ``jaxkd.convert.export``.
      student: see ``load``, as the next two.
      seed: see ``load``.
      use: see ``load``.

    Returns:
      What was done, for the terminal.

    Raises:
      UserError: if there is no such student, or it cannot be exported; says why.
    """
    from jaxkd.convert import export as exporting

    model = load(workdir, student, seed, use)
    options = dict(model.config.model)
    name = options.pop("name")
    options.pop("input", None)
    description = {
        "run": model.results["name"],
        "student": model.student,
        "seed": model.seed,
        "use": use,
        "class_names": list(model.class_names),
        "preprocessing": model.preprocessing(),
    }
    trained = exporting.Exportable(
        model.network, model.variables, name, options, model.input_shape, description
    )
    return exporting.write(trained, format, output)


class Model:
    """A trained student.

    Attributes:
      student: its name in the study.
      seed: of it.
      network: the Linen module.
      variables: its ``params`` and other collections, NumPy arrays.
      config: the run's configuration with the student's overrides.
      results: content of the run's ``results.json``.
      class_names: one per logit.
      image_shape: of one example of the data set.
      input_shape: of the same as the network takes it, after the evaluation view.
    """

    def __init__(self, restored: restore.Restored):
        self._restored = restored
        self.student = restored.name
        self.seed = restored.seed
        self.network: nn.Module = restored.network
        self.variables: Mapping[str, Any] = restored.variables
        self.config: ConfigDict = restored.config
        self.results = restored.results
        self.class_names: tuple[str, ...] = tuple(restored.info.class_names)
        self.image_shape: tuple[int, ...] = tuple(restored.info.image_shape)
        image = jax.ShapeDtypeStruct((1, *self.image_shape), np.uint8)
        seen = jax.eval_shape(restored.see, {"image": image})
        self.input_shape: tuple[int, ...] = seen.shape[1:]
        self._outputs = jax.jit(lambda batch: restored.apply(batch)[0])

    def apply(self, inputs: Any) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        """Applies the network: ``(logits, features)``.

        Args:
          inputs: float32 ``[n, *input_shape]``, as the evaluation view makes them.
        """
        return self.network.apply(self.variables, jnp.asarray(inputs), train=False)  # type: ignore[return-value]

    def logits(self, images: Any) -> np.ndarray:
        """Returns the network's outputs for images as they are in files.

        They pass the run's evaluation view, which normalises them.

        Args:
          images: uint8 ``[n, height, width, channels]``, any number.

        Raises:
          UserError: if they are anything else.
        """
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.ndim != 1 + len(self.image_shape):
            raise UserError(
                f"images are {images.dtype} {images.shape}, expected uint8 "
                f"{('n', *self.image_shape)}: pixels as in files, not normalised."
            )
        if images.size and images.max() == 1:
            raise UserError(
                "images are uint8 from 0 to 1, expected 0 to 255: pixels as in files, "
                "not divided by 255."
            )
        outputs = []
        for start in range(0, len(images), _BATCH):
            part = images[start : start + _BATCH]
            # Padded to one size, so that the network is compiled once.
            padded = np.zeros((_BATCH, *part.shape[1:]), np.uint8)
            padded[: len(part)] = part
            outputs.append(np.asarray(self._outputs({"image": padded}))[: len(part)])
        if not outputs:
            raise UserError("images are none, expected at least one.")
        return np.concatenate(outputs)

    def predict(self, images: Any) -> np.ndarray:
        """Predicts probabilities of images as they are in files.

        Args:
          images: see ``logits``.

        Returns:
          float ``[n, classes]``, in the order of ``class_names``; of a network that
          marks pixels, whose logits are ``[n, height, width, 1]``, ``[n, height,
          width]``.
        """
        logits = self.logits(images)
        if logits.ndim == 4 and logits.shape[-1] == 1:
            return np.asarray(jax.nn.sigmoid(logits[..., 0]))
        return np.asarray(jax.nn.softmax(logits, axis=-1))

    def preprocessing(self) -> dict[str, Any]:
        """Describes what happens to an image before the network, as JSON types.

        ``formula`` is None where the view does more than to scale pixels; it is then
        named, with its options.
        """
        info, see = self._restored.info, self._restored.see
        described = preprocessing.describe(info, self.config.view) | {
            "image": {"dtype": "uint8", "shape": list(self.image_shape)},
            "formula": None,
        }
        rng = np.random.default_rng(0)
        image = rng.integers(0, 256, (1, *self.image_shape), np.uint8)
        seen = np.asarray(see({"image": jnp.asarray(image)}))
        plain = (image / 255 - np.array(info.mean)) / np.array(info.std)
        if seen.shape == plain.shape and np.allclose(seen, plain, atol=1e-4):
            described["formula"] = "(image / 255 - mean) / std"
        return described
