"""What a run shows: scores by student in percent, losses of those that still train."""

import numpy as np

from jaxkd.core.types import TOP1, Score
from jaxkd.training import display


class Student:
    def __init__(self, name, steps):
        self.name, self.steps = name, steps


class Group:
    """Two students over two seeds; the second ends at step 10."""

    name = "group0"
    students = (Student("kd", 20), Student("ce", 10))
    members = (("kd", 0), ("ce", 0), ("kd", 1), ("ce", 1))

    def per_member(self, values):
        return np.tile(values, 2)


def test_scores_are_those_of_students_that_trained_up_to_the_step():
    metrics = {"group0": {"top1": np.array([0.5, 0.25, 0.7, 0.75])}}
    at_ten = display.student_scores([Group()], metrics, TOP1, 10)
    assert at_ten == {"kd": [0.5, 0.7], "ce": [0.25, 0.75]}
    later = display.student_scores([Group()], metrics, TOP1, 20)
    assert later == {"kd": [0.5, 0.7]}
    assert display.format_score(later["kd"], TOP1, 500) == "60.0 ± 10.0"
    assert display.format_score([0.5], Score("error", "", percent=False), 9) == "0.5000"


def test_loss_is_the_mean_of_the_members_that_train():
    metrics = {"group0": {"loss": np.array([1.0, 9.0, 3.0, np.nan])}}
    assert float(display._MeanLoss([Group()], metrics, 20)) == 2.0
