"""What the operator costs at the size of a fleet: memory, and processor time for each object of a start."""
