"""Other userspace tunnels, to compare with: one file each, used where they are installed.

All of them join the lab's two nodes in the same way: a TUN device on each node, addressed with the
base of its subnet, and a route for the other's subnet. They run as they come: one process per node,
socket buffers as the kernel gives them, their own MTU so that nothing is fragmented on the wire,
no encryption where they can do without.
"""
