"""What a number may be, and how a list must be: declared once, for every option.

Ranges follow from an option's name (``RANGES``, ``LIBRARY``), or stand beside its type:
``Annotated[float, Range(low=None)]``. ``jaxkd.core.options`` reads and checks them.
"""

import fnmatch
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple


class Range(NamedTuple):
    """What a number may be, finite in any case; None for no limit.

    Attributes:
      low: the least.
      high: the largest.
      above: whether it must be above ``low``.
      below: whether it must be below ``high``.
    """

    low: float | None = 0
    high: float | None = None
    above: bool = False
    below: bool = False

    def holds(self, value: float) -> bool:
        """Returns whether a number is within."""
        try:
            value = float(value)
        except OverflowError:  # of a whole number of more than 300 digits
            return False
        if not math.isfinite(value):
            return False
        too_low = self.low is not None and (
            value <= self.low if self.above else value < self.low
        )
        too_high = self.high is not None and (
            value >= self.high if self.below else value > self.high
        )
        return not (too_low or too_high)

    def __str__(self) -> str:
        limits = []
        if self.low is not None:
            limits.append(f"{'>' if self.above else '>='} {_shown(self.low)}")
        if self.high is not None:
            limits.append(f"{'<' if self.below else '<='} {_shown(self.high)}")
        return " and ".join(limits)


def _shown(limit: float) -> str:
    return f"{limit:,}" if isinstance(limit, int) else f"{limit:g}"


class Items(NamedTuple):
    """How a list must be.

    Attributes:
      least: how many items it has at least.
      rising: whether each must be at least the one before, as in (low, high).
      apart: whether it must be above it.
      some: whether one of its numbers must be above 0.
    """

    least: int = 1
    rising: bool = False
    apart: bool = False
    some: bool = False

    def mismatch(self, values: Sequence[Any]) -> str:
        """Returns what was expected instead of a list of fitting items, if not it."""
        if len(values) < self.least:
            return (
                "a list of one or more" if self.least == 1 else f"{self.least} values"
            )
        pairs = list(itertools.pairwise(values))
        if self.rising and any(low > high for low, high in pairs):
            return "the lower one first"
        if self.apart and any(low == high for low, high in pairs):
            return "two different numbers, the lower one first"
        if self.some and values and not any(value > 0 for value in values):
            return "a list, one of it above 0"
        return ""


ANY, POSITIVE, SHARE = Range(None), Range(above=True), Range(0, 1)
PART = Range(0, 1, below=True)

# Of what is divided by: temperatures, standard deviations. Logits of order 10 are
# rounded to 1e-6 in float32 (their spacing is 2 ** -20), which at a lower temperature
# is all that a softmax sees; at a higher one than 1e6, differences of logits are lost
# to rounding (2 ** -23). Squares of 1e-19 and 1e19 would be 0 and infinite.
DIVISOR = Range(1e-6, 1e6)

# Two numbers, the lower one first; from, to.
Interval = Annotated[tuple[float, float], Items(rising=True)]
PositiveInterval = Annotated[tuple[float, float], Items(rising=True), POSITIVE]
PartInterval = Annotated[
    tuple[float, float], Items(rising=True), Range(0, 1, above=True)
]
# The same of what must not be empty.
Stretch = Annotated[tuple[float, float], Items(rising=True, apart=True)]

# Of options by their names, the first that fits: numbers, and those in lists.
RANGES: Mapping[str, Range] = {
    "temperature": DIVISOR,
    "*_temperature": DIVISOR,
    "temperatures": DIVISOR,
    "weight": Range(),
    "*_weight": Range(),
    "*_weights": Range(),
    "momentum": SHARE,
    "*_momentum": SHARE,
    "dropout": PART,
    "*_dropout": PART,
    "label_smoothing": SHARE,
    "mask_ratio": PART,
    "probability": SHARE,
    "cutout": SHARE,
    "test_share": SHARE,
    "warmup": Range(),
    "eta": SHARE,
    "sigma_data": DIVISOR,
    "std": DIVISOR,
    "width": POSITIVE,
    "widths": POSITIVE,
    "strides": POSITIVE,
    "size": POSITIVE,
    "side": POSITIVE,
    "sides": POSITIVE,
    "height": POSITIVE,
    "heads": POSITIVE,
    "scale": POSITIVE,
}

# Likewise of the library's own options alone: in somebody's own code these names may
# mean something else.
LIBRARY: Mapping[str, Range] = {
    **dict.fromkeys(
        # Sizes of networks and of their parts.
        (
            *("attn_resolutions", "bottleneck", "channel_mult", "channel_mult_emb"),
            *("channels", "couplings", "depth", "embed", "embedding", "entry", "exit"),
            *("features", "first_stride", "fpn_width", "grid", "groups", "head"),
            *("hidden", "image_shape", "key_levels", "key_width", "latents"),
            *(
                "levels",
                "local_size",
                "lora_alpha",
                "model_channels",
                "modules",
                "multipliers",
            ),
            *("output", "patch", "prototypes", "pyramid_width", "ratio", "reduction"),
            *("sizes", "slots", "stage1_planes", "stem", "stem_size", "stem_stride"),
            *("stem_width", "stride", "tokens", "units", "vocab_size", "window"),
            *("*_scale", "*_widths", "blocks", "*_blocks"),
            # How many there are of something.
            *("chunk", "chunks", "classes", "each", "eval_sizes", "factor", "folds"),
            *("frames", "hsd_steps", "kinds", "least", "max_pixels", "max_positives"),
            *("meta_every", "min_frames", "min_images", "most", "pairs", "per_class"),
            *("per_identity", "rank", "samples", "scans_per_patient", "taps", "test"),
            *("test_identities", "test_pairs", "test_writers", "top", "train"),
            *("train_identities", "up_to", "writers"),
        ),
        POSITIVE,
    ),
    **dict.fromkeys(("authentic", "filtered", "single", "threshold", "weak"), SHARE),
    "hold_out": PART,
    **dict.fromkeys(("labelled", "smallest_crop", "time"), Range(0, 1, above=True)),
    "spacing": POSITIVE,
    # Of images whose black is 0 and whose white is 1.
    "mean": SHARE,
    "std": Range(DIVISOR.low, 1),
    # Of views: degrees either way, logarithm of a factor, standard deviation of what
    # is added to images from 0 to 1.
    "rotation": Range(0, 180),
    "shear": Range(0, 90, below=True),
    "zoom": PART,
    **dict.fromkeys(("noise", "intensity", "jitter", "translate", "rotate"), SHARE),
}


def named(name: str, library: bool) -> Range | None:
    """Returns the range of an option by its name; None if the name has none.

    Args:
      name: of the option.
      library: whether it is one of the library's own, to which ``LIBRARY`` applies.
    """
    # Names that are spelt out come before patterns.
    known = {**RANGES, **LIBRARY} if library else RANGES
    fitting = (known[one] for one in known if fnmatch.fnmatchcase(name, one))
    return known[name] if name in known else next(fitting, None)
