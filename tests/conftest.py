"""Set before anything imports grpcio: tests start child processes beside its threads."""

import os

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")

# A tier of its own, which needs more than Python: `make test-cluster`.
collect_ignore = [] if "EPP_CLIENT_TEST_CLUSTER" in os.environ else ["cluster"]
