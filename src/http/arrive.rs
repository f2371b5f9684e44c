//! The arrival of a connection of any kind, in four steps: count the call, count the connection, register it in the
//! hub, read the session's row. A refused request therefore writes nothing, and a change that commits between the last
//! two steps is kept for the connection instead of missed.

use std::net::IpAddr;
use std::sync::Arc;

use tokio_util::task::TaskTracker;

use super::layers::limit::{BorrowedPermit, ClientLimits, SharedPermit};
use super::problem::ApiError;
use crate::hub::{Hub, Registration};
use crate::limits::Call;
use crate::login::{AttachedSession, LoginError, Logins};
use crate::session::{Session, SessionKey, Timestamp};

/// Lets connections arrive.
pub(crate) struct Arrivals {
    pub(super) hub: Arc<Hub>,
    pub(super) logins: Arc<Logins>,
    pub(super) limits: Arc<ClientLimits>,
    /// Tasks that wait for hyper to return the connection of an upgrade that it has answered.
    pub(super) upgrades: TaskTracker,
}

/// The client of a connection that arrives.
#[derive(Clone, Copy)]
pub(crate) struct Arriving<'a> {
    /// Key of the session that it waits for.
    pub(crate) key: SessionKey,
    /// Address of the client.
    pub(crate) address: IpAddr,
    /// Kind of the call that is counted, or `None` if it has been counted.
    pub(crate) call: Option<Call>,
    /// Permit of the TCP connection.
    pub(crate) permit: &'a SharedPermit,
}

/// A connection that is ready to be opened: its registration, its session's row, and its permit.
pub(crate) struct Arrived {
    pub(crate) registration: Registration,
    pub(crate) found: AttachedSession,
    pub(crate) permit: BorrowedPermit,
}

/// The outcome of [`Arrivals::arrive_if`].
pub(crate) enum Admitted {
    /// The browser waits for a change of its session.
    Waits(Box<Arrived>),
    /// The request is answered at once, with the session as of the given time.
    Immediate(Box<(Session, Timestamp)>),
}

impl Arrivals {
    /// Does the steps before the row is read: counts the call and the connection, and registers the connection.
    ///
    /// # Errors
    /// Returns an error if the client exceeds a limit, or the server is stopping. The permit then returns to the TCP
    /// connection.
    pub(crate) fn register(&self, arriving: Arriving<'_>) -> Result<(Registration, BorrowedPermit), ApiError> {
        let Arriving { key, address, call, permit } = arriving;
        if let Some(call) = call {
            self.limits.admit(call, address)?;
        }
        let permit = self.limits.borrow_permit(permit, address)?;
        Ok((self.hub.register(key)?, permit))
    }

    /// Registers a connection, and reads its session.
    ///
    /// # Errors
    /// Returns the errors of [`Arrivals::register`], and an error if there is no such session or the store fails.
    pub(crate) async fn arrive(&self, arriving: Arriving<'_>) -> Result<Arrived, ApiError> {
        let (registration, permit) = self.register(arriving)?;
        let mut found = self.logins.attach(&[arriving.key]).await;
        let found = found.remove(&arriving.key).ok_or(LoginError::NotFound)?.map_err(LoginError::from)?;
        Ok(Arrived { registration, found, permit })
    }

    /// Registers a connection as [`Arrivals::arrive`] does, if its session `is_awaited`. Otherwise the request is
    /// answered at once, and supersedes no connection, except one at another node if the session changes between the
    /// two reads.
    ///
    /// # Errors
    /// Returns the errors of [`Arrivals::arrive`].
    pub(crate) async fn arrive_if(
        &self,
        mut arriving: Arriving<'_>,
        is_awaited: impl Fn(&Session, Timestamp) -> bool,
    ) -> Result<Admitted, ApiError> {
        self.hub.wait_for_ack(arriving.key).await;
        // The row is read first, because with several nodes `attach` writes it and supersedes a connection at another
        // node.
        if self.logins.are_shared() {
            if let Some(call) = arriving.call.take() {
                self.limits.admit(call, arriving.address)?;
            }
            let (session, now) = self.logins.current(arriving.key).await?;
            if !is_awaited(&session, now) {
                return Ok(Admitted::Immediate(Box::new((session, now))));
            }
        }
        let arrived = self.arrive(arriving).await?;
        let (session, read_at) = (&arrived.found.session, arrived.found.read_at);
        if is_awaited(session, read_at) {
            return Ok(Admitted::Waits(Box::new(arrived)));
        }
        Ok(Admitted::Immediate(Box::new((session.clone(), read_at))))
    }
}
