"""Figures, each a ratio of two things measured in turn within one run: machines are noisy, absolute times mean nothing.

    python -m tests.bench [name ...]

harness   alternating pairs, medians of ratios, one JSON object a figure, the table
"""
