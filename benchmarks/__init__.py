"""Measurements of speed; see README.md. Not part of the installed package."""
