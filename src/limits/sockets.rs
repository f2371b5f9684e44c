use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::Exceeded;
use crate::session::network_of;

/// Cells in a row: with as many heavy addresses as there are thousandths of them, one in a million others is taken for
/// one.
const CELLS: usize = 16_384;
/// Somebody will have left by then.
const RETRY_AFTER_SECONDS: u64 = 5;

/// How many connections each client has, in a sketch (count-min; Cormode and Muthukrishnan, 2005) rather than a table: a
/// million clients take no more than a thousand, and a connection has only to remember its cells. It may count somebody
/// too high, by those who share both of their cells, but never too low.
pub struct Sockets {
    per_address: u32,
    in_all: u32,
    count: AtomicU32,
    rows: [Box<[AtomicU32]>; 2],
    hasher: RandomState,
}

/// Where a connection is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cells([u16; 2]);

/// There is no room for another connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// Of this client.
    Address(Exceeded),
    /// Of anybody.
    All,
}

/// A connection that is counted, until this is dropped.
pub struct Seat {
    sockets: Arc<Sockets>,
    cells: Cells,
    is_taken: bool,
}

impl Sockets {
    /// At most `per_address` of each client and `in_all` of all; 0: any number.
    #[must_use]
    pub fn new(per_address: u32, in_all: u32) -> Arc<Self> {
        let or_any = |limit| if limit == 0 { u32::MAX } else { limit };
        let row = || (0..CELLS).map(|_| AtomicU32::new(0)).collect();
        Arc::new(Self {
            per_address: or_any(per_address),
            in_all: or_any(in_all),
            count: AtomicU32::new(0),
            rows: [row(), row()],
            hasher: RandomState::new(),
        })
    }

    /// Counts a connection of this address.
    ///
    /// # Errors
    /// It is one too many, and not counted.
    pub fn seat(self: &Arc<Self>, address: IpAddr) -> Result<Seat, Full> {
        let hash = self.hasher.hash_one(network_of(address)).to_le_bytes();
        let cells = Cells([u16::from_le_bytes([hash[0], hash[1]]), u16::from_le_bytes([hash[2], hash[3]])]);
        let before = self.count.fetch_add(1, Ordering::Relaxed);
        let of_address = self.cells(cells).map(|cell| cell.fetch_add(1, Ordering::Relaxed)).min().unwrap_or_default();
        // From here on it is given back when it is dropped.
        let seat = Seat { sockets: self.clone(), cells, is_taken: false };
        if of_address >= self.per_address {
            let key = "limits.sockets_per_address";
            return Err(Full::Address(Exceeded { key, retry_after_seconds: RETRY_AFTER_SECONDS }));
        }
        if before >= self.in_all { Err(Full::All) } else { Ok(seat) }
    }

    /// A connection has gone.
    pub fn release(&self, cells: Cells) {
        self.count.fetch_sub(1, Ordering::Relaxed);
        for cell in self.cells(cells) {
            cell.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn cells(&self, Cells(cells): Cells) -> impl Iterator<Item = &AtomicU32> {
        self.rows.iter().zip(cells).map(|(row, cell)| &row[usize::from(cell) % CELLS])
    }
}

impl Seat {
    /// Where it is counted; whoever takes this is to [`Sockets::release`] it.
    #[must_use]
    pub fn into_cells(mut self) -> Cells {
        self.is_taken = true;
        self.cells
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if !self.is_taken {
            self.sockets.release(self.cells);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> IpAddr {
        IpAddr::from(number.to_be_bytes())
    }

    #[test]
    fn a_connection_counts_until_it_has_gone_wherever_it_went() {
        let sockets = Sockets::new(2, 0);
        let first = sockets.seat(address(1)).unwrap();
        let second = sockets.seat(address(1)).unwrap().into_cells();
        let is_full = || matches!(sockets.seat(address(1)), Err(Full::Address(_)));
        assert!(is_full() && is_full(), "what is refused is not counted");
        assert!(sockets.seat(address(2)).is_ok());
        drop(first);
        drop(sockets.seat(address(1)).unwrap());
        let third = sockets.seat(address(1)).unwrap();
        assert!(is_full());
        sockets.release(second);
        assert!(!is_full());
        drop(third);
        assert_eq!(sockets.count.load(Ordering::Relaxed), 0);
        assert!(sockets.rows.iter().flatten().all(|cell| cell.load(Ordering::Relaxed) == 0));
    }

    #[test]
    fn all_together_have_a_limit() {
        let sockets = Sockets::new(0, 3);
        let seats: Vec<_> = (0..3).map(|number| sockets.seat(address(number)).ok().unwrap()).collect();
        assert_eq!(sockets.seat(address(9)).err(), Some(Full::All));
        drop(seats);
        assert!(sockets.seat(address(9)).is_ok());
    }

    #[test]
    fn many_light_clients_and_some_heavy_ones_are_not_taken_for_each_other() {
        let sockets = Sockets::new(1000, 0);
        let mut seats = Vec::new();
        for heavy in 0..16 {
            seats.extend(std::iter::from_fn(|| sockets.seat(address(heavy)).ok()));
        }
        let light = (0..200_000).map(|light| sockets.seat(address(1_000_000 + light)));
        let (seated, refused): (Vec<_>, Vec<_>) = light.partition(Result::is_ok);
        seats.extend(seated.into_iter().flatten());
        // One in a million shares both of its cells with heavy ones, which is a fifth of one here; six of them come
        // less than once in ten million runs.
        assert!(refused.len() < 6, "{} were refused", refused.len());
        assert!((0..16).all(|heavy| sockets.seat(address(heavy)).is_err()));
    }
}
