"""Isolation of untrusted programs, from fork server to system-call filter."""
