# syntax=docker/dockerfile:1

# glibc of bookworm, as in the final image.
FROM rust:1.95-slim-bookworm AS build
WORKDIR /build

# Dependencies first, against empty sources: this layer is built again only when Cargo.toml or Cargo.lock change.
COPY Cargo.toml Cargo.lock ./
RUN mkdir -p src tests benches \
    && touch src/lib.rs tests/main.rs \
    && echo 'fn main() {}' > src/main.rs \
    && cargo build --release --locked --bin tidegate \
    && rm -r src

COPY src src
# The empty sources are newer than those from the host; without this cargo would believe that nothing has changed.
RUN touch src/lib.rs src/main.rs \
    && cargo build --release --locked --bin tidegate \
    && install -D target/release/tidegate /out/usr/local/bin/tidegate \
    && mkdir -p /out/etc/tidegate /out/var/lib/tidegate

# glibc and libgcc, certificates, a user; no shell, no package manager.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /out/usr/local/bin/tidegate /usr/local/bin/tidegate
COPY --from=build /out/etc/tidegate /etc/tidegate
# For `state_dir`: the user of the image has to be able to write there.
COPY --from=build --chown=65532:65532 /out/var/lib/tidegate /var/lib/tidegate
USER 65532:65532

# Traffic; the admin side stays on loopback inside the container. Ports below 1024 would need CAP_NET_BIND_SERVICE.
EXPOSE 8080
# Without a shell: the binary asks its own admin side (TIDEGATE_ADMIN, if it is not http://127.0.0.1:9901).
HEALTHCHECK --interval=5s --timeout=2s --start-period=5s --retries=3 CMD ["/usr/local/bin/tidegate", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/tidegate"]
CMD ["run", "-c", "/etc/tidegate/tidegate.yaml"]
