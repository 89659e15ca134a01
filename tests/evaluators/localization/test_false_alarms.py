"""False alarms at one recall, against counting threshold by threshold."""

import numpy as np
import pytest

from jaxkd.evaluators.localization import false_alarms

GROUPS = {
    "telea": np.array([0, 1]),
    "exemplar": np.array([2]),
    "authentic": np.array([3, 4]),
    "blurred": np.array([5]),
    "resized": np.array([6, 7]),
}


def make(seed=0, levels=12):
    rng = np.random.default_rng(seed)
    # Few levels, so that many pixels tie at the threshold.
    maps = rng.integers(0, levels, (8, 10, 10)) / levels
    masks, region = np.zeros((2, 8, 10, 10))
    for row in range(3):
        masks[row, row : row + 5, 2:7] = 1
    region[:3] = masks[:3]
    region[5:, 1:4, 1:9] = 1
    return maps, {"target_mask": masks, "region": region}


def counted(maps, truth, rows):
    """The largest threshold of all that finds half of the pixels, by trying each."""
    tampered = [p for r in rows for p in maps[r][truth["target_mask"][r] > 0.5]]
    for threshold in sorted(set(maps.ravel()), reverse=True):
        if sum(p >= threshold for p in tampered) * 2 >= len(tampered):
            break
    hard = [p for r in (5, 6, 7) for p in maps[r].ravel()]
    smooth = [p for r in (5, 6, 7) for p in maps[r][truth["region"][r] > 0.5]]
    plain = [p for r in (3, 4) for p in maps[r].ravel()]
    return {
        name: sum(p >= threshold for p in pixels) / len(pixels)
        for name, pixels in (
            ("authentic", plain),
            ("hard_negatives", hard),
            ("smoothed_regions", smooth),
        )
    }


@pytest.mark.parametrize("seed", range(4))
def test_shares_are_those_that_are_counted(seed):
    maps, truth = make(seed)
    found = false_alarms.measure(maps, truth, GROUPS)
    assert list(found) == ["telea", "exemplar", "all methods"]
    for method, rows in (
        ("telea", (0, 1)),
        ("exemplar", (2,)),
        ("all methods", range(3)),
    ):
        assert found[method] == pytest.approx(counted(maps, truth, rows))


def test_a_perfect_map_has_none_and_a_smoothness_map_has_its_regions():
    _, truth = make()
    perfect = false_alarms.measure(truth["target_mask"], truth, GROUPS)
    assert set(perfect["telea"].values()) == {0.0}
    smooth = false_alarms.measure(truth["region"], truth, GROUPS)["telea"]
    assert smooth["smoothed_regions"] == 1 and smooth["authentic"] == 0
    assert smooth["hard_negatives"] == pytest.approx(0.24)


def test_only_what_there_is_is_counted():
    maps, truth = make()
    groups = {name: GROUPS[name] for name in ("telea", "authentic")}
    found = false_alarms.measure(maps, {"target_mask": truth["target_mask"]}, groups)
    assert list(found) == ["telea"] and list(found["telea"]) == ["authentic"]


def test_the_table_names_what_was_not_trained_on():
    maps, truth = make()
    systems = {"net": [maps, make(1)[0]], "Laplacian": [maps]}
    table = false_alarms.table(systems, truth, GROUPS, {"exemplar": "exemplar, unseen"})
    rows = [line[:2] for line in table.rows]
    assert rows == [
        ["", ""],
        ["telea", "net"],
        ["", "Laplacian"],
        ["exemplar, unseen", "net"],
        ["", "Laplacian"],
        ["all methods", "net"],
        ["", "Laplacian"],
    ]
    assert table.rows[0][2:] == ["authentic", "hard negatives", "smoothed regions"]
    values = [false_alarms.measure(m, truth, GROUPS)["telea"] for m in systems["net"]]
    mean = np.mean([value["authentic"] for value in values])
    assert table.rows[1][2].startswith(f"{mean:.3f}")
