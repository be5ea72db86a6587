"""What the door bounds: each limit with its unit last and its reason beside it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class GatewayConfig:
    in_flight_max: int = 512
    """Requests at once, of all clients; beyond it 429. Health and metrics are always answered."""
    connections_max: int = 4_096
    """Open sockets, idle ones too: well under the usual limit of file descriptors."""
    connections_per_address_max: int = 4_096
    """Of one address, which may be a proxy's with everybody behind it: all of them, unless a door is for few."""
    head_bytes_max: int = 32_768
    """Request line and headers: what common proxies allow."""
    head_timeout_s: float = 10.0
    """From the first byte of a request to the end of its headers; a slower client is holding a socket, not asking."""
    request_bytes_max: int = 8 * 1024 * 1024
    """A million tokens of text, or some images."""
    body_timeout_s: float = 30.0
    """For the whole body: 8 MiB at 280 kB/s."""
    write_timeout_s: float = 60.0
    """How long one write waits for a client that has stopped reading, before its request is cancelled."""
    response_bytes_max: int = 64 * 1024 * 1024
    """Of an answer held whole; a streamed one is never held."""
    repeat_kept_s: float = 600.0
    """How long a delivered answer stands for its Idempotency-Key: longer than any client's own repeats go on."""
    repeat_bytes_max: int = 4 * 1024 * 1024
    """Of one answer that is kept for repeats: some 16,000 streamed tokens. Of a longer one only the sale is kept."""
    repeats_bytes_max: int = 64 * 1024 * 1024
    """Of all answers that are kept; beyond it the oldest are forgotten before their time."""
    repeats_max: int = 65_536
    """Names that are kept, at some 300 bytes each; beyond it the oldest are forgotten before their time."""
    tokenize_per_s: int = 20
    """Texts that one key may have tokenized for nothing: enough for an interactive count, no load for anybody."""
    output_tokens_default: int = 512
    """What each choice is bounded by when several are asked for without a maximum; the node's own default for one."""
    shutdown_timeout_s: int = 5
    """How long a stopping server waits for answers in flight."""
