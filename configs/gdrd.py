"""GDRD: features of a generative teacher, decisions of a discriminative one.

    python -m jaxkd.main --config=configs/gdrd.py

(arXiv:2409.06371.) The data and the few labelled images of configs/horkd.py. Trains the
classifier and a conditional denoiser on 10,000 images of 32 pixels; for each seed a
backbone for 8 pixels that predicts the denoiser's features; and students whose later
stages learn on that backbone, on a frozen random one, and on one that is free. Some
sixteen minutes on two CPU cores, no download. docs/cross_resolution.md says what came
out.

    configs/gdrd.py:unlabelled       few labels for all, and 10,000 images without
                                     labels for generator and backbone; see below
    configs/gdrd.py:quick            one seed, few steps: a look at how it works

In the first study the classifier has 10,000 labels, which KD hands on, and the backbone
sees the students' 1,500 images alone. ``:unlabelled`` is where only a generator can
help: the classifier has 10 labelled images per class, each student 10 others, and
10,000 images are without labels. Generator and backbones learn from these; KD cannot,
since what its teacher knows came from labels. One generator, one backbone that predicts
its features, and one that predicts those of a generator which keeps its first weights
(``needs.untrained``), for all seeds; six rows of equal steps, five seeds. Registered
before any of its runs on the test images. Expected:

1. The classifier has 65 to 80 %, where 10,000 labels bring 93: labels are short.
2. gdrd (frozen) is above random_frozen by at least 3 points, in five of five seeds.
3. gdrd_free is above kd by at least 2 points and in four of five seeds. It has seen
   more images: that is the argument.
4. gdrd is above untrained, and gdrd_free above untrained_free, each by more than its
   standard error and in four of five seeds. Both backbones have seen the same images,
   so that this alone is what the generator has learnt.

It would speak against generative features, at this size of denoiser and 938 steps, if
4 failed, whatever 2 and 3 say: predicting any features of large images would then do.
If 4 holds and 3 does not, they are of use to frozen backbones alone. If 2 fails the
recipe is at fault and the regime shows nothing. One generator and two backbones: the
errors cover the students' images, weights and order.

Not blind: on 1,500 validation images ridge regression of 5 labels per class had, on the
features of large images (time 0.02), 8.1 % after 1,250 steps and 4.3 % before in the
second stage, 8.0 and 6.1 in the third, and 5.5 % on the pixels of small images. The
denoiser's loss had settled by 900 steps. It is half as wide as in the first study, for
time; nothing else was chosen on any data.

Registered twice. With 5 labels per class, and the students' weight decay, the
classifier stayed at chance (1.3 %), and the study refuses such a teacher. On validation
images, one seed, it then had at most 7.7 % with 5 labels, at either decay and two
rates; 72.6 with 10 labels and a tenth of that decay; 84.1 with 15, and 89.9 at the
greater decay. Ten and the lesser decay were taken, and no student was looked at.

What came out: 1 and 2 hold, 3 and 4 do not, 4 is reversed; docs/cross_resolution.md.
"""

from ml_collections import ConfigDict

from jaxkd.core import config as configs
from jaxkd.core.lookup import choose
from jaxkd.recipes import cross_resolution as recipes


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration of a variant; see above."""
    variants = {"": embedded, "unlabelled": unlabelled, "quick": quick}
    return choose(arg, variants, what="configs/gdrd.py variant")()


def embedded() -> ConfigDict:
    """Backbones from a denoiser, beside KD, of 15 labelled images per class."""
    config = recipes.gdrd(recipes.glyphs("gdrd"))
    config.students = configs.students(recipes.gdrd_rows())
    config.reference = "kd"
    return config


def unlabelled() -> ConfigDict:
    """Few labels for all; generator and backbone learn from 10,000 images without."""
    epochs = 32.0
    config = recipes.glyphs("gdrd-unlabelled", epochs, teacher_epochs=40.0)
    recipes.gdrd(config, 6.0, denoiser={"widths": (16, 32, 64)})
    recipes.share_unlabelled(config, epochs=6.0)
    teacher = config.needs.teacher
    del teacher.data.train
    for part in (config, teacher):
        part.data.update({"per_class": 10, "test": 2_000})
        part.batch_size = 32
        part.optim.warmup = 5.0
    config.seeds = (1, 2, 3, 4, 5)
    rows = recipes.gdrd_rows(recipes.fading(epochs), eval_sizes=())
    for name in ("gdrd", "gdrd_free"):
        loss = {**rows[name]["loss"], "start_from": "untrained"}
        rows[name.replace("gdrd", "untrained")] = {**rows[name], "loss": loss}
    config.students = configs.students(rows)
    config.reference = "kd"
    return config


def quick() -> ConfigDict:
    """The same for a look at how it works: its figures mean nothing."""
    return recipes.shortened(embedded(), recipes.gdrd_rows(fade=(1.0, 2.0)))
