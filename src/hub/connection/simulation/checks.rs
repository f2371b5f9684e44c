//! The checks of a run: after each step, when nothing is in transit, and at the end.

use super::received::{ReceivedMessages, events, frames, poll_response};
use super::run::{Causes, Run, SentMessage};
use super::{ConnectionKind, Dropped};
use crate::hub::connection::Phase;
use crate::hub::connection::write::WRITE_SECONDS;
use crate::metrics::CloseReason;

impl Run<'_> {
    /// Checks what must hold after every step.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.acks_in_all > u32::from(self.may_have_ack()) {
            return Err(format!("{} acknowledgements were stored, of {:?}", self.acks_in_all, self.sent_messages));
        }
        let unsent_for = self.unsent_since.map(|since| self.now.0 - since.0);
        let is_too_slow = unsent_for >= Some(10 * WRITE_SECONDS);
        if self.ended_by == Some(CloseReason::Slow) && !is_too_slow {
            return Err(format!("it was closed as slow, and had had unsent bytes for {unsent_for:?} ticks"));
        }
        if self.record.is_some() && is_too_slow && self.dropped != Dropped::Ends {
            return Err("it was not closed as slow".to_owned());
        }
        let has_delivered_end = self.expected.iter().any(|status| !matches!(*status, "pending" | "scanned"));
        let has_answered = self.kind == ConnectionKind::Poll && !self.expected.is_empty();
        let Causes { browser, network, server, time } = self.causes;
        let may_have_stopped = has_delivered_end || has_answered || browser || network || server || time;
        if !self.is_waiting() && !may_have_stopped {
            return Err(format!("it stopped waiting for no reason, after {:?}", self.expected));
        }
        Ok(())
    }

    /// Checks what must hold when nothing is in transit.
    pub(super) fn check_delivered(&self) -> Result<(), String> {
        let socket = self.socket.0.borrow();
        if self.record.is_some() && !socket.unread.is_empty() {
            return Err(format!("{} bytes are unread", socket.unread.len()));
        }
        let has_failed = socket.failure.is_some() || socket.has_hung_up;
        drop(socket);
        if self.record.as_ref().is_some_and(|record| record.is_waiting() && record.rare.is_some()) {
            return Err("a waiting connection without unsent bytes keeps memory for them".to_owned());
        }
        let delivered = self.delivered()?;
        let is_in_order = delivered.statuses.len() <= self.expected.len()
            && delivered.statuses.iter().zip(&self.expected).all(|(delivered, expected)| delivered == expected);
        // Bytes that were written when the connection failed may be lost. The browser may also have accepted nothing
        // for too long.
        let is_complete = delivered.statuses.len() == self.expected.len();
        let may_lack = has_failed || self.record.is_none() && (self.causes.time || self.causes.browser);
        if !is_in_order || !is_complete && !may_lack {
            return Err(format!("delivered {:?} in place of {:?}", delivered.statuses, self.expected));
        }
        let must_have_ack = self.may_have_ack() && !has_failed && !self.has_time_passed;
        if must_have_ack && self.acks_in_all == 0 {
            return Err(format!("no acknowledgement was stored, of {:?}", self.sent_messages));
        }
        if self.acks_in_all > 0 && self.record.as_ref().is_some_and(|it| matches!(it.phase, Phase::StoringAck { .. })) {
            return Err("an acknowledgement was not stored".to_owned());
        }
        if self.codes_expected > 0
            && delivered.codes == 0
            && self.is_waiting()
            && self.expected == ["pending"]
            && !self.had_unsent
        {
            return Err("a code was not shown".to_owned());
        }
        Ok(())
    }

    /// Checks that the browser received the session's end or close code 4408, unless something else ended the
    /// connection.
    pub(super) fn check_end(&self) -> Result<(), String> {
        let delivered = self.delivered()?;
        let has_end = delivered.statuses.last().is_some_and(|status| !matches!(&**status, "pending" | "scanned"));
        let Causes { browser, network, server, .. } = self.causes;
        let is_of_use = matches!(self.kind, ConnectionKind::Plain | ConnectionKind::Acknowledging);
        if is_of_use && !has_end && delivered.close_code != Some(4408) && !browser && !network && !server {
            return Err(format!(
                "the last delivered status is {:?}, and a Close {:?}",
                delivered.statuses, delivered.close_code
            ));
        }
        Ok(())
    }

    /// Returns whether the browser has acknowledged its token with a message that began to arrive after the token had
    /// been written whole.
    fn may_have_ack(&self) -> bool {
        let socket = self.socket.0.borrow();
        let Some(arrived) = socket.arrived_before_token.filter(|_| self.expected.contains(&"confirmed")) else {
            return false;
        };
        let is_ack = |sent: SentMessage| sent == SentMessage::Ack && self.kind == ConnectionKind::Acknowledging;
        let is_close = |sent: SentMessage| sent == SentMessage::Close(1000) && self.kind == ConnectionKind::Plain;
        let last = self.sent_messages.iter().position(|(_, sent)| sent.is_last()).map_or(usize::MAX, |index| index + 1);
        self.sent_messages.iter().take(last).any(|(at, sent)| *at >= arrived && (is_ack(*sent) || is_close(*sent)))
    }

    pub(super) fn delivered(&self) -> Result<ReceivedMessages, String> {
        let socket = self.socket.0.borrow();
        match self.kind {
            ConnectionKind::Plain | ConnectionKind::Acknowledging => {
                frames(socket.written.get(1..).unwrap_or_default())
            }
            ConnectionKind::Events => events(socket.written.get(1..).unwrap_or_default()),
            ConnectionKind::Poll => poll_response(&socket.written),
        }
    }
}
