"""The schemas package."""
