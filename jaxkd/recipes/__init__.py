"""Configuration building blocks that several files of ``configs/`` share."""
