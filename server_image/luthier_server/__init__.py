"""Serving: vLLM's OpenAI server with counters per revision and a readiness that generates."""
