"""What the examples of a made-up data set hold, for tests of methods."""

import jax
import jax.numpy as jnp

from jaxkd.core.types import Loss, LossInputs


def fields(shape, **more):
    """Returns the fields of an example with an image of a shape."""
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    return {"image": image, "label": jax.ShapeDtypeStruct((), jnp.int32), **more}


def loss_of(method, *arguments) -> tuple[jax.Array, Loss]:
    """Returns a loss's value, and all of it; a key of None is some key."""
    inputs = LossInputs(*arguments)
    if inputs.key is None:
        inputs = inputs._replace(key=jax.random.key(0))
    loss = method.loss(inputs)
    return loss.value, loss
