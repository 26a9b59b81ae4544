"""Faults between the operator and a real API server: rules (what), proxy (where), lives (what is disturbed), crash."""
