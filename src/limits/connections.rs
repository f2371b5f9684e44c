//! Limits on open connections, per client and in all.

use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::Exceeded;
use crate::session::network_of;

/// Number of cells in a row. With 16 clients at their limit, which is a thousandth of this number, one in a million
/// other clients has both of its cells in common with them and is refused.
const CELLS: usize = 16_384;
/// Value of `Retry-After` for a client that has too many connections, in seconds.
const RETRY_AFTER_SECONDS: u64 = 5;

/// Counts the open connections of each client and of all clients.
///
/// The counts per client are a count-min sketch (Cormode and Muthukrishnan, 2005). Its size does not depend on the
/// number of clients, and a connection stores only the indexes of its two cells. The sketch can overestimate a client's
/// connections when hashes collide, and never underestimates them.
pub struct ConnectionQuota {
    per_address: u32,
    in_all: u32,
    count: AtomicU32,
    rows: [Box<[AtomicU32]>; 2],
    hasher: RandomState,
}

/// Indexes of the cells in which a connection is counted, one for each row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaCells([u16; 2]);

/// The error of a connection that exceeds a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuotaExceeded {
    /// The client has `limits.sockets_per_address` connections.
    Address(Exceeded),
    /// All clients together have `limits.sockets` connections.
    All,
}

/// One counted connection. Dropping the value ends the count.
pub struct ConnectionPermit {
    quota: Arc<ConnectionQuota>,
    cells: QuotaCells,
    is_converted: bool,
}

impl ConnectionQuota {
    /// Allows at most `per_address` connections of each client and `in_all` of all clients. 0 means no limit.
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

    /// Counts a connection from `address`.
    ///
    /// # Errors
    /// Returns an error if the connection exceeds a limit. Such a connection is not counted.
    pub fn permit(self: &Arc<Self>, address: IpAddr) -> Result<ConnectionPermit, QuotaExceeded> {
        let hash = self.hasher.hash_one(network_of(address)).to_le_bytes();
        let cells = QuotaCells([u16::from_le_bytes([hash[0], hash[1]]), u16::from_le_bytes([hash[2], hash[3]])]);
        let before = self.count.fetch_add(1, Ordering::Relaxed);
        let of_address = self.cells(cells).map(|cell| cell.fetch_add(1, Ordering::Relaxed)).min().unwrap_or_default();
        // Made before the checks, so that an early return undoes the count.
        let permit = ConnectionPermit { quota: self.clone(), cells, is_converted: false };
        if of_address >= self.per_address {
            let key = "limits.sockets_per_address";
            return Err(QuotaExceeded::Address(Exceeded { key, retry_after_seconds: RETRY_AFTER_SECONDS }));
        }
        if before >= self.in_all { Err(QuotaExceeded::All) } else { Ok(permit) }
    }

    /// Ends the count of a connection whose permit was turned into `cells` ([`ConnectionPermit::into_cells`]).
    pub fn release(&self, cells: QuotaCells) {
        self.count.fetch_sub(1, Ordering::Relaxed);
        for cell in self.cells(cells) {
            cell.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn cells(&self, QuotaCells(cells): QuotaCells) -> impl Iterator<Item = &AtomicU32> {
        self.rows.iter().zip(cells).map(|(row, cell)| &row[usize::from(cell) % CELLS])
    }
}

impl ConnectionPermit {
    /// Returns the cells, which are smaller than a permit. The caller must pass them to [`ConnectionQuota::release`].
    #[must_use]
    pub fn into_cells(mut self) -> QuotaCells {
        self.is_converted = true;
        self.cells
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        if !self.is_converted {
            self.quota.release(self.cells);
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
    fn connection_is_counted_until_its_permit_is_dropped_or_its_cells_are_released() {
        let quota = ConnectionQuota::new(2, 0);
        let first = quota.permit(address(1)).unwrap();
        let second = quota.permit(address(1)).unwrap().into_cells();
        let is_full = || matches!(quota.permit(address(1)), Err(QuotaExceeded::Address(_)));
        assert!(is_full() && is_full(), "a refused connection is not counted");
        assert!(quota.permit(address(2)).is_ok());
        drop(first);
        drop(quota.permit(address(1)).unwrap());
        let third = quota.permit(address(1)).unwrap();
        assert!(is_full());
        quota.release(second);
        assert!(!is_full());
        drop(third);
        assert_eq!(quota.count.load(Ordering::Relaxed), 0);
        assert!(quota.rows.iter().flatten().all(|cell| cell.load(Ordering::Relaxed) == 0));
    }

    #[test]
    fn connections_of_all_clients_together_are_limited() {
        let quota = ConnectionQuota::new(0, 3);
        let permits: Vec<_> = (0..3).map(|number| quota.permit(address(number)).ok().unwrap()).collect();
        assert_eq!(quota.permit(address(9)).err(), Some(QuotaExceeded::All));
        drop(permits);
        assert!(quota.permit(address(9)).is_ok());
    }

    #[test]
    fn many_light_clients_and_some_heavy_ones_are_counted_apart() {
        let quota = ConnectionQuota::new(1000, 0);
        let mut permits = Vec::new();
        for heavy in 0..16 {
            permits.extend(std::iter::from_fn(|| quota.permit(address(heavy)).ok()));
        }
        let light = (0..200_000).map(|light| quota.permit(address(1_000_000 + light)));
        let (permitted, refused): (Vec<_>, Vec<_>) = light.partition(Result::is_ok);
        permits.extend(permitted.into_iter().flatten());
        // One in a million light clients shares both of its cells with heavy ones: 0.2 are expected here. Six or more
        // occur in less than one of ten million runs.
        assert!(refused.len() < 6, "{} were refused", refused.len());
        assert!((0..16).all(|heavy| quota.permit(address(heavy)).is_err()));
    }
}
