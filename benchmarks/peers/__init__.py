"""The picker, the upstream and the client of the benchmark, as cheap as possible, each a process."""
