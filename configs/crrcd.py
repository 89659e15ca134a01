"""CRRCD: a student of 8-pixel images learns relations by contrast (arXiv:2409.02555).

    python -m jaxkd.main --config=configs/crrcd.py

The data, the teacher and the few labelled images of configs/horkd.py. Trains five
students per seed: cross entropy, KD, HORKD's orders 1-3, and relational contrast alone
and with KD. No download; its weights are guesses. docs/cross_resolution.md says what
came out.

    configs/crrcd.py:unseen          faces of people who are in no training image,
                                     verified; see below
    configs/crrcd.py:quick           one seed, few steps: a look at how it works

In the first study the classes of the test are those of the training, and logits hand
them on as well as relations do. ``:unseen`` has people: teacher (64 pixels, ArcFace,
configs/faces.py) and students (8 pixels) learn 200 of them, and pairs of 50 others are
verified. Relations are between embeddings, which are what is compared. The argument:
cross entropy has to tell known people apart and no more, and logits compare an image
with them alone; a relation between two images is one of the embedding itself and holds
for people who are no class. People differ less than in configs/faces.py (``spread``),
where labels alone have 91 % and leave little to win. Five seeds, the weights of the
first study. Registered before any of its runs on the test's people. Expected:

1. The teacher verifies better than ce by at least 4 points.
2. crrcd is above kd by more than half a point, and in at least four of five seeds.
3. orders123 is, too. Not blind: in configs/faces.py distances and angles beside ArcFace
   were 1.7 points above logits beside it (three seeds).
4. kd is within 1.5 points of ce. Not blind: there, +0.2.
5. crrcd_kd is not below crrcd by more than its standard error; crrcd and orders123
   differ by less than 1.5 points, with no expectation which is ahead.

It would speak against relations of any kind if neither crrcd nor orders123 were above
kd, and against the contrast, or our reading of it, if orders123 alone were. If 1 fails
the regime shows nothing.
No setting was chosen on any data. What came out, 1, 2, 3 and 4 not among it:
docs/cross_resolution.md.
"""

from ml_collections import ConfigDict

from jaxkd.core import config as configs
from jaxkd.core.lookup import choose
from jaxkd.recipes import cross_resolution as recipes
from jaxkd.recipes import recognition


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration of a variant; see above."""
    variants = {"": embedded, "unseen": unseen, "quick": quick}
    return choose(arg, variants, what="configs/crrcd.py variant")()


def embedded() -> ConfigDict:
    """Contrast beside KD and HORKD, of 15 labelled images per class."""
    config = recipes.glyphs("crrcd")
    config.students = configs.students(recipes.crrcd_rows())
    config.reference = "kd"
    return config


def unseen() -> ConfigDict:
    """Contrast beside KD and HORKD on faces of people who are in no training."""
    config = recognition.faces(8)
    config.name = "crrcd-unseen"
    for part in (config, config.needs.teacher):
        part.data.spread = 0.6
    config.seeds = (1, 2, 3, 4, 5)
    fade = recipes.fading(config.duration)
    config.students = configs.students(recipes.crrcd_rows(fade, {"layer": "embedding"}))
    config.reference = "kd"
    return config


def quick() -> ConfigDict:
    """The same for a look at how it works: its figures mean nothing."""
    return recipes.shortened(embedded(), recipes.crrcd_rows(fade=(1.0, 2.0)))
