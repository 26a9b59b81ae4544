"""Data preparation and training: `python -m luthier_trainer prepare|train|report`."""
