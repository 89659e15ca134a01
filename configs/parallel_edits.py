"""Editing several aspects of a picture at once: ParallelEdits on drawn scenes.

    python -m jaxkd.main --config=configs/parallel_edits.py

edits colours, shapes, backgrounds and the presence of objects, one to three at once,
with ParallelEdits (Huang et al., "ParallelEdits: Efficient Multi-Aspect Text-Driven
Image Editing with Attention Grouping", NeurIPS 2024, arXiv:2406.00985), and beside it
by copying, regeneration, SDEdit, InfEdit with one branch (arXiv:2312.04965), one edit
after the other, and without typing or grouping; every result is known exactly. The
scene model (configs/scenes.py) is trained first and kept in the user's cache folder; no
download. Variants:

    configs/parallel_edits.py:quick  few scenes, a barely trained narrow model
    configs/parallel_edits.py:known  aspects are typed as the scenes need it

Other pictures are edited with Stable Diffusion's weights from a folder of a model hub:
see docs/editing.md.
"""

from ml_collections import ConfigDict

from jaxkd.core import config as configs
from jaxkd.core.lookup import choose
from jaxkd.pipelines import parallel_edits
from jaxkd.recipes import diffusion


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration of a variant; see above."""
    variants = {"": embedded, "quick": quick, "known": known}
    return choose(arg, variants, what="configs/parallel_edits.py variant")()


def embedded() -> ConfigDict:
    """Three seeds, 8 scenes for each number of edits."""
    config = parallel_edits.default()
    config.needs.scenes = configs.needed(diffusion.scenes())
    return config


def quick() -> ConfigDict:
    """How it works; the model has learnt next to nothing."""
    config = parallel_edits.default()
    config.name = "parallel-edits-quick"
    config.needs.scenes = configs.needed(diffusion.scenes_quick())
    config.seeds, config.scenes, config.edits, config.batch = (0,), 2, (2,), 2
    config.methods = ("copy source", "single branch", "parallel")
    config.edit.steps = 3
    return config


def known() -> ConfigDict:
    """Without the attention pass: a colour is rigid, a shape not."""
    config = embedded()
    config.name, config.types = "parallel-edits-known", "known"
    return config
