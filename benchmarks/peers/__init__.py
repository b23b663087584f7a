"""The picker, the upstream and the client of a benchmark: as cheap as we can make them, a process each."""
