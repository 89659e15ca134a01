"""Procedural pictures and sounds, seeded, for checks that need no download."""
