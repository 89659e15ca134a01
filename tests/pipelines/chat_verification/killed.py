"""Asks about drawn pairs until it is killed; run by test_asking.py."""

import sys
from pathlib import Path

from jaxkd.pipelines.chat_verification.asking import ask_all
from tests.pipelines.chat_verification import test_asking as shared

if __name__ == "__main__":
    url, folder = sys.argv[1], Path(sys.argv[2])
    client = shared.make_client(url, folder)
    ask_all(shared.questions(), shared.plan(), client, folder / "answers.jsonl")
