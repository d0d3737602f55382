from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtual_lab.pve.pmx.corosync import (
    ConfError,
    add_node,
    find_node,
    mistakes,
    new_conf,
    parse,
    parse_link,
    render,
)

ONE_NODE = """\
logging {
  debug: off
  to_syslog: yes
}

nodelist {
  node {
    name: pve1
    nodeid: 1
    quorum_votes: 1
    ring0_addr: 10.10.1.11
  }
}

quorum {
  provider: corosync_votequorum
}

totem {
  cluster_name: lab
  config_version: 0
  interface {
    linknumber: 0
  }
  ip_version: ipv4-6
  link_mode: passive
  secauth: on
  token_coefficient: 125
  version: 2
}

"""


def test_a_new_cluster_s_file_is_written_as_proxmox_writes_it() -> None:
    assert render(new_conf("pve1", "10.10.1.11", {"clustername": "lab"})) == ONE_NODE


def test_reading_undoes_writing() -> None:
    assert render(parse(ONE_NODE)) == ONE_NODE


@given(st.dictionaries(st.from_regex(r"[a-z][a-z0-9]{0,7}", fullmatch=True), st.integers(1, 9), min_size=1))
def test_reading_undoes_writing_for_any_nodes(nodes: dict[str, int]) -> None:
    conf = parse(ONE_NODE)
    conf.nodes.clear()
    for name, votes in nodes.items():
        conf.nodes[name] = {"name": name, "nodeid": "1", "quorum_votes": str(votes)}
    assert parse(render(conf)).main == conf.main


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        ("totem {", "missing '}'"),
        ("}", "unexpected '}'"),
        ("totem { version 2 }", "missing ':'"),
        ("totem { version:", "no value"),
        ("a { b: 1 } a { b: 2 }", "already exists"),
    ],
)
def test_what_is_no_configuration_is_named(raw: str, complaint: str) -> None:
    with pytest.raises(ConfError, match=complaint):
        parse(raw)


def test_comments_are_passed_over() -> None:
    assert parse("# {\ntotem { # x\n version: 2\n}").totem == {"version": "2"}


def test_a_version_must_be_there() -> None:
    with pytest.raises(ConfError, match="unable to read config version"):
        _ = parse("totem { version: 2 }").version


def test_link_parameters() -> None:
    assert parse_link("10.0.0.1") == {"address": "10.0.0.1"}
    assert parse_link("address=10.0.0.1,priority=20") == {"address": "10.0.0.1", "priority": 20}


@pytest.mark.parametrize(
    "text", ["priority=3", "10.0.0.1,priority=256", "10.0.0.1,colour=red", "a b", "1.1.1.1,2.2.2.2"]
)
def test_wrong_link_parameters(text: str) -> None:
    with pytest.raises(ValueError, match="invalid format"):
        parse_link(text)


def test_a_priority_is_kept_at_creation() -> None:
    conf = new_conf("pve1", "10.0.0.1", {"clustername": "lab", "link1": "10.0.2.1,priority=7"})
    assert conf.totem["interface"] == {"1": {"linknumber": "1", "knet_link_priority": "7"}}
    assert conf.links == {1: "10.0.2.1"}


def two_links() -> Any:
    return new_conf("pve1", "10.0.0.1", {"clustername": "lab", "link0": "10.0.0.1", "link1": "10.0.2.1"})


@pytest.mark.parametrize(
    ("params", "complaint"),
    [
        ({"link0": "10.0.0.2"}, "link 1 exists in cluster config but wasn't specified for new node"),
        (
            {"link0": "10.0.0.2", "link1": "10.0.2.2", "link2": "10.0.3.2"},
            "link 2 specified for new node doesn't exist",
        ),
        (
            {"link0": "10.0.0.1", "link1": "10.0.2.2"},
            "address '10.0.0.1' already used on link ring0_addr by node 'pve1'",
        ),
        ({"new_node_ip": "10.0.0.2"}, "fallback only supported on single-link clusters"),
        ({}, "no links and no fallback ip"),
    ],
)
def test_a_joiner_s_links_must_fit(params: dict[str, str], complaint: str) -> None:
    with pytest.raises(ConfError, match=complaint):
        add_node(two_links(), "pve2", params)


def test_a_joiner_gets_the_lowest_free_id() -> None:
    conf = two_links()
    add_node(conf, "pve2", {"link0": "10.0.0.2", "link1": "10.0.2.2", "nodeid": 3})
    add_node(conf, "pve3", {"link0": "10.0.0.3", "link1": "10.0.2.3"})
    assert {name: node["nodeid"] for name, node in conf.nodes.items()} == {
        "pve1": "1",
        "pve2": "3",
        "pve3": "2",
    }
    assert mistakes(conf) == []


def test_a_name_joins_once_unless_forced_to_the_same_place() -> None:
    conf = two_links()
    links = {"link0": "10.0.0.2", "link1": "10.0.2.2"}
    add_node(conf, "pve2", links)
    with pytest.raises(ConfError, match="can't add existing node 'pve2'"):
        add_node(conf, "pve2", links)
    with pytest.raises(ConfError, match="can't add existing node 'pve2'"):
        add_node(conf, "pve2", {**links, "force": True, "nodeid": 9})
    add_node(conf, "pve2", {**links, "force": True})
    assert conf.nodes["pve2"]["nodeid"] == "2"


def test_a_single_link_falls_back_to_the_node_s_address() -> None:
    conf = parse(ONE_NODE)
    add_node(conf, "pve2", {"new_node_ip": "10.10.1.12"})
    assert conf.nodes["pve2"]["ring0_addr"] == "10.10.1.12"


def test_links_that_nodes_do_not_share_are_mistakes() -> None:
    conf = two_links()
    conf.nodes["pve2"] = {"name": "pve2", "nodeid": "2", "ring0_addr": "10.0.0.2", "ring3_addr": "10.0.3.2"}
    assert mistakes(conf) == [
        "node 'pve2' is missing address for interface number 1",
        "node 'pve2' has 'ring3_addr', but there is no interface number 3 configured",
    ]


def test_a_node_is_found_by_name_and_by_address() -> None:
    assert find_node(two_links(), "pve1") == find_node(two_links(), "10.0.2.1") == "pve1"
    with pytest.raises(ConfError, match="is not a known host of the cluster"):
        find_node(two_links(), "pve9")
