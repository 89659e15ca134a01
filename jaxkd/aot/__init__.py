"""Ahead-of-time compilation of a training step: memory, FLOPs, collectives."""
