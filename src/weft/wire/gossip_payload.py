"""What a member tells of itself, as gossip carries it: its HELLO, deflated (RFC 1951). Called by `discovery/gossip.py`.

All HELLOs look alike, so that they are deflated against one that is known beforehand: a usual one takes some 150 octets
in place of 500, and goes along with the news of it in one datagram.
"""

from __future__ import annotations

import zlib

from weft.errors import WireError
from weft.model import Node
from weft.wire.hello import Stamp
from weft.wire.router import encode_hello, read_node

LONGEST = 2 << 20
"""Octets of a HELLO: some 20,000 subnets."""
MOST = 256 << 10
"""Octets of it deflated."""
SOURCE = "gossip"

# A part of the format: bytes that must stay as they are, whatever a later HELLO looks like.
_DICTIONARY = (
    b'10.0.1.192.168.100.172.20.0.0/16fd00:0123456789abcdef{"type":"HELLO","version":1,"peer_id":"stack-a","host_ip":"10'
    b'.0.1.5","vxlan_ip":"192.168.100.1","vni":1000,"stack_name":"stack-a","networks":["172.20.0.0/16","172.21.0.0/16"],'
    b'"weft":{"instance":"0123456789abcdef.18bcfe56800","epoch":1700000000000,"seq":1,"part":1,"parts":1,"query":false,"s'
    b'oftware":"0.1.0","endpoints":["10.0.1.5"],"port":4789,"mac":"82:3d:cd:46:bc:78","backend":"vxlan","mtu":1500,"over'
    b'lay":["192.168.100.1"],"named":[{"name":"internal","since":1700000000.0,"subnets":1,"more":false},{"name":"default"'
    b',"since":null,"subnets":1,"more":false}],"stack":true}}'
)


def pack(me: Node, stamp: Stamp) -> bytes:
    """What the others are to know of this node; exposed networks only. WireError if nobody could believe it, or if it
    is larger than anybody takes."""
    bodies = encode_hello(me, stamp)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15, zdict=_DICTIONARY)
    packed = packer.compress(bodies[0]) + packer.flush()
    if len(bodies) > 1 or len(bodies[0]) > LONGEST or len(packed) > MOST:
        raise WireError(
            f"{me.id} can't be announced: its {len(me.networks)} networks take {len(packed)} octets, and {MOST} is the "
            f"limit; expose fewer networks"
        )
    return packed


def unpack(payload: bytes) -> Node:
    """The node. WireError if it is no HELLO of weft's, or a larger one than anybody sends."""
    unpacker = zlib.decompressobj(-15, zdict=_DICTIONARY)
    try:
        body = unpacker.decompress(payload, LONGEST)
    except zlib.error as error:
        raise WireError(f"{len(payload)} octets are no deflated HELLO: {error}") from error
    if not unpacker.eof or unpacker.unused_data:
        raise WireError(f"{len(payload)} octets are no deflated HELLO, or one of more than {LONGEST} octets")
    return read_node(body, SOURCE)
