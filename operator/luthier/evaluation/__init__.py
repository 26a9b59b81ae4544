"""Evaluation: one Job judges the weights against baselines."""
