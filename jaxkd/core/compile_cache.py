"""Keeps compiled programs on disk, so that running again starts at once."""

import jax

from jaxkd.core import files


def enable() -> None:
    """Turns the persistent compile cache on, in ``~/.cache/jaxkd`` unless told where.

    JAX_COMPILATION_CACHE_DIR, or ``jax_compilation_cache_dir`` if the program has set
    it, chooses the folder, which may be in a bucket.
    """
    if not jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        jax.config.update("jax_compilation_cache_dir", str(files.user_cache()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
