"""A reader of pickles that other people wrote, to which only given names exist.

A pickle is a program that may call any function by name. Here the few names that a
format needs stand for inert recorders of the library's own; every other name is
refused before it is even imported.
"""

import io
import pickle
from collections.abc import Mapping
from typing import Any, BinaryIO

from jaxkd.core.errors import UserError


class Reader(pickle.Unpickler):
    """Unpickles with stand-ins.

    A stand-in has to bear that a pickle calls it, makes an instance of it without
    calling it, and sets the state of either.
    """

    def __init__(
        self,
        file: BinaryIO | io.BytesIO,
        origin: str,
        stand_ins: Mapping[tuple[str, str], Any],
        advice: str,
        encoding: str = "utf-8",
    ):
        """Prepares to read.

        Args:
          file: positioned at the pickle.
          origin: the file's name, for error messages.
          stand_ins: (module, name) -> what stands for it.
          advice: ends the message that refuses another name: what is read from
            pickles, and what to do.
          encoding: of text that Python 2 wrote.
        """
        super().__init__(file, encoding=encoding)
        self.origin, self.stand_ins, self.advice = origin, stand_ins, advice

    def find_class(self, module: str, name: str) -> Any:
        """Returns the stand-in.

        Raises:
          UserError: if there is none.
        """
        if (module, name) not in self.stand_ins:
            raise UserError(
                f"{self.origin} was refused: it asks for {module}.{name}, and nothing "
                f"of it was executed. {self.advice}"
            )
        return self.stand_ins[module, name]
