#!/bin/sh
# Makes the bridge br0 in the subnet that flanneld leased for this host, and network namespaces on it as containers.
#
#   bridge.sh con_a con_b       con_a gets the first address after the bridge's own, con_b the next one
#
# It may be run again at any time: what is right stays, a new lease renumbers what is there.
# The container's file system, processes and limits are somebody else's business: these have a network and no more.
set -eu

subnet_env=${SUBNET_ENV:-/run/flannel/subnet.env}
bridge=${BRIDGE:-br0}

die() {
    echo "bridge.sh: $*" >&2
    exit 1
}

# assign DEVICE ADDRESS [NAMESPACE]: this IPv4 address, and no other one.
assign() {
    for old in $(ip ${3:+-n "$3"} -4 -o address show dev "$1" | awk '{ print $4 }'); do
        [ "$old" = "$2" ] || ip ${3:+-n "$3"} address delete "$old" dev "$1"
    done
    ip ${3:+-n "$3"} address replace "$2" dev "$1"
}

# container NAME ADDRESS: a namespace of that name with a cable to the bridge.
container() {
    [ -e "/run/netns/$1" ] || ip netns add "$1"
    ip -n "$1" link set lo up
    if ! ip -n "$1" link show dev eth0 >/dev/null 2>&1; then
        ip link add "veth-$1" mtu "$FLANNEL_MTU" type veth peer name eth0 mtu "$FLANNEL_MTU" netns "$1"
    fi
    ip link set "veth-$1" mtu "$FLANNEL_MTU" master "$bridge" up
    ip -n "$1" link set eth0 mtu "$FLANNEL_MTU" up
    assign eth0 "$2" "$1"
    ip -n "$1" route replace default via "$gateway"
}

[ $# -gt 0 ] || die "which containers? usage: bridge.sh NAME..."
for name; do
    [ "${#name}" -le 10 ] || die "$name: at most 10 characters, veth-$name is to be an interface"
done
[ -r "$subnet_env" ] || die "$subnet_env is not there: does flanneld run, and has it a lease?"
# shellcheck source=/dev/null
. "$subnet_env"
: "${FLANNEL_SUBNET:?is not in $subnet_env}" "${FLANNEL_MTU:?is not in $subnet_env}"

gateway=${FLANNEL_SUBNET%/*}
length=${FLANNEL_SUBNET#*/}

ip link show dev "$bridge" >/dev/null 2>&1 || ip link add "$bridge" type bridge
ip link set "$bridge" mtu "$FLANNEL_MTU" up
assign "$bridge" "$FLANNEL_SUBNET"
sysctl -q -w net.ipv4.ip_forward=1

last=${gateway##*.}
for name; do
    last=$((last + 1))
    container "$name" "${gateway%.*}.$last/$length"
done
