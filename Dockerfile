# Build stage: the same commands a developer runs.
FROM rust:1.95-bookworm AS build
WORKDIR /build
COPY Cargo.toml Cargo.lock proxy.toml ./
COPY src ./src
# jemalloc learns the size of a page here: for a kernel with larger ones than this machine's (64 KiB on some ARM servers)
# build with JEMALLOC_SYS_WITH_LG_PAGE=16.
ARG JEMALLOC_SYS_WITH_LG_PAGE
# Tests and benchmarks are not part of the image; cargo wants to see their files named in Cargo.toml.
RUN mkdir -p tests/it benches && touch tests/it/main.rs benches/micro.rs \
 && cargo build --release --locked --bin weigate \
 && strip target/release/weigate \
 && mkdir -p /state && chmod 700 /state

# Run stage: glibc, certificates and nothing to run but weigate.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /build/target/release/weigate /usr/local/bin/weigate
COPY --from=build --chown=65532:65532 /state /state
USER 65532:65532
# Held bodies go to unlinked files here, so the root file system may be read-only.
ENV TMPDIR=/state
ENV WEIGATE_CONFIG=/etc/weigate/proxy.toml
VOLUME /state
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=6s --start-period=20s CMD ["/usr/local/bin/weigate", "health"]
ENTRYPOINT ["/usr/local/bin/weigate"]
CMD ["serve"]
