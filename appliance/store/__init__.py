"""Blobs by digest on disk."""
