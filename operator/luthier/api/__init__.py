"""The API: three kinds as pydantic models, generated into CRDs."""
