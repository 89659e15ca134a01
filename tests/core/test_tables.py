import csv
import io

from jaxkd.core import tables


def test_what_a_spreadsheet_would_compute_is_marked_and_numbers_stay():
    file = io.StringIO()
    writer = tables.CsvWriter(file)
    writer.writerow(["=HYPERLINK(1)", "+a", "-b.png", "@c", "-0.5", "+1e3", -2, "d=e"])
    writer.writerows([["a,b", None]])
    first, second = csv.reader(io.StringIO(file.getvalue()))
    assert first == [
        *("'=HYPERLINK(1)", "'+a", "'-b.png", "'@c", "-0.5", "+1e3", "-2", "d=e")
    ]
    assert second == ["a,b", ""]
