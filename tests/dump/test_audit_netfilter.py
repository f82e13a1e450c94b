"""Rules, traffic control and what they hold: every count comes out even."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from audit_cases import Case, audited, programs_of_the_host

TOOLS = ("nft", "iptables-legacy", "ipset", "tc", "ip")
MISSING = [name for name in TOOLS if not shutil.which(name)]

pytestmark = [
    pytest.mark.vm,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed here: {', '.join(MISSING)}"),
]

EXTENSIONS = ("conntrack", "LOG", "comment", "standard", "tcp", "MASQ", "set", "NFLOG")
DRIVERS = (
    "dummy veth nf_tables nft_ct nft_log nf_log_syslog nft_chain_nat nft_masq nft_limit nft_compat"
    " nft_connlimit nft_fib_inet nft_reject_inet nft_objref nf_conntrack_ftp nfnetlink_log iptable_filter"
    " iptable_nat xt_conntrack xt_LOG xt_comment xt_tcpudp xt_MASQUERADE xt_NFLOG xt_set ip_set"
    " ip_set_hash_ip ip_set_hash_net sch_fq sch_ingress sch_htb sch_netem cls_u32 cls_flower cls_matchall"
    " act_mirred act_police nf_flow_table nf_flow_table_inet nft_flow_offload team team_mode_roundrobin"
    " netconsole"
)
TABLES = """
add table inet f
add chain inet f in { type filter hook input priority 0; policy accept; }
add rule inet f in ct state established counter accept
add rule inet f in log prefix "x"
add rule inet f in limit rate 1/second counter
add rule inet f in fib saddr type local accept
add rule inet f in tcp dport 9 reject
add flowtable inet f ft { hook ingress priority 0; devices = { d0 }; }
add chain inet f fw { type filter hook forward priority 0; }
add rule inet f fw ip protocol tcp flow add @ft
add table ip n
add chain ip n post { type nat hook postrouting priority 100; }
add rule ip n post masquerade
add ct helper ip n h { type "ftp" protocol tcp; }
add counter ip n c
add rule ip n post ct helper set "h"
add set ip n q { type ipv4_addr; size 100; flags dynamic; }
add rule ip n post add @q { ip saddr ct count over 5 }
add set ip n k { type ipv4_addr; limit rate 1/second; elements = { 1.2.3.4, 5.6.7.8 } }
"""
# busybox's shell takes its own ip and tc before those of PATH.
PREFACE = "i=/usr/host/ip; t=/usr/host/tc; p=/usr/host/iptables-legacy; s=/usr/host/ipset\n"
COMMANDS = [
    "ip link set lo up; $i link add d0 type dummy; $i link set d0 up; $i addr add 10.1.0.1/24 dev d0",
    "$i link add v0 type veth peer name v1; $i link set v0 up; $i link set v1 up; $i link add tm type team",
    "/usr/host/nft -f /tables",
    "$p -A INPUT -m conntrack --ctstate NEW -m comment --comment x -j LOG",
    "$p -A INPUT -p tcp --dport 80 -j ACCEPT; $p -t nat -A POSTROUTING -j MASQUERADE",
    "$p -A OUTPUT -j NFLOG --nflog-group 3",
    "$s create a hash:ip; $s create b hash:net; $s add a 1.1.1.1",
    "$p -A INPUT -m set --match-set a src -j DROP",
    "$t qdisc add dev d0 root handle 1: htb default 10",
    "$t class add dev d0 parent 1: classid 1:10 htb rate 1mbit",
    "$t qdisc add dev d0 parent 1:10 handle 10: netem delay 1ms",
    "$t filter add dev d0 parent 1: protocol ip prio 1 u32 match ip dst 1.2.3.4 flowid 1:10",
    "$t qdisc add dev v0 clsact; $t qdisc add dev v1 ingress; $t qdisc replace dev v1 root fq",
    "$t filter add dev v0 ingress protocol ip flower ip_proto tcp action mirred egress redirect dev d0",
    "$t filter add dev v0 egress matchall action police rate 1mbit burst 10k",
    "$t actions add action mirred egress mirror dev d0 index 77",
    "mkdir /config; mount -t configfs none /config; mkdir /config/netconsole/t",
    "export p; unshare -n sh -c 'uses open /dev/null; $p -A INPUT -m conntrack --ctstate NEW -j DROP'",
]


@pytest.fixture(scope="module")
def ruled(debug_kernel, tmp_path_factory) -> Case:
    """Return the audit of the guest."""
    files = programs_of_the_host(*TOOLS)
    files["tables"] = TABLES.encode()
    for place in Path("/usr/lib").glob("*/xtables/lib*.so"):
        if any(name in place.name for name in EXTENSIONS):
            files[str(place).lstrip("/")] = place.resolve()
    commands = [PREFACE + command for command in COMMANDS]
    return audited(debug_kernel, tmp_path_factory.mktemp("ruled"), DRIVERS, commands, files=files)


def test_every_count_comes_out_even(ruled):
    assert {one.module: one.count for one in ruled.audit.modules} == ruled.counts
    uneven = {one.module: (one.count, one.holders) for one in ruled.audit.modules if one.verdict != "exact"}
    assert uneven == {}
    assert ruled.uneven() == set()
    assert ruled.notes == []


@pytest.mark.parametrize(
    ("module", "kinds"),
    [
        ("nft_limit", {"nft expression": 4}),
        ("nft_connlimit", {"nft expression": 1}),
        ("nft_chain_nat", {"nft chain": 1}),
        ("nf_log_syslog", {"logger": 3}),
        ("nf_conntrack_ftp", {"conntrack helper": 1}),
        ("nf_flow_table_inet", {"nft flowtable": 1}),
        ("xt_LOG", {"target": 1}),
        ("xt_set", {"match": 1}),
        ("iptable_nat", {"table": 1}),
        ("ip_set_hash_ip", {"IP set": 1}),
        ("sch_htb", {"qdisc": 1}),
        ("sch_ingress", {"qdisc": 2}),
        ("cls_flower", {"classifier": 1}),
        ("act_mirred", {"action": 2}),
        ("netconsole", {"configfs item": 2}),
    ],
)
def test_who_holds_what(ruled, module, kinds):
    assert ruled.kinds(module) == kinds


def test_netfilters_hooks_lead_into_modules(ruled):
    assert ruled.audit.code.uses["nf_conntrack"]["netfilter hook"] > 0
