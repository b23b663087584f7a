"""A kubelet for one machine without a container runtime: containers are local processes.

Each Pod has a network namespace with an address on a bridge; each container has a root file system, a PID
namespace, and the user of its `securityContext`. There are no limits of CPU and memory, no seccomp, no logs
and no exec over the API. Ports are forwarded.
"""
