"""Set before anything imports grpcio: tests start child processes beside its threads."""

import os

from hypothesis import settings

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")

# Tiers of their own: `make test-cluster` needs more than Python, `make test-slow` waits for minutes.
_TIERS = {"cluster": "EPP_CLIENT_TEST_CLUSTER", "slow": "EPP_CLIENT_TEST_SLOW"}
collect_ignore = [folder for folder, switch in _TIERS.items() if switch not in os.environ]

# A busy machine is no bug: what takes too long meets the test's own timeout.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")
