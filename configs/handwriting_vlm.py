"""Handwriting verification by a vision-language model that explains itself.

    python -m jaxkd.main --config=configs/handwriting_vlm.py

Draws 200 writers of the word "and" and compares, on pairs of 60 unseen writers, a tiny
PaliGemma fine-tuned whole, one that trains LoRA adapters alone, and the siamese CNN of
configs/ssl_hv.py; raw pixels and other descriptors stand beside them. Both language
models start from one that was taught to tell the features of other drawn writers' words
(the folder captions), without any verdict. Three seeds; docs/handwriting_vlm.md says
what came out. No download.

    configs/handwriting_vlm.py:explain  the verdict behind an explanation
    configs/handwriting_vlm.py:quick    few steps: a look at how it works

The argument '3b' is PaliGemma-3B/224 with LoRA on a bfloat16 base, from runs/paligemma
(python -m jaxkd.convert.paligemma to-run), words in data/AND and the tokeniser in
data/paligemma. It was never run here. configs/handwriting_chat.py asks a chat model.
"""

from ml_collections import ConfigDict

from jaxkd.core import config as configs
from jaxkd.core.lookup import choose

SEEDS = (0, 1, 2)
SIDE = 32
TINY = {
    "name": "paligemma",
    "input": "pair",
    "preset": "tiny",
    "image_shape": (SIDE, 2 * SIDE),
    "patch": 8,
    "vision_width": 64,
    "vision_depth": 2,
    "vision_heads": 4,
    "vision_mlp": 128,
    "text_width": 64,
    "text_depth": 2,
    "text_heads": 4,
    "text_head_dim": 16,
    "text_mlp": 128,
}
# Of the twelve features that drawn words have.
DESCRIBED = (
    "slantness",
    "size",
    "letter_spacing",
    "is_continuous",
    "staff_of_d",
    "entry_stroke_a",
)
SIAMESE = {"name": "siamese", "encoder": "small_conv_flat", "input": "pair"}
VIEW = {
    "name": "handwriting",
    "views": 0,
    "distort_image": True,
    "crop": (1.0, 1.0),
    "cutout": 0.0,
}
FULL = {"method": "vlm_finetuning", "model": TINY, "loss": {"start_from": "captions"}}
LORA = {
    **FULL,
    "loss": {
        "start_from": "captions",
        "lora": 8,
        "targets": "decoder_and_vision",
    },
    "optim": {"lr": 3e-3},
}


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration of a variant; see above."""
    variants = {
        "": compare,
        "explain": explain,
        "quick": quick,
        "3b": published,
    }
    return choose(arg, variants, what="configs/handwriting_vlm.py variant")()


def compare() -> ConfigDict:
    """Verdicts alone: the whole model, LoRA, and the siamese CNN."""
    config = verification("answer_only")
    config.needs = ConfigDict({"captions": configs.needed(captions())})
    config.students = configs.students(
        {
            "siamese": {"method": "handwriting_pairs", "model": SIAMESE},
            "paligemma_full": FULL,
            "paligemma_lora": LORA,
        }
    )
    config.reference = "siamese"
    return config


def explain() -> ConfigDict:
    """Verdicts behind explanations."""
    config = verification("explain_then_answer")
    config.needs = ConfigDict({"captions": configs.needed(captions())})
    told = {"start_from": "captions", "explain_first": True}
    config.students = configs.students({"explain_then_answer": {**FULL, "loss": told}})
    return config


def verification(target: str) -> ConfigDict:
    """Pairs of all writers: AdamW 1e-3, cosine, 300 steps of 64 pairs."""
    config = _base(target)
    config.data.update({"test_pairs": 1000})
    config.batch_size, config.duration = 64, 300.0
    config.eval_every, config.checkpoint_every = 300.0, 100.0
    return config


def captions() -> ConfigDict:
    """Features of other writers' words, no verdicts: AdamW 1e-3, 400 steps of 64."""
    config = _base("caption")
    config.name = "captions"
    # Other writers than those of the verdicts, and one model for all seeds.
    config.data.update({"seed": 7, "test_pairs": 200})
    config.seeds = (0,)
    config.batch_size, config.duration = 64, 400.0
    config.eval_every, config.checkpoint_every = 400.0, 100.0
    return config


def _base(target: str) -> ConfigDict:
    config = configs.default()
    config.name = "handwriting_vlm"
    config.method = "vlm_finetuning"
    config.model = ConfigDict(TINY)
    config.data = ConfigDict(
        {
            "name": "handwriting_prompts",
            "size": SIDE,
            "target": target,
            "described": DESCRIBED,
        }
    )
    config.view = ConfigDict(VIEW)
    config.seeds, config.batches = SEEDS, "per_seed"
    config.unit, config.eval_batch_size = "steps", 200
    config.optim.update(
        {
            "name": "adamw",
            "lr": 1e-3,
            "beta2": 0.99,
            "weight_decay": 1e-2,
            "warmup": 20.0,
            "clip_norm": 1.0,
        }
    )
    return config


def quick() -> ConfigDict:
    """All of it in a minute; its figures mean nothing."""
    config = compare()
    small = {"writers": 12, "test_writers": 6, "samples": 3}
    for part in (config, *config.needs.values()):
        part.seeds = (0,)
        part.data.update(small)
        part.batch_size = part.eval_batch_size = 16
        part.data.test_pairs = 32
        part.duration = part.eval_every = part.checkpoint_every = 6.0
        part.optim.warmup = 1.0
    return config


def published() -> ConfigDict:
    """PaliGemma-3B/224 with LoRA: rank 8, alpha 16, dropout 0.05, AdamW 2e-4."""
    config = _base("explain_then_answer")
    model = {
        "name": "paligemma",
        "input": "pair",
        "preset": "3b-224",
        "lora_alpha": 16.0,
        "lora_dropout": 0.05,
        "remat": True,
    }
    base = captions()
    base.model = ConfigDict(model)
    config.needs = ConfigDict(
        {"pretrained": configs.needed(base, init_from="runs/paligemma")}
    )
    config.model = ConfigDict(model)
    config.dtype = "bfloat16"
    config.data.update(
        {
            "root": "data/AND",
            "size": 112,
            "target": "answer_only",
            "tokenizer": "data/paligemma/tokenizer.model",
        }
    )
    config.loss = ConfigDict(
        {"start_from": "pretrained", "lora": 8, "chunks": 8, "base_dtype": "bfloat16"}
    )
    config.seeds = (0,)
    config.batch_size, config.unit, config.duration = 16, "epochs", 3.0
    config.eval_every = config.checkpoint_every = 1.0
    config.optim.update(
        {"lr": 2e-4, "weight_decay": 0.0, "beta2": 0.999, "warmup": 0.1}
    )
    config.mesh.fsdp = -1
    config.mesh.data = 1
    return config
