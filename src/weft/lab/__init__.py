"""Hosts as network namespaces: try a topology, break it, and see what weft does, on one machine.

    schema ─► topology ─► wiring          pure: a YAML file, what it means, the `ip` lines that build it
                 ▼           ▼
    lab ─► host, engine, image            the processes: an init per host, Docker Engine, agent
     ├──► matrix ─► icmp                  container × container
     └──► state, netns, shell             files below /run/weft-lab, namespaces, commands

`weft lab` (cli/lab.py), scripts/demo and the lab tests are the callers.
"""
