"""A ModelDeployment on a real node: real operator, gateway, Prometheus and middleware; the engine is the stand-in.

For end-to-end tests of serving and for benches: revisions start in seconds and behave as their weights say.
"""
