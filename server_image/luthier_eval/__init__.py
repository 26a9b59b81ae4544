"""Evaluation: an OpenAI client that judges a served model and its baselines on the same cases."""
