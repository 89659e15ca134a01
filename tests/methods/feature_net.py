"""Two small networks with maps, quick to compile, and losses on one fixed batch."""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxkd import losses, methods
from jaxkd.core.types import FrozenNetwork, Method, Spec
from tests.fields import fields, loss_of

SHAPE, CLASSES, EXAMPLES = (8, 8, 3), 5, 20
# Every image has this many training examples of other classes.
OTHERS = EXAMPLES - EXAMPLES // CLASSES
ALL_OTHERS = (("negatives", OTHERS),)
# Those of the published recipes.
WEIGHTS = {"fitnet": 100, "vid": 1, "ofd": 1e-3, "crd": 0.8, "reviewkd": 5}
# Tests compile more than they compute.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


class Affine(nn.Module):
    """Stands in for a batch normalisation."""

    @nn.compact
    def __call__(self, x):
        normal = nn.initializers.normal(0.7)
        scale = self.param("scale", normal, x.shape[-1:])
        return x * scale + self.param("bias", normal, x.shape[-1:])


class Net(nn.Module):
    """Each stage pools, mixes channels and has a ReLU."""

    num_classes: int = CLASSES
    widths: tuple[int, ...] = (3, 4, 6)
    sizes: tuple[int, ...] = (8, 4, 2)

    @property
    def preact_norms(self):
        return {f"stage{n}": ("norms", str(n)) for n in range(1, 1 + len(self.widths))}

    @nn.compact
    def __call__(self, images, train=False):
        x, features, norms = images, {}, Norms(name="norms")
        for n, (width, size) in enumerate(zip(self.widths, self.sizes, strict=True), 1):
            x = losses.adaptive_average_pool(x, (size, size))
            preact = norms(nn.Dense(width, name=f"dense{n}")(x), str(n))
            x = nn.relu(preact)
            features |= {f"stage{n}": x, f"stage{n}_preact": preact}
        features["pooled"] = x.mean((1, 2))
        return nn.Dense(self.num_classes, name="last")(features["pooled"]), features


class Norms(nn.Module):
    """Affine maps by name."""

    @nn.compact
    def __call__(self, x, name):
        return Affine(name=name)(x)


STUDENT = Net()
TEACHER = Net(widths=(4, 5, 7), sizes=(8, 2, 4))


def spec(teacher=TEACHER, **changes):
    """Describes a run with both networks."""
    frozen = {"teacher": FrozenNetwork(teacher)}
    plain = Spec(STUDENT, frozen, CLASSES, fields(SHAPE), 10.0, EXAMPLES)
    return plain._replace(**changes)


def make(name, options=None, **changes):
    """Makes a method for both networks."""
    return methods.make(name, spec(**changes), options or {})


def batch(size=6, seed=0):
    """Draws images; each class has as many training examples as any other."""
    rng = np.random.default_rng(seed)
    labels = (np.arange(EXAMPLES) % CLASSES).astype(np.int32)
    index = rng.permutation(EXAMPLES)[:size].astype(np.int32)
    # Each image has a colour, so that pooled features differ.
    image = rng.normal(size=(size, *SHAPE)) + 2 * rng.normal(size=(size, 1, 1, 3))
    return {
        "image": image.astype(np.float32),
        "label": labels[index],
        "index": index,
        "train_labels": labels,
    }


class Seen(NamedTuple):
    """What a method made of a batch, in NumPy."""

    params: dict
    before: dict
    outputs: dict
    targets: dict
    total: np.ndarray
    model_state: dict
    metrics: dict


@functools.cache
def seen_by_networks(teacher, size):
    """Returns what both networks make of a batch, and the teacher's variables."""
    images = batch(size)["image"]
    student = make("supervised")
    params, model_state = jit(student.init)(jax.random.key(1))
    frozen = {"teacher": dict(jit(teacher.init)(jax.random.key(7), images))}
    target = make("kd", teacher=teacher).targets["teacher"]

    def see(params, model_state, frozen):
        data = {"image": images}
        key = jax.random.key(0)
        outputs, _ = student.forward(params, model_state, data, key)
        return outputs, target(frozen, data, key)

    outputs, targets = jax.device_get(jit(see)(params, model_state, frozen))
    return frozen, outputs, {"teacher": targets}


class Once:
    """One method's loss on a fixed batch.

    All methods start from one student, whose outputs are computed once for all tests.
    """

    def __init__(self, method: Method, teacher=TEACHER, step=0, size=6):
        self.method, self.step = method, step
        self.data = batch(size)
        self.frozen, self.outputs, targets = seen_by_networks(teacher, size)
        own = {
            name: function(self.frozen, self.data, jax.random.key(0))
            for name, function in method.targets.items()
            if name != "teacher"
        }
        self.targets = {**targets, **jax.device_get(own)}
        self.start = jax.device_get(jit(method.init)(jax.random.key(1)))

    def loss(self, params, model_state, outputs, targets, seed=3):
        """Returns the loss and what comes with it."""
        key, step = jax.random.key(seed), jnp.asarray(self.step)
        return loss_of(
            self.method, params, model_state, outputs, self.data, targets, key, step
        )

    def __call__(self, seed=3, state=None) -> Seen:
        params, model_state = state or self.start
        result = self.loss(params, model_state, self.outputs, self.targets, seed)
        total, (_, new, metrics) = jax.device_get(result)
        return Seen(
            params, model_state, self.outputs, self.targets, total, new, metrics
        )

    def gradients(self):
        """Returns the gradients in the parameters, the outputs and the targets."""
        params, model_state = jax.tree.map(jnp.asarray, self.start)

        def objective(params, outputs, targets):
            return self.loss(params, model_state, outputs, targets)[0]

        grad = jit(jax.grad(objective, (0, 1, 2)))
        return jax.device_get(grad(params, self.outputs, self.targets))


def cross_entropy(logits, labels):
    """Returns the mean cross entropy, in float64."""
    z = np.asarray(logits, np.float64)
    rows = np.arange(len(labels))
    return (np.logaddexp.reduce(z, axis=1) - z[rows, labels]).mean()


def float64(tree):
    """Returns the arrays of a tree in float64."""
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def largest(tree):
    """Returns the largest absolute value of a tree."""
    return max(float(np.abs(x).max()) for x in jax.tree.leaves(tree))


@functools.cache
def once(name, options=()):
    """Makes a method, one time for all tests."""
    return Once(make(name, dict(options)))


def features_of(seen):
    """Returns the features of student and teacher."""
    maps = seen.outputs["features"], seen.targets["teacher"]["features"]
    return float64(maps)


def check_total(seen, name, term, rtol=1e-4):
    """Asserts the value of a term and of the whole loss."""
    np.testing.assert_allclose(seen.metrics[name], term, rtol=rtol)
    ce = cross_entropy(seen.outputs["logits"], batch()["label"])
    total = ce + WEIGHTS[name] * term
    np.testing.assert_allclose(seen.total, total, rtol=rtol)
