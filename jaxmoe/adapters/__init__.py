"""Adapter folders in and out, one file a format."""
