"""The native interface, /api/v1."""
