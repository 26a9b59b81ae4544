"""What is looked for in training rows: pure functions and small counters, no torch, no files.

`collector` runs them all in one pass and turns what they count into findings. Memory holds hashes and numbers per row,
never its text.
"""
