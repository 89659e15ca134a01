"""The pages' examples run, their links and tables fit the code."""

import ast
import doctest
import importlib
import re
import sys
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxkd
from jaxkd.core import config as configs
from jaxkd.core.types import FrozenNetwork, LossInputs, Method, Spec

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
MODULES = sorted(
    path
    for path in Path(jaxkd.__path__[0]).rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(page: Path, *languages: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    found = re.findall(r"^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [code for language, code in found if language in languages]


@pytest.fixture(scope="module")
def extension():
    """The Sphinx extension of the tables; skipped where Sphinx is not installed."""
    pytest.importorskip("sphinx")
    sys.path.insert(0, str(ROOT / "docs" / "extensions"))
    yield importlib.import_module("config_tables")
    sys.path.pop(0)


@pytest.mark.parametrize(
    "page", [p for p in PAGES if "<!-- examples run -->" in p.read_text()], ids=name_of
)
def test_examples_of_a_page_run(page):
    names: dict[str, object] = {}
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    for code in blocks(page, "python", "pycon"):
        if code.startswith(">>> "):
            test = doctest.DocTestParser().get_doctest(code, names, page.name, None, 0)
            assert runner.run(test, clear_globs=False).failed == 0, code
            names.update(test.globs)
        else:
            exec(compile(code, page.name, "exec"), names)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_examples_in_docstrings_run(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    module = importlib.import_module(".".join(parts).removesuffix(".__init__"))
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0
    assert result.failed == 0


def test_study_of_the_readme_is_a_configuration():
    code = next(b for b in blocks(ROOT / "README.md", "python") if "get_config" in b)
    names: dict[str, object] = {}
    exec(code, names)
    config = names["get_config"]()
    configs.check(config)
    assert list(config.students) == ["ce", "kd"]
    assert config.needs.teacher.model.name != config.model.name


class Linear(nn.Module):
    """Logits of flat images."""

    @nn.compact
    def __call__(self, images, train=False):
        logits = nn.Dense(3)(images.reshape(len(images), -1))
        return logits, {"pooled": logits}


def method_of_contributing():
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    code = re.search(r"<!-- method -->\n```python\n(.*?)^```$", page, re.S | re.M)
    names: dict[str, object] = {}
    exec(compile(code[1], "power.py", "exec"), names)
    return names["make"]


def test_method_of_contributing_is_its_formula():
    fields = {
        "image": jax.ShapeDtypeStruct((2, 2, 1), jnp.float32),
        "label": jax.ShapeDtypeStruct((), jnp.int32),
    }
    spec = Spec(Linear(), {"teacher": FrozenNetwork(Linear())}, 3, fields, 1.0)
    method = method_of_contributing()(spec, power=3.0, power_weight=0.5)
    key = jax.random.key(0)
    batch = {
        "image": jax.random.normal(key, (4, 2, 2, 1)),
        "label": jnp.array([0, 1, 2, 0]),
    }
    frozen = {"teacher": Linear().init(jax.random.key(7), batch["image"])}
    targets = {name: f(frozen, batch, key) for name, f in method.targets.items()}
    params, state = method.init(key)
    outputs, state = method.forward(params, state, batch, key)
    inputs = LossInputs(params, state, outputs, batch, targets, key, jnp.array(0))
    loss = method.loss(inputs)

    x = np.asarray(batch["image"], np.float64).reshape(4, 4)
    student, teacher = (
        x @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"])
        for layer in (
            params["student"]["Dense_0"],
            frozen["teacher"]["params"]["Dense_0"],
        )
    )
    log_sum = np.log(np.exp(student).sum(axis=1))
    cross_entropy = np.mean(log_sum - student[np.arange(4), batch["label"]])
    power = np.mean(np.abs(student - teacher) ** 3)
    assert power > 0.01
    np.testing.assert_allclose(loss.metrics["power"], power, rtol=1e-5)
    np.testing.assert_allclose(loss.value, cross_entropy + 0.5 * power, rtol=1e-5)


def test_contract_of_contributing_names_every_function_of_a_method():
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = page.split("### The contract of a method")[1].split("\n## ")[0]
    assert set(re.findall(r"^\| `(\w+)", table, re.M)) == set(Method._fields)


def test_readme_is_short_and_names_every_configuration():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 250
    missing = [
        path.name
        for path in (ROOT / "configs").glob("*.py")
        if f"configs/{path.name}" not in text
    ]
    assert not missing, f"README.md has no row for {missing}"
    named = set(re.findall(r"`(configs/\w+\.py)", text))
    assert not {name for name in named if not (ROOT / name).exists()}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_between_files_lead_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.S | re.M)
    for target in re.findall(r"\]\(\s*([^)\s]+)\s*\)", text):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        file = page.parent / path if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), target


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub and MyST give to a page's headings."""
    lines = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


def test_table_of_keys_has_every_key_with_its_default_and_comment(extension):
    rows = {key.name: key for block in extension.blocks() for key in block.keys}
    default = configs.default()
    assert rows["batch_size"].default == default.batch_size
    assert rows["optim.lr"].default == default.optim.lr
    assert "over all devices" in rows["batch_size"].comment
    assert "cosine, step, constant" in rows["optim.schedule"].comment


def test_table_of_keys_cannot_lose_one(extension):
    def lost():
        config = configs.default()
        config.ema = 0.5
        return config

    with pytest.raises(ValueError, match="batch_size"):
        extension.blocks(lost)


def test_option_tables_have_what_a_configuration_may_set(extension):
    kd = dict(extension.options(extension.option_functions("methods")["kd"]))
    assert kd["temperature"] == 4.0
    assert "spec" not in kd
    assert "glyph100" in extension.option_functions("datasets")
    assert "crop_flip" in extension.option_functions("views")
    networks = extension.option_functions("models")
    (resnet,) = (kind for names, kind in networks.items() if "resnet8x4" in names)
    assert dict(extension.options(resnet))["strides"] == (1, 2, 2)
    assert "num_classes" not in dict(extension.options(resnet))


def test_schema_of_the_results_is_what_a_run_writes(finished_run):
    page = (ROOT / "docs" / "workdir.md").read_text(encoding="utf-8")
    top, student = page.split("<!-- schema -->")[1].split("Of each student:")
    student = student.split("\n## ")[0]
    results = finished_run[1]
    assert set(re.findall(r"^\| `(\w+)` \|", top, re.M)) == set(results)
    listed = set(
        re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (.*?) \|", student, re.M)))
    )
    written = results["students"]["ant"]
    assert listed <= set(written)
    further = {key for key in written if key not in listed}
    assert all(isinstance(written[key], int | float) for key in further), further


def test_pages_name_modules_that_exist():
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for path in re.findall(r"`(jaxkd/[\w/]+(?:\.py|/))`", text):
            if page.name != "CHANGELOG.md":
                assert (ROOT / path).exists(), f"{page.name}: {path}"


def test_extensions_parse():
    for path in (ROOT / "docs" / "extensions").glob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text())), path
