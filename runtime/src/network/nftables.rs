//! The nf_tables rules that hand a container's packets to the proxy's sockets.
//!
//! ```text
//! table inet strake {
//!     chain outgoing {
//!         type filter hook prerouting priority mangle; policy accept;
//!         ip daddr & 255.0.0.0 != 127.0.0.0 ip daddr != 10.0.2.100 tproxy ip to 10.0.2.2:1 accept
//!         ip daddr & 255.0.0.0 != 127.0.0.0 ip daddr != 10.0.2.100 meta l4proto icmp drop
//!         (the same for ip6, with ::1 and fd00::100)
//!     }
//! }
//! ```
//!
//! `tproxy` itself passes over what is neither TCP nor UDP, so no rule asks for the protocol first.

use std::net::IpAddr;

use super::configure::{Step, V4, V6};
use super::netlink::Batch;
use super::sockets::{HIDDEN_PORT, hidden};
use super::{CONTAINER_V4, CONTAINER_V6};

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const TABLE: &str = "strake";
const CHAIN: &str = "outgoing";

// From linux/netfilter/nf_tables.h, in its order; the attribute numbers are per object.
const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;
const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const META_DESTINATION: u16 = 1;
const META_KEY: u16 = 2;
const COMPARE_SOURCE: u16 = 1;
const COMPARE_OPERATOR: u16 = 2;
const COMPARE_DATA: u16 = 3;
const PAYLOAD_DESTINATION: u16 = 1;
const PAYLOAD_BASE: u16 = 2;
const PAYLOAD_OFFSET: u16 = 3;
const PAYLOAD_LENGTH: u16 = 4;
const IMMEDIATE_DESTINATION: u16 = 1;
const IMMEDIATE_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const TPROXY_FAMILY: u16 = 1;
const TPROXY_ADDRESS: u16 = 2;
const TPROXY_PORT: u16 = 3;

const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;
const NETWORK_HEADER: u32 = 1;
const PREROUTING: u32 = 0;
/// `NF_IP_PRI_MANGLE`, where TPROXY is at home: before routing has looked at the packet.
const PRIORITY_MANGLE: i32 = -150;
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
const VERDICT: u32 = 0;
const REGISTER_1: u32 = 1;
const REGISTER_2: u32 = 2;

/// What the rules say about one address family.
struct Family {
    protocol: u8,
    icmp: u8,
    destination_offset: u32,
    loopback: Vec<u8>,
    container: Vec<u8>,
    listener: Vec<u8>,
}

impl Family {
    fn v4() -> Self {
        Self {
            protocol: libc::NFPROTO_IPV4 as u8,
            icmp: libc::IPPROTO_ICMP as u8,
            destination_offset: 16,
            // The first byte of 127.0.0.0/8.
            loopback: vec![127],
            container: CONTAINER_V4.octets().to_vec(),
            listener: octets(hidden(V4).ip()),
        }
    }

    fn v6() -> Self {
        Self {
            protocol: libc::NFPROTO_IPV6 as u8,
            icmp: libc::IPPROTO_ICMPV6 as u8,
            destination_offset: 24,
            loopback: std::net::Ipv6Addr::LOCALHOST.octets().to_vec(),
            container: CONTAINER_V6.octets().to_vec(),
            listener: octets(hidden(V6).ip()),
        }
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The whole transaction; the kernel takes all of it or nothing.
pub(super) fn transaction(ipv6: bool) -> Batch {
    let mut batch = Batch::default();
    let create = libc::NLM_F_CREATE as u16;
    let begin = libc::NFNL_MSG_BATCH_BEGIN as u16;
    batch.message(begin, 0, Step::Table as u32, &batch_header(), |_| ());
    batch.message(
        kind(libc::NFT_MSG_NEWTABLE),
        create,
        Step::Table as u32,
        &nft_header(),
        |batch| batch.text(TABLE_NAME, TABLE),
    );
    batch.message(
        kind(libc::NFT_MSG_NEWCHAIN),
        create,
        Step::Chain as u32,
        &nft_header(),
        |batch| {
            batch.text(CHAIN_TABLE, TABLE);
            batch.text(CHAIN_NAME, CHAIN);
            batch.text(CHAIN_TYPE, "filter");
            batch.nest(CHAIN_HOOK, |batch| {
                batch.number(HOOK_NUMBER, PREROUTING);
                batch.number(HOOK_PRIORITY, PRIORITY_MANGLE as u32);
            });
        },
    );
    if ipv6 {
        rules(&mut batch, &Family::v6(), 0);
    }
    rules(&mut batch, &Family::v4(), libc::NLM_F_ACK as u16);
    let end = libc::NFNL_MSG_BATCH_END as u16;
    batch.message(end, 0, Step::Rule as u32, &batch_header(), |_| ());
    batch
}

/// The two rules of one family; `acknowledge` goes to the second.
fn rules(batch: &mut Batch, family: &Family, acknowledge: u16) {
    rule(batch, Step::Rule, 0, |batch| {
        leaves(batch, family);
        immediate(batch, REGISTER_1, &family.listener);
        immediate(batch, REGISTER_2, &HIDDEN_PORT.to_be_bytes());
        expression(batch, "tproxy", |batch| {
            batch.number(TPROXY_FAMILY, u32::from(family.protocol));
            batch.number(TPROXY_ADDRESS, REGISTER_1);
            batch.number(TPROXY_PORT, REGISTER_2);
        });
        verdict(batch, NF_ACCEPT);
    });
    rule(batch, Step::LastRule, acknowledge, |batch| {
        leaves(batch, family);
        meta(batch, META_L4PROTO);
        compare(batch, EQUAL, &[family.icmp]);
        verdict(batch, NF_DROP);
    });
}

/// Goes on only with packets of `family` that are for somebody else.
fn leaves(batch: &mut Batch, family: &Family) {
    meta(batch, META_NFPROTO);
    compare(batch, EQUAL, &[family.protocol]);
    for own in [&family.loopback, &family.container] {
        expression(batch, "payload", |batch| {
            batch.number(PAYLOAD_DESTINATION, REGISTER_1);
            batch.number(PAYLOAD_BASE, NETWORK_HEADER);
            batch.number(PAYLOAD_OFFSET, family.destination_offset);
            batch.number(PAYLOAD_LENGTH, own.len() as u32);
        });
        compare(batch, NOT_EQUAL, own);
    }
}

fn rule(batch: &mut Batch, step: Step, acknowledge: u16, expressions: impl FnOnce(&mut Batch)) {
    let flags = (libc::NLM_F_CREATE | libc::NLM_F_APPEND) as u16 | acknowledge;
    batch.message(kind(libc::NFT_MSG_NEWRULE), flags, step as u32, &nft_header(), |batch| {
        batch.text(RULE_TABLE, TABLE);
        batch.text(RULE_CHAIN, CHAIN);
        batch.nest(RULE_EXPRESSIONS, expressions);
    });
}

fn expression(batch: &mut Batch, name: &str, data: impl FnOnce(&mut Batch)) {
    batch.nest(LIST_ELEMENT, |batch| {
        batch.text(EXPRESSION_NAME, name);
        batch.nest(EXPRESSION_DATA, data);
    });
}

fn meta(batch: &mut Batch, key: u32) {
    expression(batch, "meta", |batch| {
        batch.number(META_KEY, key);
        batch.number(META_DESTINATION, REGISTER_1);
    });
}

fn compare(batch: &mut Batch, operator: u32, value: &[u8]) {
    expression(batch, "cmp", |batch| {
        batch.number(COMPARE_SOURCE, REGISTER_1);
        batch.number(COMPARE_OPERATOR, operator);
        batch.nest(COMPARE_DATA, |batch| batch.attribute(DATA_VALUE, value));
    });
}

fn immediate(batch: &mut Batch, register: u32, value: &[u8]) {
    expression(batch, "immediate", |batch| {
        batch.number(IMMEDIATE_DESTINATION, register);
        batch.nest(IMMEDIATE_DATA, |batch| batch.attribute(DATA_VALUE, value));
    });
}

fn verdict(batch: &mut Batch, code: u32) {
    expression(batch, "immediate", |batch| {
        batch.number(IMMEDIATE_DESTINATION, VERDICT);
        batch.nest(IMMEDIATE_DATA, |batch| {
            batch.nest(DATA_VERDICT, |batch| batch.number(VERDICT_CODE, code));
        });
    });
}

fn kind(message: libc::c_int) -> u16 {
    NFNL_SUBSYS_NFTABLES << 8 | message as u16
}

/// `struct nfgenmsg` of an object in the `inet` family.
fn nft_header() -> [u8; 4] {
    [libc::NFPROTO_INET as u8, 0, 0, 0]
}

/// `struct nfgenmsg` of a batch: its resource is the subsystem.
fn batch_header() -> [u8; 4] {
    let subsystem = NFNL_SUBSYS_NFTABLES.to_be_bytes();
    [libc::AF_UNSPEC as u8, 0, subsystem[0], subsystem[1]]
}
