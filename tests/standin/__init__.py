"""A stand-in for the serving image in fast tests: no model, our real middleware. A test tool, never shipped."""
