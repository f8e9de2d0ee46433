"""Hosts as network namespaces: try a topology, break it, and see what weft does, on one machine.

    schema ─► topology ─► wiring          pure: a file (fields, daemons, underlay), what it means, the `ip` lines for it
                 ▼           ▼
    lab ─► host ─► services               the processes: an init per host; in it etcd, Docker Engine, the daemons
     │               ├─► tunnels          wireguard-go at both ends
     │               ├─► engine, image    Docker's networks and containers
     │               └─► etcd, leases     flannel's config put; networks in the subnet that flanneld got
     ├──► servers ─► answer               web servers in containers that are namespaces
     ├──► matrix ─► icmp                  container × container
     └──► state, netns, shell             files below /run/weft-lab, namespaces, commands

`weft lab` (cli/lab.py), scripts/demo and the lab tests are the callers.
"""
