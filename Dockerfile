# The images of docker-compose.yml: `docker build --target agent .`, and so on for hub and broker.
#
# All run as user 10001 and write nothing outside their volumes, so their root file systems can be read-only. A directory
# that a named volume is mounted on exists here with its owner: an empty volume takes that over.

ARG PYTHON=python:3.13-slim-bookworm
ARG MOSQUITTO=eclipse-mosquitto:2

# ── the broker, and the script that makes its users ────────────────────────────────────────────────────────────────

FROM ${MOSQUITTO} AS broker
USER root
COPY mosquitto/mosquitto.conf mosquitto/acl /mosquitto/config/
COPY mosquitto/credentials /usr/local/bin/credentials
RUN mkdir -p /secrets/broker /secrets/hub /secrets/watcher /secrets/devices/agent-a /secrets/devices/agent-b \
    && chown -R 10001:10001 /secrets \
    && chmod -R go= /secrets/* \
    && chmod 644 /mosquitto/config/mosquitto.conf /mosquitto/config/acl \
    && chmod 755 /usr/local/bin/credentials
ENV TIDEWIRE_SECRETS=/secrets
USER 10001:10001
EXPOSE 1883
CMD ["/usr/sbin/mosquitto", "-c", "/mosquitto/config/mosquitto.conf"]

# ── the wheel: the same for agent and hub ──────────────────────────────────────────────────────────────────────────

FROM ${PYTHON} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY requirements/build.txt requirements/
RUN python3 -m venv /opt/build && /opt/build/bin/pip install --require-hashes -r requirements/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY schemas schemas
COPY link link
COPY agent agent
COPY hub hub
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels .

# ── what both run on ───────────────────────────────────────────────────────────────────────────────────────────────

FROM ${PYTHON} AS base
RUN groupadd --gid 10001 tidewire \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin tidewire \
    && install -d -o 10001 -g 10001 -m 700 /data
# Temporary files, of SQLite too, may grow with the data: they go to its volume, /tmp is small.
ENV PATH=/opt/tidewire/bin:$PATH TMPDIR=/data PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /data

# ── the agent ──────────────────────────────────────────────────────────────────────────────────────────────────────

FROM build AS agent-build
COPY requirements/agent.txt requirements/
RUN python3 -m venv /opt/tidewire \
    && /opt/tidewire/bin/pip install --require-hashes -r requirements/agent.txt \
    && /opt/tidewire/bin/pip install --no-deps /wheels/*.whl \
    && /opt/tidewire/bin/pip uninstall --yes pip

FROM base AS agent
# The sqlite3 program is for people: `docker-compose exec agent-a sqlite3 edge.db`.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends sqlite3 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=agent-build /opt/tidewire /opt/tidewire
USER 10001:10001
ENTRYPOINT ["tidewire-agent"]
CMD ["run"]

# ── the hub ────────────────────────────────────────────────────────────────────────────────────────────────────────

FROM build AS hub-build
COPY requirements/hub.txt requirements/
RUN python3 -m venv /opt/tidewire \
    && /opt/tidewire/bin/pip install --require-hashes -r requirements/hub.txt \
    && /opt/tidewire/bin/pip install --no-deps /wheels/*.whl \
    && /opt/tidewire/bin/pip uninstall --yes pip

FROM base AS hub
COPY --from=hub-build /opt/tidewire /opt/tidewire
USER 10001:10001
EXPOSE 8080
ENTRYPOINT ["tidewire-hub"]
CMD ["run"]
