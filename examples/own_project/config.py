"""Three losses for one student, two of them learning from a ResNet.

    python -m jaxkd.main --config=config.py --workdir=runs/shapes

trains a teacher and six students (three losses, two seeds) on drawn shapes. The variant
``config.py:quick`` does so in a few steps, to see that everything fits together.
"""

from ml_collections import ConfigDict

from jaxkd.core import config as configs


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration."""
    config = configs.default()
    config.name = "shapes-teacher"
    config.data = ConfigDict({"name": "shapes.py:load", "size": 16})
    config.view = ConfigDict({"name": "turns.py:quarter_turns"})
    config.model = ConfigDict({"name": "resnet8", "stem": 8, "widths": (8, 16, 32)})
    config.batch_size = 50
    config.duration = 20.0
    config.eval_every = config.checkpoint_every = 10.0
    config.optim.update({"nesterov": True, "warmup": 1.0})
    teacher = configs.needed(config)

    config.name = "shapes"
    config.needs = ConfigDict({"teacher": teacher})
    config.model = ConfigDict({"name": "network.py:PatchNet", "width": 24})
    # Cross entropy bears 0.2, and gains by it; with more terms a loss is steeper.
    config.optim.lr = 0.05
    config.seeds = (1, 2)
    config.reference = "ce"
    config.students = configs.students(
        {
            "ce": {"method": "supervised"},
            "kd": {"method": "kd"},
            "correlation": {
                "method": "correlation.py:make",
                "loss": {"correlation_weight": 2.0},
            },
        }
    )
    if arg == "quick":
        for part in (config, config.needs.teacher):
            part.unit, part.duration, part.optim.warmup = "steps", 4, 1
            part.eval_every = part.checkpoint_every = 4
            part.data.update({"train": 100, "test": 40})
        config.allow_weak_teacher = True  # four steps teach it little
    return config
