"""What the examples of a made-up data set hold, for tests of methods."""

import jax
import jax.numpy as jnp


def fields(shape, **more):
    """Returns the fields of an example with an image of a shape."""
    image = jax.ShapeDtypeStruct(shape, jnp.float32)
    return {"image": image, "label": jax.ShapeDtypeStruct((), jnp.int32), **more}
