"""The official suites: their programs, and how they are told what to run and where to report. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from epp_client.gateway.features import SUPPORTED
from epp_client.version import VERSION

GATEWAY_CLASS = "epp-client"


@dataclass(frozen=True)
class Suite:
    """A suite."""

    name: str
    program: str
    """Of `testbed.cluster.binaries`."""
    version: str
    profile: str
    tests: int
    """How many tests it has without extended features."""
    features: Sequence[str] = ()
    """Features that are declared, in the place of those in the GatewayClass's status. Tests of extended
    features run only if they are declared."""

    @property
    def report(self) -> str:
        """The name of its report."""
        return f"{self.name}-{self.version}.yaml"

    def flags(
        self, *, report: Path | None = None, run: str = "", more: Sequence[str] = ()
    ) -> list[str]:
        """The flags of its program. `run` is one test, by its short name."""
        flags = [
            # Without test2json, results of tests come at the end of all.
            "-test.v=test2json",
            # The package has tests of its own.
            "-test.run=^TestConformance$",
            # Gateway API's suite would run GatewaySecretMissingReferenceGrant beside
            # GatewaySecretReferenceGrantSpecific, which grants what must be missing.
            "-test.parallel=1",
            "-test.timeout=60m",
            f"-gateway-class={GATEWAY_CLASS}",
            f"-conformance-profiles={self.profile}",
            "-organization=epp-client",
            "-project=epp-client",
            "-url=https://epp-client.dev",
            f"-version={VERSION}",
            "-contact=see SECURITY.md of the repository",
            "-mode=default",
        ]
        if self.features:
            flags.append(f"-supported-features={','.join(self.features)}")
        if report is not None:
            flags.append(f"-report-output={report}")
        if run:
            flags.append(f"-run-test={run}")
        return [*flags, *more]


SUITES = (
    Suite("gaie", "gaie.test", "v1.6.0", "Gateway", 14),
    Suite("gateway-http", "gateway-api.test", "v1.6.1", "GATEWAY-HTTP", 37, SUPPORTED),
)
"""The Inference Extension's suite, and the core of HTTP of Gateway API's."""
