"""Choosing and caching tokens: sampling, key/value cache, decoding loop."""
