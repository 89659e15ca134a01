"""Mutates bytes as disks, transfers and other programs do."""

import random

MUTATIONS = ("flip", "byte", "digit", "cut", "zeros", "swap", "insert", "drop")


def mutate(content: bytes, rng: random.Random, start: int = 0, stop: int = 0) -> bytes:
    """Returns a damaged copy; changes begin between ``start`` and ``stop``."""
    data = bytearray(content)
    stop = stop or len(data)
    place = rng.randrange(start, stop)
    size = rng.choice((1, 2, 4, 16, 128))
    kind = rng.choice(MUTATIONS)
    if kind == "flip":
        data[place] ^= 1 << rng.randrange(8)
    elif kind == "byte":
        data[place] = rng.randrange(256)
    elif kind == "digit":  # where text is: another number
        digits = [i for i in range(start, stop) if chr(data[i]).isdigit()]
        if digits:
            data[rng.choice(digits)] = ord(rng.choice("0123456789"))
    elif kind == "cut":
        del data[place:]
    elif kind == "zeros":
        end = min(place + size, stop)
        data[place:end] = bytes(end - place)
    elif kind == "swap":
        other = rng.randrange(start, stop)
        data[place], data[other] = data[other], data[place]
    elif kind == "insert":
        data[place:place] = rng.randbytes(size)
    else:
        del data[place : min(place + size, stop)]
    return bytes(data)
