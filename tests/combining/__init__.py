"""Several adapters on one module."""
