#!/bin/sh
# Puts flannel's network config into etcd, unless one is there already: running hosts live by it.
#
#   config.sh FILE [PREFIX]     FILE: JSON; PREFIX: /coreos.com/network
set -eu

file=${1:?usage: config.sh FILE [PREFIX]}
key=${2:-/coreos.com/network}/config
export ETCDCTL_API=3

tries=30
until etcdctl endpoint health >/dev/null 2>&1; do
    tries=$((tries - 1))
    [ "$tries" -gt 0 ] || { echo "config.sh: etcd does not answer: systemctl status etcd" >&2; exit 1; }
    sleep 1
done

there=$(etcdctl get --print-value-only "$key")
if [ -z "$there" ]; then
    etcdctl put "$key" <"$file"
elif [ "$there" != "$(cat "$file")" ]; then
    echo "config.sh: $key is there already and is left as it is: $there" >&2
fi
