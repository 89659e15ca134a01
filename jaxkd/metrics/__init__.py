"""Metrics of whole test sets, on the host: NumPy arrays in, numbers out.

What is a mean over examples is measured by the methods themselves; here is what needs
all examples at once. Nothing is imported before it is asked for.
"""
