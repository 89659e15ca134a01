"""Knowledge distillation and its neighbours in JAX. Importing this loads nothing."""

__version__ = "0.1.0"
