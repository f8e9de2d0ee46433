"""The Linux kernel as a target, over netlink. `target` carries a plan out, `host` tells what it depends on: who only
asks (`weft discovery`) does not load the other.

constants          the kernel's numbers
codec              framing, attributes, acknowledgements
links entries hops groups
                   objects ↔ messages;  bulk: thousands at once
netns socket bpf   sockets in a namespace, and what the listening one hears
mirror reading     what the kernel holds: followed, and read anew;  sharing, refusals: of routes
devices writing    ops → requests → failures;  sysctl, words
ways underlay      how packets would leave for other hosts, and when that may have changed
target host ways   what others use
"""
