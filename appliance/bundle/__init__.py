"""Archives across the gap: exported where there is a network, imported where there is none."""
