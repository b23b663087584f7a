"""What `epp-client init` writes: an example to run and then to change."""
