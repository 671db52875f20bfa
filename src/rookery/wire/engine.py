# SPDX-License-Identifier: Apache-2.0
"""How the swarm engine is set, on the head and on the nodes: every setting that differs from libtorrent's own, and why.

Pure data: names and values of libtorrent's settings_pack (https://www.libtorrent.org/reference-Settings.html), applied
by head/swarm and node/fetch. The measurements that justify them were made in network namespaces on one bridge: 128 MB
of random bytes, N nodes starting together, links of 100 Mbit/s shaped both ways, ideal 10.7 s. "copies" are the bytes
that the head sent divided by the size.
"""

from __future__ import annotations

from dataclasses import dataclass

Value = bool | int | str

HEAD_PORT = 8471  # BitTorrent on the head (TCP), unless rookery.toml says otherwise
NODE_PORT = 8472  # BitTorrent on a node (TCP); the next free one when it is taken
BLOCK = 16 * 1024  # bytes asked for at a time: fixed by BEP 3 as practised and BEP 52
HEAD_QUEUE = 48  # requests of one node that wait at the head
NODE_QUEUE = 96  # requests of one node that wait at another
NEIGHBOURS = 16  # peers that the tracker hands to one caller in a swarm above FULL_MESH
FROM_OTHER_RACKS = 2  # of these, when the caller's own rack has enough: few bytes cross the uplinks of racks
FULL_MESH = 32  # up to this many, everybody learns of everybody

# The peer class filter's ranges: all of them are in the one class that the caps below hold for.
EVERY_ADDRESS = (("0.0.0.0", "255.255.255.255"), ("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"))  # noqa: S104


@dataclass(frozen=True)
class Setting:
    """One setting. name and value as in settings_pack. why: what was measured, or what it would do otherwise."""

    name: str
    value: Value
    why: str


COMMON = (
    # -- transport: plain TCP to peers that the tracker named, nothing else
    Setting("enable_outgoing_utp", False, "one node, 2 GiB, unshaped: 76.5 s with uTP, 3.9 s without"),
    Setting("enable_incoming_utp", False, "as above; the largest single switch there is"),
    Setting("mixed_mode_algorithm", 0, "prefer_tcp: do not throttle TCP in favour of uTP, which is off"),
    Setting("enable_dht", False, "private swarms: whom to meet is the tracker's decision"),
    Setting("enable_lsd", False, "as above; multicast from every node of a cluster besides"),
    Setting("enable_upnp", False, "no routers to open between a head and its nodes"),
    Setting("enable_natpmp", False, "as above"),
    Setting("in_enc_policy", 2, "pe_disabled: obfuscation costs processor time and protects nothing; digests do"),
    Setting("out_enc_policy", 2, "as above, and a refused try costs a second connection"),
    # -- connections: all at once, and never given up
    Setting("connection_speed", 500, "connections begun per second; 30 by default, a swarm that starts together waits"),
    Setting("torrent_connect_boost", 200, "begun at once when the tracker answers, without the tick's wait"),
    Setting("smooth_connects", False, "no artificial delay between connects"),
    Setting("min_reconnect_time", 1, "s; with the next one it ended the 60 s stragglers: 5 of 18 runs before, 0 of 10"),
    Setting("close_redundant_connections", False, "a node at 99.9 % had no peers left: both sides had hung up on it"),
    Setting("max_failcount", 1000, "a head that is restarted is tried again for as long as it takes"),
    Setting("connections_limit", 8000, "200 by default; the file descriptor limit bounds it anyway"),
    Setting("allow_multiple_connections_per_ip", True, "several fetches behind one address (NAT, containers)"),
    # -- tracker
    Setting("min_announce_interval", 1, "s; 300 by default: a restarted tracker would stay empty"),
    Setting("tracker_backoff", 0, "percent; with 250 a first announce that fails is repeated only after 17.5 s"),
    # -- requests: short queues let nodes trade early
    Setting(
        "max_out_request_queue",
        HEAD_QUEUE,
        "only until a peer's handshake says how many it takes (BEP 10, `reqq`), which then counts instead, whatever is"
        " set here: the other side's max_allowed_in_request_queue decides",
    ),
    Setting("request_queue_time", 1, "s of transfer kept asked for, within the queue"),
    Setting(
        "whole_pieces_threshold", 0, "16 nodes: 20.7 s with its default of 20, 16.2 s without; pieces may be shared"
    ),
    Setting("allowed_fast_set_size", 0, "no pieces handed to choked peers: they would be the same for all of them"),
    Setting(
        "predictive_piece_announce", 50, "ms; announce a piece that early: 4 and 16 nodes both at 1.12 copies with it"
    ),
    Setting("strict_end_game_mode", True, "off: 218 MB sent twice"),
    # -- giving: no silent slots; who gets how much is capped openly
    Setting("unchoke_slots_limit", -1, "8 by default, shared out every 15 s: the ninth node would wait"),
    # -- disk: a piece counts, and is told to others, when it is written and digested
    Setting(
        "max_queued_disk_bytes",
        1 << 20,
        "100 MB by default: a node slower than its network holds most of the file there unwritten, and has nothing to"
        " give. Three nodes held to 20 % of a processor, 72 MB, long request queues: 1.7 s with this, 2.4 s without",
    ),
    Setting("send_buffer_low_watermark", 1 << 20, "bytes; keeps a shaped link busy between two disk reads"),
    Setting("send_buffer_watermark", 4 << 20, "bytes, as above"),
    Setting("send_buffer_watermark_factor", 150, "percent of the peer's rate, as above"),
    Setting(
        "peer_dscp",
        4,
        "marks what goes out as background traffic (DSCP LE, RFC 8622): 2.1 writes the value into the header's byte"
        " as it is, in which LE is 4, so that its default of 1 marks nothing",
    ),
    # -- ourselves
    Setting(
        "alert_queue_size", 1 << 18, "a block is one alert, and the exact account of who gave what is made of them"
    ),
    Setting("user_agent", "rookery", "what trackers and peers are told"),
)

HEAD_FINGERPRINT = "-RH0100-"
NODE_FINGERPRINT = "-RN0100-"

HEAD = (
    Setting(
        "max_allowed_in_request_queue",
        HEAD_QUEUE,
        "2000 by default: nodes that are slower than the head ask it for everything before they know what others have."
        " Three nodes held to 10 % of a processor, unshaped: 2.86 copies, 1.22 with this and NODE_QUEUE. Shorter costs"
        " a lone node: at 1 Gbit/s 250 MB took 2.4 to 2.6 s with 48 and 2.4 s with 2000, 2.8 to 4.9 s with 32, 5.0 s"
        " with 16",
    ),
    Setting(
        "peer_fingerprint", HEAD_FINGERPRINT, "the first bytes of the peer id (BEP 20): statistics know the head by it"
    ),
    Setting("seeding_outgoing_connections", False, "nodes connect to the head: it tries no dead ones"),
    Setting("active_limit", -1, "every published version is given at once; 500 by default"),
    Setting("active_seeds", -1, "as above; 5 by default"),
    Setting("file_pool_size", 256, "blobs kept open"),
    Setting("listen_queue_size", 1000, "a whole cluster connects within one second; 5 by default"),
    Setting("max_retry_port_bind", 0, "the port is in orders and firewalls: in use is an error, not the next one"),
    Setting("listen_system_port_fallback", False, "as above"),
    Setting("tick_interval", 100, "ms; rate caps are kept in finer steps than 500"),
)

NODE = (
    Setting(
        "max_allowed_in_request_queue",
        NODE_QUEUE,
        "longer than the head's, so that more is asked of peers: as long or shorter, the same nodes took 1.8 to 2.3"
        " copies",
    ),
    Setting("peer_fingerprint", NODE_FINGERPRINT, "as on the head"),
    Setting("tick_interval", 100, "ms; a peer is connected on the next tick: 0.5 s of silence at the start with 500"),
    Setting("max_retry_port_bind", 100, "ports tried above NODE_PORT when it is taken"),
    Setting("listen_queue_size", 200, "neighbours connect within one second; 5 by default"),
    Setting("stop_tracker_timeout", 1, "s; a node that leaves does not wait long to say so"),
)


def head_settings(address: str, port: int, rate: int = 0) -> dict[str, Value]:
    """Settings of the head's seeder. address: to listen on (`0.0.0.0`: all). rate: cap, bytes per second, 0 none."""
    return _settings(COMMON, HEAD) | {"listen_interfaces": _listen(address, port), "upload_rate_limit": rate}


def node_settings(address: str = "0.0.0.0", port: int = NODE_PORT, rate: int = 0) -> dict[str, Value]:  # noqa: S104
    """The settings of a node. rate: cap on what it gives, bytes per second, 0 none."""
    return _settings(COMMON, NODE) | {"listen_interfaces": _listen(address, port), "upload_rate_limit": rate}


def _settings(*groups: tuple[Setting, ...]) -> dict[str, Value]:
    return {setting.name: setting.value for group in groups for setting in group}


def _listen(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
