"""Luthier: a Kubernetes operator that fine-tunes, evaluates and rolls out language models."""

__version__ = "0.1.0"
