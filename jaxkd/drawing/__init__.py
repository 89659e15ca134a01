"""Procedural pictures and sounds, drawn on demand: nothing to download."""
