"""FineTuneJob: prepare, train, publish."""
