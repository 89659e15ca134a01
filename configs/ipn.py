"""IPN: faces of mixed resolution, a network of wavelets, a teacher's maps.

    python -m jaxkd.main --config=configs/ipn.py

(arXiv:2303.08665, as far as it is public.) A teacher learns drawn faces of 32 pixels;
students see each face reduced to a random side from 6 to 32 by a random kernel,
blurred and noisy, and enlarged again. Compared are a strided network and WaveResNet,
each with and without the teacher's embedding and maps; faces of unseen people are
verified at 6 pixels, and one sharp face with one at each side. Minutes on two CPU
cores, no download. docs/recognition.md says what came out.

    configs/ipn.py:coarse            networks that shrink 32 pixels to 4 at once, where
                                     strides lose pixels and wavelets do not; see below
    configs/ipn.py:quick             few steps: a look at how it works

The argument for wavelets is that a strided convolution aliases: of a sharp image its
maps hold a sample, not a mean. In the first study (strides 2, 2, 2) the 3x3 windows of
a convolution overlap and miss no pixel, and wavelets changed nothing. ``:coarse`` has
the strides 8, 2, 1: a place of the strided network's first stage sees 5 x 5 of 8 x 8
pixels and no later stage the others, while the wavelets average all. The fewer pixels
an image was reduced to before it was enlarged, the more those seen tell of those
between; the sharper it is, the more is lost, and two poses of a face are sampled at
other places. The same four rows, five seeds, the same recipe. Registered before any run
on the test's people. "At s" is the verification of one sharp image against one of side
s. Expected:

1. waves is above strided at 32 by at least one point and in four of five seeds, and
   ipn above ipn_strided likewise: with or without the teacher.
2. With both images at 6 pixels the gaps are smaller than at 32, in mean.
3. The gap of waves to strided is larger at 32 than it was in the first study, where it
   was less than a point.
4. The teacher adds to either network at 6 pixels, as in the first study.

It would speak against wavelets if 1 failed: then not even lost pixels are missed, since
a drawn face is few numbers. If 1 holds, the tie of the first study was one of strides
that overlap, and says nothing of coarser ones.

Not blind: on validation people with both images at 6 pixels, two seeds after 300 steps,
pair accuracy was 82.7 ± 2.0 (strided) and 78.5 ± 6.2 (waves). Nothing was seen of sharp
images, and no setting was changed. What came out, 1 to 3 not among it:
docs/recognition.md.
"""

from ml_collections import ConfigDict

from jaxkd.core import config as configs
from jaxkd.core.lookup import choose
from jaxkd.recipes import recognition as recipes

SIDES = (6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32)


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration of a variant; see above."""
    variants = {
        "": lambda: recipes.mixed_faces(32, SIDES),
        "coarse": coarse,
        "quick": quick,
    }
    return choose(arg, variants, what="configs/ipn.py variant")()


def coarse() -> ConfigDict:
    """Networks that shrink their maps all at once, in the first stage."""
    config = recipes.mixed_faces(32, SIDES, strides=(8, 2, 1))
    config.name = "ipn-coarse"
    config.seeds = (1, 2, 3, 4, 5)
    return config


def quick() -> ConfigDict:
    """All of it in a minute; its figures mean nothing."""
    config = recipes.mixed_faces(32, (8, 16, 32))
    config.seeds = (1,)
    for part in (config, config.needs.teacher):
        part.data.update({"per_identity": 8, "pairs": 600})
        part.duration = part.eval_every = part.checkpoint_every = 20.0
        part.optim.warmup = 2.0
    rows = {name: config.students[name].to_dict() for name in ("strided", "ipn")}
    config.students = configs.students(rows)
    return config
