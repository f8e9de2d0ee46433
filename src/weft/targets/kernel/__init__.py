"""The Linux kernel as a target, over netlink. `KernelTarget` carries a plan out, `HostFacts` tells what it depends on.

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

from weft.targets.kernel.host import HostFacts, read_host
from weft.targets.kernel.target import KernelTarget

__all__ = ["HostFacts", "KernelTarget", "read_host"]
