"""Rule 1: an event happens completely or not at all, wherever it is interrupted."""
