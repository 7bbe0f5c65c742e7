//! What an epoll event is about, in 64 bits.

use rustix::event::epoll::EventData;

use super::SessionId;
use crate::network::slab::{KEY_BITS, Key};

/// The source of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    /// The queue has something.
    Wake,
    /// A container's packets.
    Door { session: SessionId, door: Door },
    /// One socket of a relay or a flow.
    Place { key: Key, side: Side },
}

/// The inner sockets that receive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    TcpV4,
    UdpV4,
    TcpV6,
    UdpV6,
}

/// The two ends of a relay; a flow has only an upstream socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Upstream,
}

const DOOR: u64 = 1 << 63;
const DOOR_BITS: u32 = 2;

impl Token {
    pub(super) fn data(self) -> EventData {
        EventData::new_u64(self.encode())
    }

    fn encode(self) -> u64 {
        match self {
            Self::Wake => u64::MAX,
            Self::Door { session, door } => DOOR | session << DOOR_BITS | door as u64,
            Self::Place { key, side } => {
                u64::from(key.generation) << (KEY_BITS + 1)
                    | u64::from(key.index) << 1
                    | side as u64
            }
        }
    }

    pub(super) fn decode(bits: u64) -> Self {
        if bits == u64::MAX {
            return Self::Wake;
        }
        if bits & DOOR != 0 {
            let door = match bits & ((1 << DOOR_BITS) - 1) {
                0 => Door::TcpV4,
                1 => Door::UdpV4,
                2 => Door::TcpV6,
                _ => Door::UdpV6,
            };
            return Self::Door { session: (bits & !DOOR) >> DOOR_BITS, door };
        }
        let index = (bits >> 1) as u32 & ((1 << KEY_BITS) - 1);
        let key = Key { index, generation: (bits >> (KEY_BITS + 1)) as u32 };
        Self::Place { key, side: if bits & 1 == 0 { Side::Client } else { Side::Upstream } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_survives_the_kernel() {
        let most = (1 << KEY_BITS) - 1;
        let mut tokens = vec![Token::Wake];
        for door in [Door::TcpV4, Door::UdpV4, Door::TcpV6, Door::UdpV6] {
            tokens.extend([0, 1, 1 << 40].map(|session| Token::Door { session, door }));
        }
        for side in [Side::Client, Side::Upstream] {
            for (index, generation) in [(0, 0), (1, 2), (most, 0), (0, most), (most, most)] {
                tokens.push(Token::Place { key: Key { index, generation }, side });
            }
        }
        for token in tokens {
            assert_eq!(Token::decode(token.encode()), token);
        }
    }
}
