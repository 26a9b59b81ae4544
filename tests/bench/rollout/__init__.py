"""What a rollout costs the people behind the gateway, on a real node: `python -m bench.rollout`."""
