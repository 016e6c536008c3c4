"""What operators see: health and metrics."""
