"""Reads a MATLAB file in a process of its own: a changed byte can end that process.

Started by ``jaxkd.readers.matlab`` as a script, with a limit of memory; it imports
nothing of the library. Arguments: the file, the limit in bytes beyond what the imports
take, the variables. It writes to standard output: a line with the length of a
description, the description in JSON, and the bytes of all arrays. An error is described
as ``{"error": ...}``.
"""

import json
import sys


def main() -> None:
    """Reads the variables and writes them out."""
    path, limit, *names = sys.argv[1:]
    import scipy.io

    _limit_memory(int(limit))
    data: list[bytes] = []
    try:
        content = scipy.io.loadmat(path, variable_names=names, squeeze_me=False)
        described = {n: _describe(content[n], data) for n in names if n in content}
    except Exception as error:  # a damaged file can fail in any way at all
        described, data = {"error": f"{type(error).__name__}: {error}"[:500]}, []
    text = json.dumps(described).encode()
    sys.stdout.buffer.write(b"%d\n" % len(text) + text)
    for part in data:
        sys.stdout.buffer.write(part)


def _limit_memory(more: int) -> None:
    import resource

    try:
        with open("/proc/self/statm") as file:
            limit = more + int(file.read().split()[0]) * resource.getpagesize()
    except OSError:  # not on Linux: more than the imports take anywhere
        limit = more + (3 << 30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _describe(array, data: list[bytes]):
    """Describes an array in types of JSON; numbers are appended to ``data``."""
    import numpy as np

    array = np.asarray(array)
    shape = list(array.shape)
    if array.dtype.names:
        fields = {n: _describe(array[n], data) for n in array.dtype.names}
        return {"shape": shape, "fields": fields}
    if array.dtype.kind == "O":
        cells = [_describe(one, data) for one in array.reshape(-1)]
        return {"shape": shape, "cells": cells}
    if array.dtype.kind == "U":
        return {"shape": shape, "text": array.reshape(-1).tolist()}
    if array.dtype.kind not in "uifb":
        raise ValueError(f"an array of dtype {array.dtype}")
    array = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<")))
    data.append(array.tobytes())
    return {"shape": shape, "dtype": array.dtype.str}


if __name__ == "__main__":
    main()
