"""Old names in saved runs, and the names they have now.

Runs of earlier versions are evaluated, used as teachers and resumed: their
``config.json`` and checkpoints are read through these tables and through nothing else.
"""

from collections.abc import Mapping
from typing import Any

# Of ``config.method``.
METHODS = {"denoiser": "gdrd_generator"}

# Of ``config.model``.
MODEL = {"view": "input"}

# Of the training state in a checkpoint, and of its record.
STATE = {"extra": "model_state"}
META = {"tally": "accumulator"}

_EVALUATION = {"curve": "eval_sizes"}
_RELATIONS = {"contrast": "contrast_weight", "kd": "kd_weight"} | _EVALUATION
_ORDERS = {
    "kd": "kd_weight",
    "first": "first_weight",
    "second": "second_weight",
    "third": "third_weight",
    "shares": "teacher_weights",
} | _EVALUATION
# Methods of one term, whose option ``weight`` is now called after it.
_ONE_TERM = (
    "at",
    "crd",
    "dkd",
    "fitnet",
    "kd",
    "kdsvd",
    "la",
    "lr",
    "mlkd",
    "mlkd_noaug",
    "nst",
    "ofd",
    "pkt",
    "rc",
    "reviewkd",
    "rkd",
    "rld",
    "sp",
    "vid",
)
# Of ``config.loss``, by method.
OPTIONS: dict[str, dict[str, str]] = {
    **{name: {"weight": f"{name}_weight"} for name in _ONE_TERM},
    "aird": {
        "instance": "instance_weight",
        "relation": "relation_weight",
        "distance": "distance_weight",
        "kd": "kd_weight",
    },
    "at_plus": {
        "attention": "attention_weight",
        "features": "features_weight",
        "kd": "kd_weight",
        "regression": "regression_weight",
    },
    "ipn": {"direction": "direction_weight", "wavelet": "wavelet_weight"},
    "metric_learning": {
        "direction": "direction_weight",
        "distance": "distance_weight",
        "angle": "angle_weight",
        "kd": "kd_weight",
    },
    "sftn": {"branch_ce": "branch_ce_weight", "branch_kl": "branch_kl_weight"},
    "crrcd": _RELATIONS,
    "gdrd": _RELATIONS | {"tap": "layer", "generator_tap": "generator_layer"},
    "horkd": _ORDERS | {"further": "extra_relations"},
    "horkd_joint": _ORDERS | {"assistant_ce": "assistant_ce_weight"},
}


def upgrade(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a saved configuration under the present names.

    Args:
      tree: content of a ``config.json``.
    """
    new = dict(tree)
    _rename(new, new.get("method"))
    if isinstance(new.get("students"), Mapping):
        rows = {name: dict(row) for name, row in new["students"].items()}
        for row in rows.values():
            _rename(row, row.get("method", new.get("method")))
        new["students"] = rows
    if isinstance(new.get("needs"), Mapping):
        new["needs"] = {name: upgrade(need) for name, need in new["needs"].items()}
    return new


def _rename(config: dict[str, Any], method: Any) -> None:
    """Renames method, keys of ``model`` and ``loss``, and moves DeFI-Net's clamp."""
    if config.get("method") in METHODS:
        config["method"] = METHODS[config["method"]]
    if isinstance(config.get("model"), Mapping):
        config["model"] = renamed(config["model"], MODEL)
    if isinstance(config.get("loss"), Mapping):
        config["loss"] = _options(config["loss"], str(method))
    if method == "defi" and "loss" in config:
        clamp = config["loss"].pop("clamp", 0.5)
        if isinstance(config.get("optim"), Mapping):
            config["optim"] = {"clip_value": clamp, **config["optim"]}


def _options(loss: Mapping[str, Any], method: str) -> dict[str, Any]:
    """Renames the options of a method, or those of each part of a sum of methods."""
    if "+" not in method:
        return renamed(loss, OPTIONS.get(method, {}))
    return {
        part: renamed(options, OPTIONS.get(part, {})) for part, options in loss.items()
    }


def renamed(tree: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Returns a dictionary with its old keys replaced."""
    return {names.get(key, key): value for key, value in tree.items()}


def with_defaults(tree: Any, defaults: Any) -> Any:
    """Adds the keys that a configuration has now and did not have when it was saved."""
    new = dict(tree)
    for key, value in defaults.items():
        if key not in new:
            new[key] = value
        elif key in ("optim", "targets") and isinstance(value, Mapping):
            new[key] = {**value, **new[key]}
    new["needs"] = {n: with_defaults(x, defaults) for n, x in new["needs"].items()}
    return new
