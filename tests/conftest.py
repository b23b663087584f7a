"""Set before anything imports grpcio: tests start child processes beside its threads."""

import os

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
