"""Measures whether steering helped: tasks, answer scoring, and paired statistics."""
