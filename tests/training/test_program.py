"""The training call is compiled once, ahead of its first use."""

import jax

from jaxkd.core import config as configs
from jaxkd.train import train
from jaxkd.training import program
from tests.test_train import data_file, make_config  # noqa: F401

NAMES = ("call", "jit_call", "jit(call)")
COMPILED = "/jax/core/compile/backend_compile_duration"


def test_the_call_is_compiled_once_and_on_the_thread(
    data_file,  # noqa: F811
    tmp_path,
    monkeypatch,
):
    config = configs.standalone(make_config(data_file, steps=3).needs.teacher)
    config.eval_every = config.checkpoint_every = 3
    waited = []
    get = program.CompilingCall.get

    def get_and_note(self):
        call = get(self)
        waited.append(len(compiled))
        return call

    monkeypatch.setattr(program.CompilingCall, "get", get_and_note)
    compiled = []

    def listen(event, seconds, **about):
        del seconds
        if event == COMPILED and about.get("fun_name") in NAMES:
            compiled.append(about)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        train(config, tmp_path)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert waited == [1]  # before the first step
    assert len(compiled) == 1  # and never again
