"""Choosing and caching tokens: sampling, key/value cache, the decoding loop."""
