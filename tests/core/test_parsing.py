import os

import pytest

from jaxkd.core import parsing
from jaxkd.core.errors import UserError


class PanicException(BaseException):
    """As libraries written in Rust raise it."""


@pytest.mark.parametrize(
    "error", [OSError, KeyError, MemoryError, RecursionError, PanicException]
)
def test_whatever_a_parser_raises_is_one_error_with_file_reason_and_remedy(error):
    with (
        pytest.raises(UserError, match=r"a\.bin cannot be read as a tree: .*Plant it"),
        parsing.parsing("a.bin", "a tree", "Plant it again."),
    ):
        raise error("x\x1b[31m\ny" * 1000)


def test_messages_are_short_and_hold_no_control_characters():
    with (
        pytest.raises(UserError) as caught,
        parsing.parsing("a\x1b.bin", "a tree", "Plant it."),
    ):
        raise ValueError("x\x1b[31m\ny" * 1000)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 300


def test_interrupts_and_our_own_errors_pass():
    with pytest.raises(KeyboardInterrupt), parsing.parsing("a", "a tree", "."):
        raise KeyboardInterrupt
    with (
        pytest.raises(UserError, match="as it was"),
        parsing.parsing("a", "a tree", "."),
    ):
        raise UserError("as it was")


def test_pipes_folders_and_impossible_names_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", ".", "missing", "n" * 300, "a\0b"):
        with pytest.raises(UserError):
            parsing.require_file(tmp_path / name, "Name a file.")


@pytest.mark.parametrize(
    "content", [b"\xff", b"{", b"[" * 100_000, b"NaN", b"1" * 5000, b""]
)
def test_json_of_any_damage_is_refused(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as a list"):
        parsing.read_json(tmp_path / "a.json", "a list", "Write it again.")


def test_text_is_read_with_and_without_a_mark(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbfa,b\n\n1,"2\n3"\n')
    rows = parsing.read_rows(tmp_path / "a.csv", "a table", "Write it again.")
    assert rows == [["a", "b"], ["1", "2\n3"]]


def test_declared_sizes_have_a_limit():
    parsing.check_declared("a", "bytes", 5, 5, "Shrink it.")
    with pytest.raises(UserError, match="declares 6 bytes, expected at most 5"):
        parsing.check_declared("a", "bytes", 6, 5, "Shrink it.")
