"""Scikit-learn's 1,797 handwritten digits, 8 x 8 grey: real data without download.

They are the test part of the UCI "Optical Recognition of Handwritten Digits" set.
"""

import numpy as np

from jaxkd.core.source import ArraySource, Dataset, Info, statistics

TEST_FRACTION = 0.3


def load(seed: int = 0) -> Dataset:
    """Loads the digits: 1,257 training and 540 test images, stratified by class.

    Args:
      seed: of the split into training and test images.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    # Sixteen shades of grey are spread over the range of a byte.
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int32)
    train, test = train_test_split(
        np.arange(len(labels)),
        test_size=TEST_FRACTION,
        random_state=seed,
        stratify=labels,
    )
    source = ArraySource({"image": images[train], "label": labels[train]})
    mean, std = statistics(images[train], "digits")
    names = tuple(str(digit) for digit in range(10))
    return Dataset(
        Info("digits", 10, (8, 8, 1), mean, std, names),
        lambda seed: source,
        ArraySource({"image": images[test], "label": labels[test]}),
    )
