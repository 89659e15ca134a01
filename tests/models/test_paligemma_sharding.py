import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import traverse_util
from jax.sharding import PartitionSpec as P

from jaxkd.models import paligemma
from jaxkd.models.paligemma import lora, sharding

SIZES = {"fsdp": 2, "model": 4}


@pytest.fixture(scope="module")
def published():
    config = paligemma.preset("3b-224")

    def make(key):
        params = paligemma.init(config, key)
        return lora.add(params, key, rank=8, targets=lora.DECODER + lora.VISION)

    tree = jax.eval_shape(make, jax.random.key(0))
    return traverse_util.flatten_dict(tree, sep="/")


def test_tensor_parallel_axes_are_those_of_heads_and_hidden_features(published):
    expected = {
        "llm/embedder/input_embedding": P("model", "fsdp"),
        "llm/layers/attn/q_einsum/w": P(None, "model", "fsdp"),
        "llm/layers/attn/attn_vec_einsum/w": P(None, "model", None, "fsdp"),
        # One head of keys and values: whole on every device of "model".
        "llm/layers/attn/kv_einsum/w": P(None, None, None, "fsdp"),
        "llm/layers/mlp/gating_einsum": P(None, None, "fsdp", "model"),
        "llm/layers/mlp/linear": P(None, "model", "fsdp"),
        "llm/layers/pre_ffw_norm/scale": P(),
        "llm/final_norm/scale": P(),
        "img/Transformer/encoderblock/MlpBlock_0/Dense_0/bias": P(None, "model"),
        "img/Transformer/encoderblock/MultiHeadDotProductAttention_0/query/kernel": P(
            None, "fsdp", "model"
        ),
    }
    for path, spec in expected.items():
        found = sharding.partition_spec(path, published[path].shape, SIZES)
        assert found == spec, path


def test_every_large_leaf_is_split_on_axes_that_divide(published):
    for path, leaf in published.items():
        spec = sharding.partition_spec(path, leaf.shape, SIZES)
        for size, axis in zip(leaf.shape, spec, strict=False):
            assert axis is None or size % SIZES[axis] == 0
        if leaf.size >= 2**16 and not path.endswith("bias"):
            assert "fsdp" in spec, path
        if "layers/" in path or "encoderblock/" in path:
            assert not spec or spec[0] is None, path
    # All rules are for leaves that exist.
    for pattern, _ in sharding.MODEL_RULES:
        assert any(re.search(pattern, path) for path in published), pattern


def test_bytes_of_a_device_are_the_published_models_over_eight(published):
    def share(sizes, only=lambda path: True):
        total = 0
        for path, leaf in published.items():
            spec = sharding.partition_spec(path, leaf.shape, sizes)
            parts = np.prod([sizes[a] for a in spec if a] or [1])
            total += leaf.size / parts if only(path) else 0
        return total

    def base(path):
        return "lora_" not in path

    assert share({"fsdp": 1, "model": 1}, base) == 2_923_466_480
    for sizes in ({"fsdp": 8, "model": 1}, {"fsdp": 4, "model": 2}):
        assert share(sizes, base) < 2_923_466_480 / 8 * 1.01


@pytest.mark.nightly
def test_the_published_model_compiles_for_eight_devices_within_its_memory():
    names = ["3b-224,lora,8,1", "3b-224,full,4,2"]
    script = Path(__file__).with_name("paligemma_sharded.py")
    root = str(script.parents[2])
    path = os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])
    out = subprocess.run(
        [sys.executable, str(script), *names],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        check=False,
    )
    assert out.returncode == 0, out.stderr[-3000:]
    found = json.loads(out.stdout.splitlines()[-1])
    gigabyte = 1e9
    # bfloat16 base, and float32 adapters with two moments: 2 bytes each and a little.
    assert found[names[0]]["arguments"] < 6.2 / 8 * gigabyte * 1.02
    # float32 parameters and two moments: 12 of the 16 bytes each are arguments.
    assert found[names[1]]["arguments"] < 46.8 / 8 * gigabyte
    assert found[names[1]]["arguments"] > 12 * 2.92 / 8 * gigabyte
