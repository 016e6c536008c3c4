"""Bytes in motion: producers, growing files, the sendfile transport, disk threads."""
