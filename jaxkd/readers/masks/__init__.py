"""Readers of tamper masks and of their pairing with images."""
