//! Netlink messages: a builder for a batch of them, and one exchange with the kernel.
//!
//! The kernel works a batch off before `send` returns, so an exchange is one `send` and a few
//! `recv` that never wait.

use std::io;
use std::os::fd::AsFd;

use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

/// Netlink pads messages and attributes to this many bytes.
const ALIGNMENT: usize = 4;
/// `struct nlmsghdr`: length, type, flags, sequence number, port.
const HEADER: usize = 16;
/// Of `struct nlattr`.
const ATTRIBUTE_HEADER: usize = 4;
/// Answers to one batch; a batch here has at most ten messages.
const MAX_ANSWERS: usize = 64;

/// A batch of netlink messages, one after the other.
#[derive(Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    last: u32,
}

impl Batch {
    /// Appends a message of type `kind` with the family's fixed `header` and what `attributes`
    /// adds. Answers name the message by its `sequence`.
    pub(super) fn message(
        &mut self,
        kind: u16,
        flags: u16,
        sequence: u32,
        header: &[u8],
        attributes: impl FnOnce(&mut Self),
    ) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | libc::NLM_F_REQUEST as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(header);
        self.pad();
        attributes(self);
        let length = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
        if flags & libc::NLM_F_ACK as u16 != 0 {
            self.last = sequence;
        }
    }

    /// Appends an attribute to the message being built.
    pub(super) fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = (ATTRIBUTE_HEADER + value.len()) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
    }

    /// A number in network order, as netfilter wants them.
    pub(super) fn number(&mut self, kind: u16, value: u32) {
        self.attribute(kind, &value.to_be_bytes());
    }

    /// A text with its terminating zero.
    pub(super) fn text(&mut self, kind: u16, value: &str) {
        self.attribute(kind, &[value.as_bytes(), &[0]].concat());
    }

    /// An attribute that is a list of attributes.
    pub(super) fn nest(&mut self, kind: u16, inner: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.attribute(kind | libc::NLA_F_NESTED as u16, &[]);
        inner(self);
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }

    /// Sends the batch and returns what the kernel refused: (sequence, error) in its order.
    ///
    /// The last message that asks for an acknowledgement must get one, or an error must explain
    /// its absence: silence is an error too.
    pub(super) fn exchange(&self, socket: impl AsFd) -> io::Result<Vec<(u32, io::Error)>> {
        send(&socket, &self.bytes, SendFlags::empty())?;
        let mut refused = Vec::new();
        let mut acknowledged = false;
        let mut buffer = [0_u8; 4096];
        for _ in 0..MAX_ANSWERS {
            let length = match recv(&socket, &mut buffer, RecvFlags::DONTWAIT) {
                Ok((length, _)) => length,
                Err(rustix::io::Errno::AGAIN) => break,
                Err(error) => return Err(error.into()),
            };
            for (sequence, errno) in answers(&buffer[..length.min(buffer.len())]) {
                if errno == 0 {
                    acknowledged |= sequence == self.last;
                } else {
                    refused.push((sequence, io::Error::from_raw_os_error(errno)));
                }
            }
        }
        if refused.is_empty() && !acknowledged {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the kernel did not answer the netlink request",
            ));
        }
        Ok(refused)
    }
}

/// The (sequence, errno) pairs of the `NLMSG_ERROR` messages in one received buffer.
fn answers(mut bytes: &[u8]) -> Vec<(u32, i32)> {
    let word = |bytes: &[u8], at: usize| -> Option<[u8; 4]> {
        bytes.get(at..at + 4).and_then(|word| word.try_into().ok())
    };
    let mut found = Vec::new();
    while let (Some(length), Some(sequence)) = (word(bytes, 0), word(bytes, 8)) {
        let length = u32::from_ne_bytes(length) as usize;
        if length < HEADER || length > bytes.len() {
            break;
        }
        let kind = u16::from_ne_bytes([bytes[4], bytes[5]]);
        if let Some(code) = word(&bytes[..length], HEADER)
            && i32::from(kind) == libc::NLMSG_ERROR
        {
            found.push((u32::from_ne_bytes(sequence), -i32::from_ne_bytes(code)));
        }
        bytes = &bytes[length.next_multiple_of(ALIGNMENT).min(bytes.len())..];
    }
    found
}

/// A netlink socket of the current network namespace; `None` speaks rtnetlink.
pub(super) fn open(protocol: Option<Protocol>) -> io::Result<std::os::fd::OwnedFd> {
    Ok(socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nested_attribute_carries_the_length_of_all_it_holds() {
        let mut batch = Batch::default();
        batch.message(1, 0, 7, &[9, 9], |batch| batch.nest(2, |batch| batch.text(3, "lo")));
        let mut expected = Vec::new();
        expected.extend_from_slice(&32_u32.to_ne_bytes());
        expected.extend_from_slice(&1_u16.to_ne_bytes());
        expected.extend_from_slice(&1_u16.to_ne_bytes());
        expected.extend_from_slice(&7_u32.to_ne_bytes());
        expected.extend_from_slice(&[0; 4]);
        expected.extend_from_slice(&[9, 9, 0, 0]);
        expected.extend_from_slice(&12_u16.to_ne_bytes());
        expected.extend_from_slice(&0x8002_u16.to_ne_bytes());
        expected.extend_from_slice(&7_u16.to_ne_bytes());
        expected.extend_from_slice(&3_u16.to_ne_bytes());
        expected.extend_from_slice(b"lo\0\0");
        assert_eq!(batch.bytes, expected);
    }

    #[test]
    fn answers_stop_at_a_length_that_lies() {
        let mut bytes = Vec::new();
        for (sequence, code) in [(1_u32, 0_i32), (2, -libc::EPERM)] {
            bytes.extend_from_slice(&20_u32.to_ne_bytes());
            bytes.extend_from_slice(&(libc::NLMSG_ERROR as u16).to_ne_bytes());
            bytes.extend_from_slice(&[0; 2]);
            bytes.extend_from_slice(&sequence.to_ne_bytes());
            bytes.extend_from_slice(&[0; 4]);
            bytes.extend_from_slice(&code.to_ne_bytes());
        }
        assert_eq!(answers(&bytes), [(1, 0), (2, libc::EPERM)]);
        bytes[20] = 200;
        assert_eq!(answers(&bytes), [(1, 0)]);
        bytes[0] = 0;
        assert_eq!(answers(&bytes), []);
    }
}
