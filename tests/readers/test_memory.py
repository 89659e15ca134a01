"""Small files that declare large contents take little memory."""

import pytest

from benchmarks import memory, memory_cases


@pytest.mark.slow
def test_hostile_files_take_no_more_memory_than_is_stated(tmp_path):
    rows = memory.measure(tmp_path)
    assert [row.name for row in rows] == list(memory_cases.CASES)
    for row in rows:
        assert row.outcome in memory.OUTCOMES, row
        assert row.peak <= row.bound, row
