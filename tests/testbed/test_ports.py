"""Ports of tests that run side by side."""

import socket
import subprocess
import sys
from pathlib import Path

from testbed.ports import free_ports


def test_no_port_is_given_twice_by_processes_that_run_side_by_side() -> None:
    ask = "from testbed.ports import free_ports; print(*free_ports(2000), flush=True); input()"
    command = [sys.executable, "-c", ask]
    others = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    try:
        given = free_ports(100)
        for other in others:
            assert other.stdout is not None
            given += map(int, other.stdout.readline().split())
    finally:
        for other in others:
            other.communicate("\n")
    assert len(set(given)) == len(given) == 6100


def test_a_port_is_free_at_each_address_and_no_connection_gets_it() -> None:
    [port] = free_ports(1)
    assert port < int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for host in ("127.0.0.1", "127.0.0.11", ""):
        with socket.socket() as listener:
            listener.bind((host, port))
