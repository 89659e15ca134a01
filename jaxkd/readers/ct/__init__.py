"""Readers of CT scans: DICOM series, NIfTI files and slices."""
