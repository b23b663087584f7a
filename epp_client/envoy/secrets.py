"""Envoy's Secrets as bytes, for SDS. Pure."""

from epp_client.envoy.pb.routes_pb2 import DataSource, Secret, TlsCertificate
from epp_client.gateway.table import Certificate, SecretName


def secret_name(secret: SecretName) -> str:
    """Name of the SDS resource: `secret/<namespace>/<name>`."""
    return f"secret/{secret.namespace}/{secret.name}"


def serialized_secret(name: SecretName, certificate: Certificate) -> bytes:
    """The Secret with its certificate chain and key."""
    return Secret(
        name=secret_name(name),
        tls_certificate=TlsCertificate(
            certificate_chain=DataSource(inline_bytes=certificate.chain),
            private_key=DataSource(inline_bytes=certificate.key),
        ),
    ).SerializeToString()
