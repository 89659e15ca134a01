"""Parts of a benchmark: computed once, in order, and counted."""

import pytest

from jaxkd.core.errors import Interrupted
from jaxkd.core.preemption import never_stop
from jaxkd.pipelines import parts


def test_what_is_kept_is_not_computed_again(tmp_path, capsys):
    computed = []

    def make(number):
        def compute():
            computed.append(number)
            return {"value": number**2}

        return compute

    plan = {f"part {number}": make(number) for number in range(4)}

    def stop():
        return "SIGTERM" if len(computed) == 2 else None

    with pytest.raises(Interrupted, match="SIGTERM: stopped after 2 of 4 parts"):
        parts.compute(plan, tmp_path, "bench", 8, stop)
    assert computed == [0, 1]
    found = parts.compute(plan, tmp_path, "bench", 8, never_stop)
    assert computed == [0, 1, 2, 3]
    assert [part["value"] for part in found] == [0, 1, 4, 9]
    assert all(part["seconds"] >= 0 for part in found)
    # The first line comes before anything is done, the last when all is.
    shown = capsys.readouterr().err
    assert "bench:   0% 0/4" in shown and "bench: 100% 4/4" in shown
