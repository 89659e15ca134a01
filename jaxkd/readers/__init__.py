"""Readers of file formats: images, masks, CT scans, lists of pairs."""
