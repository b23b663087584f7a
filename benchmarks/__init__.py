"""What the sidecar costs, side by side with what it replaces: `make bench`."""
