"""`python -m testbed.cluster.kubelet.simulator`: the simulated model server with the options of
llm-d-inference-sim."""

import argparse
import os
import sys


def main() -> None:
    """Become the model server, at all addresses."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=8000)
    options, _ = parser.parse_known_args()
    command = ["-m", "testbed.model_server", "--listen", f"0.0.0.0:{options.port}"]
    os.execv(sys.executable, [sys.executable, *command])


if __name__ == "__main__":
    main()
