"""Trains students of this project, loads the best one, predicts and exports it.

Cells begin with ``# %%``: editors open the file as a notebook.
"""

# %% Train a teacher and its students, or read what an earlier call has trained.
import sys
from pathlib import Path

import jax
import numpy as np
import shapes

from jaxkd import api

HERE = Path(__file__).parent
variant = ":quick" if "--quick" in sys.argv else ""
workdir = HERE / "runs" / f"shapes{variant.replace(':', '-')}"
results = api.train(f"{HERE / 'config.py'}{variant}", workdir)

# %% The table: means over seeds with their standard errors.
for name, student in results["students"].items():
    top1 = 100 * np.array(student["last"]["top1"])
    error = np.std(top1, ddof=1) / np.sqrt(len(top1))
    print(f"{name:12} top-1 {top1.mean():.1f} ± {error:.1f} %")

# %% Load a student, and let it look at pictures that it has never seen.
model = api.load(workdir, student="correlation", seed=2)
rng = np.random.default_rng(7)
kinds = np.arange(8) % len(shapes.NAMES)
pictures = np.stack([shapes.draw(kind, 16, rng) for kind in kinds])
for kind, row in zip(kinds, model.predict(pictures), strict=True):
    guess = model.class_names[row.argmax()]
    print(f"a {shapes.NAMES[kind]} is held for a {guess} ({row.max():.0%})")

# %% The network itself, for code of one's own: logits and named features.
logits, features = model.apply(np.zeros((1, *model.input_shape), np.float32))
gradient = jax.grad(lambda x: model.apply(x)[0][0, 0])(np.zeros((1, 16, 16, 3), "f"))
print(f"logits {logits.shape}, pooled features {features['pooled'].shape}")
print(f"gradient by the image {gradient.shape}")

# %% A file for deployment (pip install flatbuffers).
if "--export" in sys.argv:
    file = workdir / "student.stablehlo"
    print(api.export(workdir, file, format="stablehlo", student="correlation", seed=2))
