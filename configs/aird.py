"""AIRD: distil instances and relations, then adapt batch norm (arXiv:2409.02049).

    python -m jaxkd.main --config=configs/aird.py

The data, the teacher and the few labelled images of configs/horkd.py. Trains three
students per seed (cross entropy, KD, AIRD) and tests each as it is and with batch
normalisation that adapts to the test images: plain, disturbed, and disturbed and sorted
by class. No download; its weights are guesses. docs/cross_resolution.md says what came
out.

    configs/aird.py:shift            test images in another light, a map of the
                                     channels that batch statistics can undo; see below
    configs/aird.py:quick            one seed, few steps: a look at how it works

In the first study the test images are darker, blurred, noisy and reduced by another
kernel. Gamma, blur and noise are no affine maps of the channels, and what they destroy
no statistics bring back: 8 % of the loss was recovered where a quarter was aimed at.
``:shift`` has the same students, five seeds, 2,000 test images in batches of 250, in
two other lights, the same for all images: ``fog``, one gain for all channels and an
offset for each, and ``cast``, a gain and an offset for each. A convolution is linear,
so that a batch norm behind it, by the batch's statistics, undoes fog altogether but for
the border, where offsets meet the padding; cast changes the sum over channels, which
comes before. Registered before any of its runs on the test images. The share recovered
is (adapted - source on disturbed) / (source on plain - source on disturbed), of means
over seeds. Expected, for kd and for aird:

1. By the source's statistics, fog costs at least 10 points of top-1.
2. batch and blend recover at least 60 % of that, and are above source in five of five
   seeds. Not all, since 28 of the 64 pixels are at the border.
3. batch and blend recover at least 25 % of what cast costs, and less than of fog.
4. On plain images blend loses at most half a point.
5. ema recovers less than blend: after eight batches 43 % of its average is still the
   source's.
6. Sorted by class, batch is at least 10 points below batch on shuffled images.

It would speak against the method if 2 failed: adaptation would then not even repair
what it can by construction, and implementation or students (the border) were at fault.
If 2 holds and 3 does not, it repairs changes of brightness and contrast alone.
@PILOT_AIRD@
"""

from ml_collections import ConfigDict

from jaxkd.core import config as configs
from jaxkd.core.lookup import choose
from jaxkd.recipes import cross_resolution as recipes


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration of a variant; see above."""
    variants = {"": embedded, "shift": shift, "quick": quick}
    return choose(arg, variants, what="configs/aird.py variant")()


def embedded() -> ConfigDict:
    """AIRD beside KD, of 15 labelled images per class."""
    config = recipes.glyphs("aird")
    config.students = configs.students(recipes.aird_rows())
    config.reference = "kd"
    return config


def shift() -> ConfigDict:
    """AIRD where the test images differ by a map that batch statistics can undo."""
    config = embedded()
    config.name = "aird-shift"
    config.data.test = config.needs.teacher.data.test = 2_000
    config.seeds = (1, 2, 3, 4, 5)
    rows = recipes.aird_rows()
    for row in rows.values():
        row["loss"] = {**row["loss"], "disturbances": ("fog", "cast")}
    config.students = configs.students(rows)
    return config


def quick() -> ConfigDict:
    """The same for a look at how it works: its figures mean nothing."""
    return recipes.shortened(embedded(), recipes.aird_rows(fade=(1.0, 2.0)))
