#!/usr/bin/env python3
"""Starts several CPU processes on this machine as a pretend pod.

    python launch/local.py --processes 2 --devices 2 --config=configs/rld.py

What is not an option of this launcher goes to jaxkd.main. Every line of output begins
with the number of its process. SIGINT and SIGTERM are passed on: the run saves and ends
with code 75, and the same command resumes it. When one process fails, the others are
ended, and its exit code is that of the launcher.
"""

import argparse
import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import IO

SAVED = 75  # EX_TEMPFAIL: told to stop, has saved, wants to be run again
# JAX would find a cluster in these.
CLUSTER = ("TPU_", "SLURM_")


def main(argv: Sequence[str] | None = None) -> int:
    """Starts the processes, or prints their commands, and returns the exit code."""
    options, arguments = _parse(argv)
    port = options.port or _free_port()
    ours = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(options.devices)}
    common = [sys.executable, "-m", options.module, "--distributed"]
    common += [f"--coordinator=127.0.0.1:{port}"]
    common += [f"--num_processes={options.processes}"]
    commands = [
        [*common, f"--process_id={index}", *arguments]
        for index in range(options.processes)
    ]
    if options.dry_run:
        _print(commands, ours)
        return 0
    others = {k: v for k, v in os.environ.items() if not k.startswith(CLUSTER)}
    return _run(commands, others | ours | {"PYTHONUNBUFFERED": "1"}, options.grace)


def _parse(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser(
        usage="python launch/local.py [OPTIONS] ARGUMENTS OF jaxkd.main",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--processes", type=_positive, default=2, help="how many (default 2)")
    add("--devices", type=_positive, default=2, help="of each process (default 2)")
    add("--port", type=int, help="of the coordinator (default: a free one)")
    add(
        "--grace",
        type=float,
        default=60,
        help="seconds that the others have to end when one has failed (default 60)",
    )
    add("--module", default="jaxkd.main", help="to run instead of jaxkd.main")
    add("--dry-run", action="store_true", help="print the commands only")
    options, arguments = parser.parse_known_args(argv)
    if not arguments:
        parser.error("the arguments of jaxkd.main are missing")
    return options, arguments


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _print(commands: list[list[str]], ours: dict[str, str]) -> None:
    unset = sorted(name for name in os.environ if name.startswith(CLUSTER))
    environment = [word for name in unset for word in ("-u", name)]
    environment += [f"{name}={value}" for name, value in ours.items()]
    for command in commands:
        print(shlex.join(["env", *environment, *command]), "&")
    print("wait")


def _run(commands: list[list[str]], environment: dict[str, str], grace: float) -> int:
    """Runs the commands side by side, and returns the first failure's code, or 0."""
    processes: list[subprocess.Popen[bytes]] = []
    received: list[int] = []

    def forward(number: int, _: object) -> None:
        received.append(number)
        _signal(processes, number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, forward)
    copies = []
    for index, command in enumerate(commands):
        # A session of its own: a Ctrl-C reaches it through us only, hence once.
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        processes.append(process)
        copies.append(threading.Thread(target=_copy, args=(index, process.stdout)))
        copies[-1].start()
    code = _wait(processes, received, grace)
    for copy in copies:
        copy.join()
    return code


def _copy(index: int, stream: IO[bytes]) -> None:
    """Passes output on, each line with the number of its process in front."""
    out = sys.stdout.buffer
    # If nobody reads ours, theirs is closed, and they end.
    with stream, contextlib.suppress(BrokenPipeError):
        for line in stream:
            out.write(b"[%d] %s\n" % (index, line.rstrip(b"\n")))
            out.flush()


def _wait(
    processes: list[subprocess.Popen[bytes]], received: list[int], grace: float
) -> int:
    """Waits for all; a failed process takes the others with it, gently at first."""
    first, deadline = 0, float("inf")
    while True:
        codes = [process.poll() for process in processes]
        failed = [index for index, code in enumerate(codes) if code]
        if failed and not first:
            first = codes[failed[0]] or 0
            deadline = time.monotonic() + grace
            _tell(failed[0], first, None in codes)
            # Who was told to stop, or has agreed to, is saving now.
            if not received and first != SAVED:
                _signal(processes, signal.SIGTERM)
        if None not in codes:
            return first if first >= 0 else 128 - first
        if time.monotonic() > deadline:
            late = [str(index) for index, code in enumerate(codes) if code is None]
            _say(f"killing {', '.join(late)}, still there after {grace:g} s.")
            _signal(processes, signal.SIGKILL)
            deadline = float("inf")
        time.sleep(0.05)


def _tell(index: int, code: int, others: bool) -> None:
    how = f"ended with code {code}"
    if code < 0:
        how = f"was killed by {signal.Signals(-code).name}"
    if code == SAVED:
        how += " (stopped and saved: the same command resumes)"
    _say(f"process {index} {how}{'; ending the others.' if others else '.'}")


def _say(text: str) -> None:
    print(f"local.py: {text}", file=sys.stderr, flush=True)


def _signal(processes: list[subprocess.Popen[bytes]], number: int) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


if __name__ == "__main__":
    sys.exit(main())
