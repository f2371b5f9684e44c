use std::sync::{Arc, OnceLock, Weak};

use async_trait::async_trait;
use futures_util::StreamExt as _;
use tokio_postgres::{AsyncMessage, Client};
use tokio_util::task::AbortOnDropHandle;

use super::hearing::{self, Ears, Source, answer, until_probe};
use super::{Bus, Change, Listener, LocalBus};
use crate::cluster::node::{NodeName, Notification};
use crate::metrics::Metrics;
use crate::postgres::{Messages, Postgres};
use crate::telemetry::cause::explain;

/// A bus over `LISTEN` and `NOTIFY` of the Postgres that is the store. It only receives. The statements of
/// `PostgresStore` send the notifications, in the transaction of the change, so this bus
/// must be used together with that store.
pub struct PostgresBus {
    here: Arc<LocalBus>,
    node: NodeName,
    postgres: Postgres,
    metrics: Arc<Metrics>,
    hearing: OnceLock<AbortOnDropHandle<()>>,
}

impl PostgresBus {
    /// Makes a bus for this node. Its store must be set up to send notifications.
    #[must_use]
    pub fn new(postgres: Postgres, node: NodeName, metrics: Arc<Metrics>) -> Self {
        Self { here: Arc::default(), node, postgres, metrics, hearing: OnceLock::new() }
    }
}

impl Bus for PostgresBus {
    fn listen(&self, listener: Weak<dyn Listener>) {
        let source = Channel { postgres: self.postgres.clone(), name: self.node.channel() };
        self.hearing.get_or_init(|| hearing::hear(&self.here, listener, &self.metrics, source));
    }

    /// Passes changes that concern this node to its listener. Postgres has sent the notification of any other change
    /// with its transaction.
    fn announce(&self, change: &Change) {
        if change.waits.as_ref().is_some_and(|waits| waits.node == self.node) {
            self.here.announce(change);
        }
    }

    /// Does nothing, because the statement that attached the connection has sent the notification.
    fn supersede(&self, _before: &NodeName, _hint: Notification) {}
}

/// The channel of this node.
struct Channel {
    postgres: Postgres,
    name: String,
}

#[async_trait]
impl Source for Channel {
    const SETTING: &'static str = "database_url";

    async fn hear(&mut self, ears: &Ears) -> String {
        let (client, messages) = match answer(self.postgres.connect()).await {
            Ok(connection) => connection,
            Err(why) => return self.postgres.without_credentials(&why),
        };
        let why = tokio::select! {
            why = pass_on(messages, ears) => why,
            why = keep(&client, &self.name, ears) => why,
        };
        self.postgres.without_credentials(&why)
    }
}

/// Passes notifications on until the connection ends. Returns why it ended. Polling `messages` also drives the
/// connection.
async fn pass_on(mut messages: Messages, ears: &Ears) -> String {
    loop {
        match messages.next().await {
            Some(Ok(AsyncMessage::Notification(notification))) => ears.heard(notification.payload()),
            Some(Ok(_)) => {}
            Some(Err(error)) => return explain(&error),
            None => return "it closed the connection".to_owned(),
        }
    }
}

/// Subscribes to the channel, and probes it until the connection fails. Returns why it failed.
async fn keep(client: &Client, channel: &str, ears: &Ears) -> String {
    if let Err(why) = answer(client.batch_execute(&format!("LISTEN {channel}"))).await {
        return why;
    }
    loop {
        let notify =
            |text: String| async move { answer(client.batch_execute(&format!("NOTIFY {channel}, '{text}'"))).await };
        ears.probe(notify).await;
        // A failed probe alone does not end the connection: if the server answers, notifications from other nodes may
        // still arrive.
        if let Err(why) = answer(client.batch_execute("")).await {
            return why;
        }
        until_probe().await;
    }
}
