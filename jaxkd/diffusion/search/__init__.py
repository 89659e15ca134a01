"""Searches for sampling schedules: dynamic programming and least squares."""
