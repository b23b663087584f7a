"""Address and credentials of the API server: from the Pod's ServiceAccount, or a kubeconfig.

kubernetes_asyncio reads all of it: tokens and their files, exec plugins, OIDC, certificates, contexts,
proxies.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import yaml
from kubernetes_asyncio.client.configuration import Configuration
from kubernetes_asyncio.config import load_incluster_config, load_kube_config
from kubernetes_asyncio.config.config_exception import ConfigException
from kubernetes_asyncio.config.incluster_config import SERVICE_HOST_ENV_NAME

from epp_client.errors import SettingsError

MAX_REASON = 200
"""Characters of the library's error text that we repeat."""


@dataclass(frozen=True, slots=True)
class Access:
    """The user's choice of configuration. Default: the Pod's ServiceAccount, else the usual kubeconfig."""

    kubeconfig: Path | None = None
    context: str | None = None

    @property
    def in_cluster(self) -> bool:
        """Whether the Pod's ServiceAccount is used."""
        given = self.kubeconfig is not None or self.context is not None
        return not given and SERVICE_HOST_ENV_NAME in os.environ

    async def load(self) -> Configuration:
        """Read the configuration. Its tokens may have changed since the last time.

        Raises:
            SettingsError: it cannot be read, or is incomplete. The text never quotes a credential.
        """
        configuration = Configuration()
        try:
            if self.in_cluster:
                load_incluster_config(configuration)  # type: ignore[no-untyped-call]
            else:
                file = None if self.kubeconfig is None else str(self._file())
                await load_kube_config(file, self.context, configuration)
        except (ConfigException, OSError) as error:
            # Only the first line: the library logs the output of a plugin itself.
            reason = (str(error).splitlines() or [""])[0][:MAX_REASON]
            raise SettingsError(f"{self}: {reason or type(error).__name__}") from error
        except (yaml.YAMLError, LookupError, TypeError, ValueError, AttributeError) as error:
            text = f"{self}: not a usable kubeconfig ({type(error).__name__})"
            # A YAML error quotes the line, which may be a token.
            raise SettingsError(text) from None
        # No limit, as every watch holds a connection.
        configuration.connection_pool_maxsize = 0
        return configuration

    def _file(self) -> Path:
        assert self.kubeconfig is not None
        if not self.kubeconfig.is_file():
            raise ConfigException("no such file")
        return self.kubeconfig

    def __str__(self) -> str:
        if self.in_cluster:
            return "the Pod's ServiceAccount"
        context = f" context {self.context}" if self.context else ""
        return f"kubeconfig {self._path}{context}"

    @property
    def _path(self) -> str:
        return str(self.kubeconfig or os.environ.get("KUBECONFIG", "~/.kube/config"))

    def without_path(self, text: str) -> str:
        """`text` without the path of the kubeconfig, for pages that must not show it."""
        return text.replace(self._path, "file")


def tls_files(configuration: Configuration) -> tuple[tuple[str, int] | None, ...]:
    """File names and modification times of the CA, certificate and key, to detect their change."""
    return tuple(
        (str(file), os.stat(file).st_mtime_ns) if file else None
        for file in (configuration.ssl_ca_cert, configuration.cert_file, configuration.key_file)
    )
