"""The OCI specifications' values: digests, names, manifests, ranges. Pure, no I/O."""
