#!/usr/bin/env bash
# Two hosts on one machine, for tests and benchmarks of what crosses a network: network namespaces
# with a cable between them, each with a name and an address of its own. Needs root.
#
#   tools/hosts.sh up            makes them; then `hosts: 10.77.0.1,10.77.0.2` are two hosts
#   tools/hosts.sh rate MBIT     limits the cable, in each direction; 0: no limit
#   tools/hosts.sh cut           cuts the cable: each is silent to the other, as behind a dead switch
#   tools/hosts.sh run COMMAND   runs it on the first, with mpirun told how to reach the second
#   tools/hosts.sh down          takes them away
#
# GIGAGPT_HOSTS names them, so that several tests can have their own.
set -euo pipefail

name=${GIGAGPT_HOSTS:-gigagpt}
space() { echo "$name-$1"; }
# On a host of ours: in its network, under its name.
on() {
  local host=$1
  shift
  exec ip netns exec "$(space "$host")" unshare --uts sh -c "hostname '$name-$host'; exec \"\$@\"" sh "$@"
}

case ${1:-} in
  up)
    for host in 1 2; do
      ip netns add "$(space $host)"
      ip -n "$(space $host)" link set lo up
    done
    ip -n "$(space 1)" link add wire type veth peer name wire netns "$(space 2)"
    for host in 1 2; do
      ip -n "$(space $host)" address add 10.77.0.$host/24 dev wire
      ip -n "$(space $host)" link set wire up
    done
    ;;
  rate)
    for host in 1 2; do
      ip netns exec "$(space $host)" tc qdisc del dev wire root 2>/dev/null || true
      [[ $2 == 0 ]] || ip netns exec "$(space $host)" \
        tc qdisc add dev wire root tbf rate "$2mbit" burst 256kb latency 50ms
    done
    ;;
  cut)
    ip -n "$(space 2)" link set wire down
    ;;
  run)
    shift
    export OMPI_MCA_plm_rsh_agent="$(readlink -f "$0")" GIGAGPT_HOSTS=$name
    on 1 "$@"
    ;;
  down)
    for host in 1 2; do ip netns delete "$(space $host)" 2>/dev/null || true; done
    ;;
  10.77.0.[12])  # as mpirun calls what starts its daemon on a host
    host=${1##*.}
    shift
    on "$host" sh -c "$*"
    ;;
  *)
    sed -n '2,/^$/p' "$0" | sed 's/^# \?//'
    exit 2
    ;;
esac
