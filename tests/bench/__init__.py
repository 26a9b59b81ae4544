"""Measurements: each folder is one command that prints one table, with the machine it ran on."""
