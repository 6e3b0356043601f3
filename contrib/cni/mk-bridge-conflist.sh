#!/bin/sh
# mk-bridge-conflist.sh [SUBNET_ENV]: print a CNI conflist for the plain bridge plugin.
#
# For hosts without the flannel meta-plugin. As ExecStartPost of the daemon, or by hand:
#   mk-bridge-conflist.sh /run/flannel/subnet.env >/etc/cni/net.d/10-tunneld.conflist
# Again after another subnet or MTU: the plugin takes them from this file, not from subnet.env.
set -eu

file=${1:-/run/flannel/subnet.env}
[ -r "$file" ] || {
	echo "mk-bridge-conflist.sh: cannot read $file: start tunneld first, or name the file" >&2
	exit 1
}
# shellcheck source=/dev/null
. "$(readlink -f "$file")"
: "${FLANNEL_SUBNET:?is not in $file}" "${FLANNEL_NETWORK:?is not in $file}" "${FLANNEL_MTU:?is not in $file}"

# FLANNEL_SUBNET is the bridge's address, one above the subnet's first.
address=${FLANNEL_SUBNET%/*}
subnet=${address%.*}.$((${address##*.} - 1))/${FLANNEL_SUBNET#*/}

# ipMasq stays off: the bridge plugin masquerades towards other nodes' containers too. What leaves
# the network is masqueraded by the daemon, with --ip-masq.
cat <<JSON
{
  "name": "tunneld",
  "cniVersion": "0.4.0",
  "plugins": [
    {
      "type": "bridge",
      "bridge": "cni0",
      "isGateway": true,
      "isDefaultGateway": true,
      "hairpinMode": true,
      "ipMasq": false,
      "mtu": $FLANNEL_MTU,
      "ipam": {
        "type": "host-local",
        "ranges": [[{ "subnet": "$subnet" }]],
        "routes": [{ "dst": "$FLANNEL_NETWORK" }]
      }
    }
  ]
}
JSON
