# Plenum's server. By itself it keeps a Postgres cluster of its own in /var/lib/plenum; with DATABASE_URL it uses yours.

FROM node:22-bookworm-slim AS web
WORKDIR /plenum/web
COPY web/package.json web/package-lock.json web/.npmrc ./
COPY web/meeting/package.json meeting/
RUN npm ci
COPY web ./
RUN npm run build

FROM rust:1.95-bookworm AS server
WORKDIR /plenum
COPY . .
COPY --from=web /plenum/web/dist web/dist
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/plenum/target \
    cargo build --release --locked --bin plenum \
    && cp target/release/plenum /usr/local/bin/

FROM debian:bookworm-slim
# Debian's package would set up a cluster of its own, which nobody here uses.
RUN mkdir -p /etc/postgresql-common/createcluster.d \
    && echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.d/plenum.conf \
    && apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates curl postgresql-15 tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --create-home --home-dir /var/lib/plenum --shell /usr/sbin/nologin plenum
COPY --from=server /usr/local/bin/plenum /usr/local/bin/plenum
# Postgres does not run as root, and needs its user to have a name.
USER plenum
WORKDIR /var/lib/plenum
ENV PLENUM_BIND=0.0.0.0:8080 \
    PLENUM_DATA_DIR=/var/lib/plenum \
    PLENUM_MEDIA_PORT_BASE=40000 \
    PLENUM_MEDIA_BIND=0.0.0.0
VOLUME /var/lib/plenum
EXPOSE 8080/tcp 40000/udp
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["curl", "--fail", "--silent", "--output", "/dev/null", "http://127.0.0.1:8080/ready"]
# tini waits for processes whose parent is gone, which a restart of Postgres relies on.
ENTRYPOINT ["tini", "--", "plenum"]
CMD ["serve"]
