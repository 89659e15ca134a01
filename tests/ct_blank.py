"""CT data sets without reading and drawing, for tests of configurations."""

from pathlib import Path

import numpy as np

from jaxkd.datasets import ct, phantoms
from jaxkd.readers.ct.cases import Case


def replace(monkeypatch):
    """Replaces phantoms and scans by empty ones; options are checked by real code."""

    def cached(folder, law, split, count, per_patient, seed):
        scans = np.broadcast_to(np.int16(0), (count, *phantoms.LAWS[law].shape))
        masks = np.broadcast_to(np.uint8(0), scans.shape)
        numbers = np.broadcast_to(np.int32(0), (count,))
        fields = {"image": scans, "lesion": masks, "lungs": masks}
        if law == "weak_contrast":
            fields["distractors"] = masks
        return fields | {"label": numbers, "patient": numbers}

    def list_cases(root, classes):
        names = tuple(classes or ("NCP", "CP", "Normal"))
        cases = [
            Case(f"{name}{patient}", Path(root), name, f"{name}{patient}")
            for name in names
            for patient in range(10)
        ]
        return cases, names

    monkeypatch.setattr(phantoms, "_cached", cached)
    monkeypatch.setattr(ct, "list_cases", list_cases)
    monkeypatch.setattr(
        ct.Reader, "image", lambda self, case: np.zeros(self.size, np.int16)
    )
