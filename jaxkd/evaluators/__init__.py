"""Evaluators: metrics, tables and figures computed once after training, by task."""
